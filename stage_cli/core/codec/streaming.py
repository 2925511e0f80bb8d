"""Long audio in pieces: codes and audio as of the whole, in memory that does not grow with its length.

Nothing is cross-faded: each codec's networks remember, or look back at, all that their outputs depend on, so pieces
differ from the whole by float rounding alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from stage_cli.core.codec.streaming_layers import Chain, StreamingLayer, Pointwise, join

if TYPE_CHECKING:
    from stage_cli.core.codec.codec import Codec

# Frames that go through the network at once: 2 s at 50 Hz.
PIECE_FRAMES = 100


class StreamingEncoder:
    """Audio that arrives bit by bit to codes.

    The codes depend on the audio and on `piece_frames`, not on how the audio was cut for `push`.

    Args:
        codec: weights; not changed.
        piece_frames: T of the pieces that go through the network; memory is proportional to it.

    Raises:
        ValueError: `piece_frames` is under 1.
    """

    def __init__(self, codec: Codec, *, piece_frames: int = PIECE_FRAMES) -> None:
        self._codec = codec
        self._pieces = _encoder_pieces(codec, piece_frames)

    @torch.no_grad()
    def push(self, audio: Tensor) -> Tensor:
        """Take `[B, channels, n]`, n ≥ 0; return the codes that are ready, `[B, K, t]`, t ≥ 0.

        Raises:
            ValueError: the audio's shape or type is wrong, or the stream is finished.
        """
        self._codec.check_audio(audio)
        return self._codec.quantizer.encode(self._pieces.push(audio))

    @torch.no_grad()
    def finish(self) -> Tensor:
        """End the audio; return the last codes, `[B, K, t]`.

        Raises:
            ValueError: nothing was ever pushed, or the stream is finished.
        """
        return self._codec.quantizer.encode(self._pieces.finish())


class StreamingDecoder:
    """Codes that arrive bit by bit to audio; the arguments are those of `StreamingEncoder`."""

    def __init__(self, codec: Codec, *, piece_frames: int = PIECE_FRAMES) -> None:
        self._codec = codec
        self._pieces = _decoder_pieces(codec, piece_frames)

    @torch.no_grad()
    def push(self, codes: Tensor) -> Tensor:
        """Take `[B, K, t]`, t ≥ 0; return the audio that is ready, `[B, channels, n]`, n ≥ 0.

        Raises:
            ValueError: the codes' shape, type or range is wrong, or the stream is finished.
        """
        self._codec.check_codes(codes)
        return self._pieces.push(codes)

    @torch.no_grad()
    def finish(self) -> Tensor:
        """End the codes; return the last audio, `[B, channels, n]`.

        Raises:
            ValueError: nothing was ever pushed, or the stream is finished.
        """
        return self._pieces.finish()


def stream_latents(codec: Codec, audio: Tensor, *, piece_frames: int = PIECE_FRAMES) -> Tensor:
    """Return the latents `[B, D, T]` of `audio [B, channels, samples]`, computed in pieces."""
    return _all(_encoder_pieces(codec, piece_frames), audio)


def stream_decode(codec: Codec, codes: Tensor, *, piece_frames: int = PIECE_FRAMES) -> Tensor:
    """Return the audio `[B, channels, T · hop]` of `codes [B, K, T]`, computed in pieces."""
    return _all(_decoder_pieces(codec, piece_frames), codes)


class _Pieces:
    """Cuts what arrives into pieces of one length, so that results do not depend on how it arrives."""

    def __init__(self, network: StreamingLayer, length: int, no_output: Tensor) -> None:
        if length < 1:
            raise ValueError("piece_frames must be at least 1")
        self._network = network
        self._length = length
        self._no_output = no_output
        self._waiting: Tensor | None = None
        self._finished = False

    def push(self, x: Tensor) -> Tensor:
        if self._finished:
            raise ValueError("the stream is finished: make a new one for the next audio")
        x = x if self._waiting is None else join(self._waiting, x)
        ready = x.shape[-1] // self._length * self._length
        self._waiting = x[..., ready:].clone()
        return self._concatenate(
            x, [self._network.step(piece, last=False) for piece in x[..., :ready].split(self._length, dim=-1)]
        )

    def finish(self) -> Tensor:
        if self._finished or self._waiting is None:
            raise ValueError("the stream is finished" if self._finished else "nothing was pushed to the stream")
        self._finished = True
        return self._concatenate(self._waiting, [self._network.step(self._waiting, last=True)])

    def _concatenate(self, x: Tensor, outputs: list[Tensor]) -> Tensor:
        outputs = [output for output in outputs if output.shape[-1]]
        if outputs:
            return torch.cat(outputs, dim=-1)
        return self._no_output.expand(x.shape[0], -1, -1)


def _encoder_pieces(codec: Codec, piece_frames: int) -> _Pieces:
    no_output = codec.quantizer.codebooks.new_zeros(1, codec.config.dimension, 0)
    return _Pieces(codec.encoder_stream(), piece_frames * codec.config.hop_length, no_output)


def _decoder_pieces(codec: Codec, piece_frames: int) -> _Pieces:
    no_output = codec.quantizer.codebooks.new_zeros(1, codec.config.channels, 0)
    return _Pieces(Chain([Pointwise(codec.quantizer.decode), codec.decoder_stream()]), piece_frames, no_output)


def _all(pieces: _Pieces, x: Tensor) -> Tensor:
    return torch.cat([pieces.push(x), pieces.finish()], dim=-1)
