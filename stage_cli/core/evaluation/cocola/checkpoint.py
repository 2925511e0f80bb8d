"""Read a COCOLA checkpoint without running anything that is in it.

Lightning's `.ckpt` holds the settings of the run beside the weights, some of them as objects of the authors' classes.
Reading tensors only refuses such a file, so the few harmless names that the published files hold are stood in for by an
object that does nothing and keeps nothing. Every other name is refused as ever. Safetensors files with the same tensor
names are read too.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor

from stage_cli.core.evaluation.cocola.network import CHANNELS, CocolaNetwork, published_names
from stage_cli.core.weights.tensors import check_finite, open_checkpoint
from stage_cli.errors import WeightsError

_STEM_WEIGHT = "encoder.encoder.model.0._conv_stem.weight"
_PROJECTION = "encoder.projection.weight"

# Settings of the authors' run: enumerations and paths. An enumeration of Python 3.11's first releases is looked up by
# getattr: the stand-in looks nothing up.
_HARMLESS_MODULES = ("contrastive_model.", "pathlib.")
_HARMLESS_NAMES = ("builtins.getattr",)


class _Ignored:
    """Stands in for an object of a pickle: takes everything, keeps nothing."""

    def __new__(cls, *_: object) -> _Ignored:
        return super().__new__(cls)

    def __setstate__(self, state: object) -> None:
        pass


def load_network(path: Path) -> CocolaNetwork:
    """Build the network of a checkpoint.

    Raises:
        WeightsError: the file cannot be read, wants to run code, or is not a COCOLA of harmonic and percussive mels.
    """
    tensors = _read(path)
    if _STEM_WEIGHT not in tensors or _PROJECTION not in tensors or tensors[_PROJECTION].ndim != 2:
        _refuse(path, f"it has no {_STEM_WEIGHT if _STEM_WEIGHT not in tensors else _PROJECTION}")
    channels = tensors[_STEM_WEIGHT].shape[1] if tensors[_STEM_WEIGHT].ndim == 4 else 0
    if channels != CHANNELS:
        _refuse(path, f"its network hears {channels} channel(s), not harmonic and percussive spectra")
    network = CocolaNetwork(tensors[_PROJECTION].shape[0])
    names, expected = published_names(network), network.state_dict()
    wrong = [
        theirs
        for ours, theirs in names.items()
        if theirs not in tensors or tensors[theirs].shape != expected[ours].shape
    ]
    wrong += sorted(tensors.keys() - set(names.values()))
    if wrong:
        _refuse(path, f"{len(wrong)} tensors are missing, unknown or misshapen, such as {', '.join(wrong[:3])}")
    state = {ours: tensors[theirs].to(expected[ours].dtype) for ours, theirs in names.items()}
    for name, tensor in state.items():
        if tensor.is_floating_point():
            check_finite(name, tensor)
    network.load_state_dict(state)
    return network.eval()


def _read(path: Path) -> dict[str, Tensor]:
    harmless = _harmless_names(path)
    if not harmless:
        file = open_checkpoint(path)
        return {name: file.read(name).clone() for name in file.shapes}
    try:
        with torch.serialization.safe_globals([(_Ignored, name) for name in harmless]):
            content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, TypeError, AttributeError, EOFError) as error:
        raise WeightsError(
            f"{path} cannot be read", why=str(error).splitlines()[0], next_step="download it again"
        ) from None
    state = content.get("state_dict") if isinstance(content, dict) else None
    if not isinstance(state, dict):
        _refuse(path, "it has no state_dict")
    return {name: tensor for name, tensor in state.items() if isinstance(tensor, Tensor)}


def _harmless_names(path: Path) -> list[str]:
    """Return what must be stood in for; nothing if there is nothing, or also something that may not be."""
    try:
        names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except (RuntimeError, ValueError, OSError, pickle.UnpicklingError):
        return []  # safetensors, an old pickle, or broken: the common reader says what is wrong
    allowed = all(name.startswith(_HARMLESS_MODULES) or name in _HARMLESS_NAMES for name in names)
    return sorted(names) if allowed else []


def _refuse(path: Path, why: str) -> NoReturn:
    raise WeightsError(
        f"{path} is not a COCOLA checkpoint that stage-cli can read",
        why=why,
        next_step="use the published COCOLA_HP_v1.ckpt",
    )
