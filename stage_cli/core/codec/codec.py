"""What every codec does, whatever its networks are: audio to codes and back, whole or in pieces."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from stage_cli.core.codec import streaming
from stage_cli.core.codec.config import CodecShape
from stage_cli.core.codec.quantizer import QuantizerOutput, ResidualVectorQuantizer
from stage_cli.core.codec.streaming import StreamingLayer


class Codec(nn.Module):
    """A neural codec: encoder, residual vector quantizer, decoder. Subclasses make the three, and say how they stream.

    Attributes:
        encoder: `[B, channels, samples]` → `[B, D, T]`.
        quantizer: latents ↔ codes.
        decoder: `[B, D, T]` → `[B, channels, T · hop]`.
    """

    # Longer audio than this many seconds goes through in pieces, so that memory stays bounded. On a CPU pieces are also
    # faster than the whole, by about a fifth: their activations fit its cache.
    WHOLE_SECONDS: ClassVar[float] = 20.0
    WHOLE_SECONDS_ON_CPU: ClassVar[float] = 2.0

    encoder: nn.Module
    quantizer: ResidualVectorQuantizer
    decoder: nn.Module

    def __init__(self, config: CodecShape) -> None:
        super().__init__()
        self.config = config

    def encoder_stream(self) -> StreamingLayer:
        """Return the encoder with a memory, for audio in pieces."""
        raise NotImplementedError

    def decoder_stream(self) -> StreamingLayer:
        """Return the decoder with a memory, for latents in pieces."""
        raise NotImplementedError

    @torch.no_grad()
    def encode(self, audio: Tensor, *, whole_seconds: float | None = None) -> Tensor:
        """Return the codes of `audio`: `[B, channels, samples]` → `[B, K, T]` int64, T = ceil(samples / hop).

        Args:
            audio: at the codec's sample rate, about -1 to 1, of any length.
            whole_seconds: longer audio is encoded in pieces, with the same result up to rounding; None lets the
                device decide.

        Raises:
            ValueError: the audio has another shape or type.
        """
        return self.quantizer.encode(self.latents(audio, whole_seconds=whole_seconds))

    @torch.no_grad()
    def latents(self, audio: Tensor, *, whole_seconds: float | None = None) -> Tensor:
        """Return what the encoder writes, before quantization: `[B, channels, samples]` → `[B, D, T]`.

        Raises:
            ValueError: the audio has another shape or type.
        """
        self.check_audio(audio)
        if audio.shape[-1] == 0 or audio.shape[0] == 0:
            return audio.new_zeros(audio.shape[0], self.config.dimension, self.config.frames(audio.shape[-1]))
        if audio.shape[-1] <= self._whole_seconds(whole_seconds) * self.config.sample_rate:
            return self.encoder(audio)
        return streaming.stream_latents(self, audio)

    @torch.no_grad()
    def decode(self, codes: Tensor, *, whole_seconds: float | None = None) -> Tensor:
        """Return the audio of `codes`: `[B, K, T]` → `[B, channels, T · hop]`, about -1 to 1.

        Args:
            codes: integers from 0 to codebook_size - 1.
            whole_seconds: longer audio is decoded in pieces, with the same result up to rounding; None lets the
                device decide.

        Raises:
            ValueError: the codes have another shape, type or range.
        """
        self.check_codes(codes)
        if codes.shape[-1] == 0 or codes.shape[0] == 0:
            samples = codes.shape[-1] * self.config.hop_length
            return self.quantizer.codebooks.new_zeros(codes.shape[0], self.config.channels, samples)
        if codes.shape[-1] <= self._whole_seconds(whole_seconds) * self.config.frame_rate:
            return self.decoder(self.quantizer.decode(codes))
        return streaming.stream_decode(self, codes)

    def forward(self, audio: Tensor, *, generator: torch.Generator | None = None) -> tuple[Tensor, QuantizerOutput]:
        """Encode, quantize and decode for training.

        Shapes: audio `[B, channels, samples]` → reconstruction of the same shape, and the quantizer's output.
        Random choices (see `ResidualVectorQuantizer.forward`) come from `generator`.

        Raises:
            ValueError: the audio has another shape or type, or no samples.
        """
        self.check_audio(audio)
        if audio.numel() == 0:
            raise ValueError("training needs audio of at least one sample")
        quantized = self.quantizer(self.encoder(audio), generator=generator)
        return self.decoder(quantized.quantized)[..., : audio.shape[-1]], quantized

    def check_audio(self, audio: Tensor) -> None:
        """Raise ValueError unless `audio` is `[B, channels, samples]`, of the weights' type."""
        if audio.ndim != 3 or audio.shape[1] != self.config.channels:
            raise ValueError(f"audio must be [B, {self.config.channels}, samples], not {list(audio.shape)}")
        dtype = next(self.encoder.parameters()).dtype
        if audio.dtype != dtype:
            raise ValueError(f"audio must be {dtype}, as the codec's weights are, not {audio.dtype}")

    def check_codes(self, codes: Tensor) -> None:
        """Raise ValueError unless `codes` are integers `[B, K, T]` from 0 to codebook_size - 1."""
        if codes.ndim != 3 or codes.shape[1] != self.config.codebooks:
            raise ValueError(f"codes must be [B, {self.config.codebooks}, T], not {list(codes.shape)}")
        if codes.dtype not in (torch.int64, torch.int32):
            raise ValueError(f"codes must be int64 or int32, not {codes.dtype}")
        if codes.numel() and not 0 <= int(codes.min()) <= int(codes.max()) < self.config.codebook_size:
            raise ValueError(
                f"codes must be 0 to {self.config.codebook_size - 1}, not {int(codes.min())} to {int(codes.max())}"
            )

    def _whole_seconds(self, given: float | None) -> float:
        if given is not None:
            return given
        return self.WHOLE_SECONDS_ON_CPU if self.quantizer.codebooks.device.type == "cpu" else self.WHOLE_SECONDS
