"""EnCodec: audio to codes and back (arXiv 2210.13438)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor

from stage_cli.core.codec.codec import Codec
from stage_cli.core.codec.config import CodecConfig
from stage_cli.core.codec.names import Style, published_names
from stage_cli.core.codec.quantizer import ResidualVectorQuantizer
from stage_cli.core.codec.seanet import SeanetDecoder, SeanetEncoder, fold
from stage_cli.core.codec.streaming_layers import StreamingLayer, decoder_chain, encoder_chain
from stage_cli.errors import WeightsError


class Encodec(Codec):
    """A neural codec: encoder, residual vector quantizer, decoder.

    Args:
        config: its shape.
    """

    def __init__(self, config: CodecConfig) -> None:
        super().__init__(config)
        self.encoder = SeanetEncoder(config)
        self.quantizer = ResidualVectorQuantizer(config)
        self.decoder = SeanetDecoder(config)

    def encoder_stream(self) -> StreamingLayer:
        """Return the encoder with a memory, for audio in pieces."""
        return encoder_chain(cast("SeanetEncoder", self.encoder))

    def decoder_stream(self) -> StreamingLayer:
        """Return the decoder with a memory, for latents in pieces."""
        return decoder_chain(cast("SeanetDecoder", self.decoder))


def state_from_published(tensors: Mapping[str, Tensor], config: CodecConfig, style: Style) -> dict[str, Tensor]:
    """Return `Encodec`'s state dict from a published checkpoint's tensors, weight normalisation folded.

    Raises:
        WeightsError: a tensor is absent; the message names it.
    """
    state = {}
    for ours, published in published_names(config, style).items():
        pair = next(((g, v) for g, v in published.split_names if g in tensors and v in tensors), None)
        if pair is not None:
            state[ours] = fold(tensors[pair[0]], tensors[pair[1]])
            continue
        for name in published.names:
            if name not in tensors:
                raise WeightsError(
                    f"The codec's checkpoint has no tensor '{name}'",
                    why=f"an EnCodec in {style}'s layout was expected",
                    next_step="check that the file is whole and is the one that its config.json describes",
                )
        found = [tensors[name] for name in published.names]
        state[ours] = torch.stack(found) if ours == "quantizer.codebooks" else found[0]
    return state
