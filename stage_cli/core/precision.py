"""Where a model runs and how its language model is kept.

The codec is always fp32 (on CUDA cuDNN may multiply in TF32 within it, torch's default); on Apple's MPS it stays on the
CPU, for there it returns garbled audio.
"""

from __future__ import annotations

import platform
from dataclasses import dataclass
from typing import Literal, cast, get_args

import torch

from stage_cli.core.lm.linear import multiplies_bytes
from stage_cli.errors import DeviceError, UsageError

Precision = Literal["float32", "bfloat16", "float16", "int8"]

# Under this many parameters a model's weights fit the caches, and rounding them costs more than it gains.
SMALL_MODEL = 50_000_000

BYTES_PER_WEIGHT = {"float32": 4, "bfloat16": 2, "float16": 2, "int8": 1}

_DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "int8": torch.float32,
}


@dataclass(frozen=True)
class Runtime:
    """A device and a precision that work together.

    Attributes:
        device: of the language model.
        precision: of the language model's weights.
    """

    device: torch.device
    precision: Precision

    @property
    def dtype(self) -> torch.dtype:
        """Of the language model's activations between its linears, and of what is not rounded to int8."""
        return _DTYPES[self.precision]

    @property
    def quantized(self) -> bool:
        """Whether the linears' weights are int8."""
        return self.precision == "int8"

    @property
    def codec_device(self) -> torch.device:
        """Of the codec, which returns garbled audio on MPS."""
        return torch.device("cpu") if self.device.type == "mps" else self.device


def choose_device(name: str = "auto") -> torch.device:
    """Turn `auto`, `cpu`, `cuda`, `cuda:1` or `mps` into a device that is there.

    Raises:
        UsageError: no such name.
        DeviceError: the device is absent.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = torch.device("meta")
    if device.type not in ("cpu", "cuda", "mps"):
        raise UsageError(f"`device` {name} is unknown", why="allowed: auto, cpu, cuda, cuda:N, mps")
    if device.type == "cuda":
        count = torch.cuda.device_count()
        if count == 0:
            why = "this build of torch has no CUDA" if torch.version.cuda is None else "torch sees no CUDA device"
            raise DeviceError(
                f"`device` {name}: there is no such device", why=why, next_step="use `device` cpu, or auto"
            )
        if (device.index or 0) >= count:
            raise DeviceError(f"`device` {name}: there is no such device", why=f"CUDA devices here: 0 to {count - 1}")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise DeviceError("`device` mps: there is no such device", next_step="use `device` cpu, or auto")
    return device


def computes_bfloat16(device: torch.device) -> bool:
    """Whether a device has arithmetic for bfloat16; a CPU without it takes many times as long as in float32."""
    if device.type != "cpu":
        return True
    if platform.machine().lower() in ("x86_64", "amd64"):
        # oneDNN's own answer is yes for every processor with AVX-512, where it emulates what is not there.
        return torch.cpu._is_avx512_bf16_supported()
    return torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()


def training_precision(asked: str, device: torch.device) -> str:
    """Return the precision of a training's forward pass for what a run asks (`run.precision`)."""
    if asked == "auto":
        return "bfloat16" if device.type == "cuda" else "float32"
    # Recipes ask for it because it is quicker.
    return "float32" if asked == "bfloat16" and not computes_bfloat16(device) else asked


def choose_runtime(
    device: str, precision: str, *, parameters: int, multiple_of_32: bool, rounded: bool = False
) -> Runtime:
    """Choose device and precision for a language model.

    `auto` is bfloat16 on CUDA; on a CPU int8 for models of MusicGen's size (the fastest one that draws nearly the same
    tokens as fp32: docs/dev/benchmarks.md) and for those whose weights are stored so; fp32 for other small ones;
    fp32 elsewhere.

    Args:
        device: see `choose_device`.
        precision: a `Precision`, or `auto`.
        parameters: of the language model.
        multiple_of_32: whether all its widths are multiples of 32, which the int8 kernel needs.
        rounded: whether its weights are stored as int8.

    Raises:
        UsageError: an unknown precision, or one that the device cannot do.
        DeviceError: the device is absent.
    """
    place = choose_device(device)
    if precision == "auto":
        if place.type == "cuda":
            return Runtime(place, "bfloat16")
        # Without FBGEMM's product int8 gains a small model nothing.
        pays = parameters >= SMALL_MODEL or (rounded and multiplies_bytes())
        return Runtime(place, "int8" if place.type == "cpu" and multiple_of_32 and pays else "float32")
    if precision not in get_args(Precision):
        raise UsageError(f"`precision` {precision} is unknown", why=f"allowed: auto, {', '.join(get_args(Precision))}")
    if precision == "int8" and (place.type != "cpu" or not multiple_of_32):
        why = "it is for the CPU" if place.type != "cpu" else "this model's widths are not multiples of 32"
        raise UsageError("`precision` int8 is not possible here", why=why, next_step="use `precision` auto")
    if precision == "float16" and place.type == "cpu":
        raise UsageError(
            "`precision` float16 is not possible on a CPU", next_step="use `precision` bfloat16, int8 or auto"
        )
    return Runtime(place, cast("Precision", precision))
