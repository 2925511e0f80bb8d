"""Where published EnCodec checkpoints keep each tensor of ours. Pure: knows no torch, reads no file.

EnCodec: audio to codes and back (arXiv 2210.13438).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, cast

import torch
from torch import Tensor

from stage_cli.core.codec.codec import Codec
from stage_cli.core.codec.config import CodecConfig
from stage_cli.core.codec.quantizer import ResidualVectorQuantizer
from stage_cli.core.codec.seanet import SeanetDecoder, SeanetEncoder, fold
from stage_cli.core.codec.streaming import StreamingLayer, decoder_chain, encoder_chain
from stage_cli.errors import WeightsError

Style = Literal["transformers", "audiocraft"]

# State of the codebooks' training that published files carry and inference does not need.
IGNORABLE_SUFFIXES = (".embed_avg", ".cluster_size", ".inited")


@dataclass(frozen=True)
class PublishedTensor:
    """One tensor of ours in a published checkpoint.

    Args:
        names: the published tensors; more than one are to be stacked along a new first dimension.
        weight_norm: the tensor may be stored as a length and a direction (`split_names`), to be folded.
    """

    names: tuple[str, ...]
    weight_norm: bool = False

    @property
    def split_names(self) -> tuple[tuple[str, str], ...]:
        """The spellings of the (length, direction) pair of a weight-normed convolution: old torch, then new."""
        if not self.weight_norm:
            return ()
        module, _, tensor = self.names[0].rpartition(".")
        parametrization = f"{module}.parametrizations.{tensor}"
        return (
            (f"{self.names[0]}_g", f"{self.names[0]}_v"),
            (f"{parametrization}.original0", f"{parametrization}.original1"),
        )


def published_names(config: CodecConfig, style: Style) -> dict[str, PublishedTensor]:
    """Return where each tensor of `Encodec.state_dict()` is found in a published checkpoint.

    Args:
        config: decides how many layers there are.
        style: "transformers" for `model.safetensors`, "audiocraft" for `compression_state_dict.bin`'s `best_state`.
    """
    names: dict[str, PublishedTensor] = {}
    for coder, layers in (("encoder", _encoder_layers(config)), ("decoder", _decoder_layers(config))):
        prefix = f"{coder}.layers" if style == "transformers" else f"{coder}.model"
        for place, (kind, ours) in layers:
            if kind == "lstm":
                for tensor in _lstm_tensors(config):
                    names[f"{coder}.{ours}.{tensor}"] = PublishedTensor((f"{prefix}.{place}.lstm.{tensor}",))
                continue
            wrapped = {"transformers": "conv", "audiocraft": f"{kind}.{kind}"}[style]
            theirs = f"{prefix}.{place}.{wrapped}"
            names[f"{coder}.{ours}.weight"] = PublishedTensor((f"{theirs}.weight",), weight_norm=True)
            names[f"{coder}.{ours}.bias"] = PublishedTensor((f"{theirs}.bias",))
    codebook = {"transformers": "layers.{}.codebook.embed", "audiocraft": "vq.layers.{}._codebook.embed"}[style]
    names["quantizer.codebooks"] = PublishedTensor(
        tuple(f"quantizer.{codebook.format(k)}" for k in range(config.codebooks))
    )
    return names


# A layer: its kind ("conv", "convtr", "lstm") and our name. Published files number them in one list, in which each
# activation and each residual block takes one place; inside a block the list is [ELU, dilated, ELU, pointwise].
_Layer = tuple[str, str]


def _encoder_layers(config: CodecConfig) -> Iterator[tuple[str, _Layer]]:
    yield "0", ("conv", "input")
    place = 1
    for stage in range(len(config.ratios)):
        for layer in range(config.residual_layers):
            yield from _block_layers(config, place, f"stages.{stage}.residuals.{layer}")
            place += 1
        yield str(place + 1), ("conv", f"stages.{stage}.downsample")
        place += 2
    if config.lstm_layers:
        yield str(place), ("lstm", "lstm")
        place += 1
    yield str(place + 1), ("conv", "output")


def _decoder_layers(config: CodecConfig) -> Iterator[tuple[str, _Layer]]:
    yield "0", ("conv", "input")
    place = 1
    if config.lstm_layers:
        yield str(place), ("lstm", "lstm")
        place += 1
    for stage in range(len(config.ratios)):
        yield str(place + 1), ("convtr", f"stages.{stage}.upsample")
        place += 2
        for layer in range(config.residual_layers):
            yield from _block_layers(config, place, f"stages.{stage}.residuals.{layer}")
            place += 1
    yield str(place + 1), ("conv", "output")


def _block_layers(config: CodecConfig, place: int, ours: str) -> Iterator[tuple[str, _Layer]]:
    yield f"{place}.block.1", ("conv", f"{ours}.dilated")
    yield f"{place}.block.3", ("conv", f"{ours}.pointwise")
    if config.conv_shortcut:
        yield f"{place}.shortcut", ("conv", f"{ours}.shortcut")


def _lstm_tensors(config: CodecConfig) -> Iterator[str]:
    for layer in range(config.lstm_layers):
        for tensor in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
            yield f"{tensor}_l{layer}"


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
