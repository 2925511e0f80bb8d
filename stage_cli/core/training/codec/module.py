"""The module that the engine trains: a codec and the losses of its reconstructions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from stage_cli.core.codec.codec import Codec
from stage_cli.core.codec.spectral import SpectralDecoder, SpectralCodec
from stage_cli.core.codec.tones import tone_levels
from stage_cli.core.training.codec.losses import spectral_losses, tone_loss
from stage_cli.core.training.config.codec import CodecTrainConfig


@dataclass(frozen=True)
class CodecInputs:
    """What one forward pass is made of.

    Attributes:
        audio: `[N, 1, samples]`.
        seed: of the latents that start codebooks and replace dead codes.
    """

    audio: Tensor
    seed: int


class CodecModule(nn.Module):
    """A codec in training.

    Args:
        codec: its weights; trained.
        config: weights of the losses, and when the quantizer joins.
    """

    steps_seen: Tensor

    def __init__(self, codec: Codec, config: CodecTrainConfig) -> None:
        super().__init__()
        self.codec = codec
        self.settings = config
        # A buffer: it belongs to the checkpoint.
        self.register_buffer("steps_seen", torch.zeros((), dtype=torch.int64))

    def forward(self, inputs: CodecInputs) -> dict[str, Tensor]:
        """Reconstruct and compare.

        Returns:
            "loss" with a gradient; detached "mel", "spectrum", "phase", "level", "pitch", "tones" (0 for a codec
            without), "commitment", and "codes_used" `[K]`: how many codes the batch used, in effect; 0 where the
            codebooks do not learn.
        """
        config, audio = self.settings, inputs.audio
        quantizing = not self.training or int(self.steps_seen) >= config.unquantized_steps
        commitment, used = audio.new_zeros(()), audio.new_zeros(self.codec.config.codebooks)
        if config.base:
            with torch.no_grad():
                vectors = self.codec.quantizer.decode(self.codec.quantizer.encode(self.codec.encoder(audio)))
        elif quantizing:
            generator = torch.Generator().manual_seed(inputs.seed)
            quantized = self.codec.quantizer(self.codec.encoder(audio), generator=generator)
            vectors, commitment, used = quantized.quantized, quantized.commitment_loss, quantized.perplexity
        else:
            # First the networks learn to carry audio at all; codebooks then start from latents that mean something.
            vectors = self.codec.encoder(audio)
        made, tones = self._decode(vectors, audio)
        if self.training:
            self.steps_seen += 1
        losses = spectral_losses(made[:, 0].float(), audio[:, 0].float(), self.codec.config.sample_rate)
        loss = (
            config.mel_weight * losses["mel"]
            + config.spectrum_weight * losses["spectrum"]
            + config.phase_weight * losses["phase"]
            + config.level_weight * losses["level"]
            + config.pitch_weight * losses["pitch"]
            + config.tone_weight * tones
            + config.commitment_weight * commitment
        )
        logged = {**losses, "tones": tones, "commitment": commitment, "codes_used": used}
        return {"loss": loss, **{name: value.detach() for name, value in logged.items()}}

    def _decode(self, vectors: Tensor, audio: Tensor) -> tuple[Tensor, Tensor]:
        """Return the reconstruction, as long as the audio, and the loss on the tones."""
        codec, samples = self.codec, audio.shape[-1]
        if not isinstance(codec, SpectralCodec) or not codec.shape.tones:
            return codec.decoder(vectors)[..., :samples], audio.new_zeros(())
        made, levels = cast("SpectralDecoder", codec.decoder).parts(vectors)
        whole = nn.functional.pad(audio[:, 0], (0, -samples % codec.shape.hop_length))
        return made[..., :samples], tone_loss(levels, tone_levels(whole, codec.shape))
