"""Writing the directory of a model or an adapter: `config.json` and the tensors, each to a temporary name first.

Write a trained model small: int8 weights with a scale a row, and a codec that several models share.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from stage_cli.core.codec.config import AnyCodecConfig, SpectralConfig
from stage_cli.core.files import whole_file
from stage_cli.core.model_config import StageConfig
from stage_cli.core.weights.adapter_config import ADAPTER_FILE, AdapterConfig
from stage_cli.core.weights.checkpoint import CONFIG_FILE, MODEL_FILE
from stage_cli.core.weights.formats import TensorSource
from stage_cli.core.weights.own_format import codec_config_values
from stage_cli.core.weights.tensors import SCALE_SUFFIX, check_finite
from stage_cli.errors import WeightsError


def save_directory(directory: Path, config: StageConfig, tensors: Iterable[tuple[str, Tensor]]) -> None:
    """Write a model in our own format; existing files of that name are replaced when the new ones are whole.

    Args:
        directory: made if it does not exist.
        config: becomes `config.json`.
        tensors: by our names, in the precision in which they are to be stored.

    Raises:
        WeightsError: it cannot be written.
    """
    save_tensors(directory, config.to_dict(), tensors)


def save_adapter_directory(directory: Path, config: AdapterConfig, tensors: Iterable[tuple[str, Tensor]]) -> None:
    """Write an adapter, as `save_directory` does a model.

    Raises:
        WeightsError: it cannot be written.
    """
    save_tensors(directory, config.to_dict(), tensors, file=ADAPTER_FILE)


def save_codec_directory(
    directory: Path, config: AnyCodecConfig, licence: str, tensors: Iterable[tuple[str, Tensor]]
) -> None:
    """Write a codec alone, its tensors named `codec.…`, as `save_directory` does a model.

    Raises:
        WeightsError: it cannot be written.
    """
    save_tensors(directory, codec_config_values(config, licence), tensors)


def save_tensors(
    directory: Path, values: Mapping[str, Any], tensors: Iterable[tuple[str, Tensor]], *, file: str = MODEL_FILE
) -> None:
    """Write a directory of any kind of ours; existing files of that name are replaced when the new ones are whole.

    Args:
        directory: made if it does not exist.
        values: become `config.json`.
        tensors: in the precision in which they are to be stored.
        file: name of the tensors' file.

    Raises:
        WeightsError: it cannot be written.
    """
    state = {name: _on_its_own(tensor.detach().cpu()) for name, tensor in tensors}
    try:
        with whole_file(directory / file) as part:
            part.touch()
            mode = part.stat().st_mode  # what the user's files have; safetensors keeps its own to the owner
            save_file(state, part, metadata={"format": "pt"})
            part.chmod(mode)
        with whole_file(directory / CONFIG_FILE) as part:
            part.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    except (OSError, SafetensorError) as error:
        raise WeightsError(f"Cannot write the model to {directory}", why=str(error)) from None


def save_text(path: Path, text: str) -> None:
    """Write a small file beside a model's.

    Raises:
        WeightsError: it cannot be written.
    """
    try:
        with whole_file(path) as part:
            part.write_text(text, encoding="utf-8")
    except OSError as error:
        raise WeightsError(f"Cannot write {path}", why=str(error)) from None


def _on_its_own(tensor: Tensor) -> Tensor:
    """Copy a tensor that is only a part or a mapping of something larger; others are taken as they are."""
    whole = tensor.is_contiguous() and tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()
    return tensor if whole else tensor.contiguous().clone()


Packing = Literal["float16", "int8", "int8-decoder"]
"""How matrices are stored; "int8-decoder": a codec's decoder as int8, all that tokens depend on as float16."""

DECODER = "codec.decoder."
LOG_MAGNITUDE_BIAS = f"{DECODER}output.bias"
"""Of a spectral codec's decoder: its first numbers, one a bin, are added to the logarithms of all magnitudes."""


def pack_model(
    directory: Path, config: StageConfig, sources: tuple[TensorSource, ...], *, packing: Packing, codec: str
) -> None:
    """Write a model without its codec.

    Args:
        directory: to make.
        config: the model's.
        sources: of its tensors.
        packing: how matrices are stored; vectors are always float16.
        codec: the codec's directory as seen from the model's, such as "../codec".

    Raises:
        WeightsError: weights are broken, or it cannot be written.
    """
    tensors = (pair for source in sources for pair in source.tensors() if not pair[0].startswith("codec."))
    save_tensors(directory, {**config.to_dict(), "codec": codec}, _packed(tensors, packing))


def pack_codec(
    directory: Path, config: StageConfig, sources: tuple[TensorSource, ...], *, packing: Packing, gain: float = 0.0
) -> None:
    """Write the codec of a model alone; its codebooks stay float16.

    Args:
        directory: to make.
        config: the model's.
        sources: of its tensors.
        packing: how matrices are stored.
        gain: dB by which what it decodes is made louder; of a spectral codec, whose decoder writes log magnitudes. Its
            tones, which it was taught as they are, stay as they are.

    Raises:
        WeightsError: weights are broken, it is another kind of codec, or it cannot be written.
    """
    tensors = (pair for source in sources for pair in source.tensors() if pair[0].startswith("codec."))
    if gain:
        if not isinstance(config.codec, SpectralConfig):
            raise WeightsError("Only a spectral codec can be packed with a gain")
        bins = config.codec.bins
        tensors = (_louder(name, tensor, gain, bins) for name, tensor in tensors)
    values: Mapping[str, Any] = codec_config_values(config.codec, config.licence)
    save_tensors(directory, values, _packed(tensors, packing))


def quantize_rows(tensor: Tensor) -> tuple[Tensor, Tensor]:
    """Round a tensor `[…, rows, columns]` to int8, each row by its own scale: its largest absolute value is 127.

    Returns:
        int8 like the tensor, and float16 scales `[…, rows]`: the tensor is about their product.
    """
    scale = (tensor.float().abs().amax(dim=-1) / 127).half()
    # A row whose scale underflows is all zeros, nearly.
    rounded = (tensor.float() / scale.float().clamp(min=1e-8)[..., None]).round().clamp(-127, 127)
    return rounded.to(torch.int8), scale


def _louder(name: str, tensor: Tensor, gain: float, bins: int) -> tuple[str, Tensor]:
    if name != LOG_MAGNITUDE_BIAS:
        return name, tensor
    louder = tensor.clone()
    louder[:bins] += gain * math.log(10) / 20  # behind them are phases, and tones
    return name, louder


def _packed(tensors: Iterator[tuple[str, Tensor]], packing: Packing) -> Iterator[tuple[str, Tensor]]:
    for name, tensor in tensors:
        check_finite(name, tensor)
        is_matrix = tensor.ndim > 1 and not name.endswith("codebooks")
        rounds = packing == "int8" or (packing == "int8-decoder" and name.startswith(DECODER))
        if rounds and is_matrix and tensor.is_floating_point():
            rounded, scale = quantize_rows(tensor)
            yield name, rounded
            yield name + SCALE_SUFFIX, scale
            continue
        if not tensor.is_floating_point():
            yield name, tensor
            continue
        half = tensor.half()
        if not half.isfinite().all():
            raise WeightsError(f"{name} does not fit float16", why="its numbers are too large")
        yield name, half
