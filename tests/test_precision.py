"""Devices and precisions: what `auto` means, and what is refused."""

from __future__ import annotations

import pytest
import torch

from stage_cli.core.precision import (
    BYTES_PER_WEIGHT,
    SMALL_MODEL,
    Runtime,
    choose_device,
    choose_runtime,
    computes_bfloat16,
)
from stage_cli.errors import DeviceError, UsageError

CPU = torch.device("cpu")


@pytest.fixture
def no_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)


@pytest.mark.usefixtures("no_cuda")
def test_devices_without_a_gpu() -> None:
    assert choose_device() == CPU
    assert choose_device("cpu") == CPU
    with pytest.raises(DeviceError, match=r"`device` cuda: there is no such device .*use `device` cpu, or auto"):
        choose_device("cuda")
    with pytest.raises(DeviceError, match=r"`device` cuda:1: there is no such device"):
        choose_device("cuda:1")


@pytest.mark.usefixtures("two_gpus")
def test_devices_with_two_gpus() -> None:
    assert choose_device() == torch.device("cuda")
    assert choose_device("cuda:1") == torch.device("cuda:1")
    with pytest.raises(DeviceError, match=r"`device` cuda:2: there is no such device .*CUDA devices here: 0 to 1"):
        choose_device("cuda:2")


@pytest.mark.parametrize("available", [True, False])
def test_mps(monkeypatch: pytest.MonkeyPatch, available: bool) -> None:
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: available)
    if available:
        runtime = choose_runtime("mps", "auto", parameters=10**9, multiple_of_32=True)
        assert runtime == Runtime(torch.device("mps"), "float32")
        assert runtime.codec_device == CPU  # there it returns garbled audio
    else:
        with pytest.raises(DeviceError, match="`device` mps: there is no such device"):
            choose_device("mps")


@pytest.mark.parametrize("name", ["gpu", "", "cuda:x", "xpu", "meta", "CPU", "cuda:-1"])
def test_names_that_are_no_device(name: str) -> None:
    with pytest.raises(UsageError, match=rf"`device` {name} is unknown · allowed: auto, cpu, cuda, cuda:N, mps"):
        choose_device(name)


@pytest.mark.usefixtures("no_cuda")
@pytest.mark.parametrize(
    ("parameters", "multiple_of_32", "expected"),
    [
        (SMALL_MODEL - 1, True, "float32"),
        (SMALL_MODEL, True, "int8"),
        (10**9, True, "int8"),
        (10**9, False, "float32"),
    ],
)
def test_auto_on_a_cpu(parameters: int, multiple_of_32: bool, expected: str) -> None:
    runtime = choose_runtime("auto", "auto", parameters=parameters, multiple_of_32=multiple_of_32)
    assert (runtime.device, runtime.precision) == (CPU, expected)


@pytest.mark.usefixtures("no_cuda")
@pytest.mark.parametrize("bytes_", [True, False])
@pytest.mark.parametrize("rounded", [True, False])
def test_auto_for_small_models_on_a_cpu(bytes_: bool, rounded: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stage_cli.core.precision.multiplies_bytes", lambda: bytes_)
    for wide in (True, False):
        runtime = choose_runtime("auto", "auto", parameters=1000, multiple_of_32=wide, rounded=rounded)
        assert runtime.precision == ("int8" if rounded and bytes_ and wide else "float32")


@pytest.mark.usefixtures("two_gpus")
@pytest.mark.parametrize("parameters", [1000, 10**9])
def test_auto_on_cuda(parameters: int) -> None:
    runtime = choose_runtime("auto", "auto", parameters=parameters, multiple_of_32=True)
    assert (runtime.device.type, runtime.precision) == ("cuda", "bfloat16")
    assert runtime.codec_device == runtime.device


def test_what_a_precision_means() -> None:
    dtypes = {name: Runtime(CPU, name).dtype for name in BYTES_PER_WEIGHT}  # ty: ignore[invalid-argument-type]
    assert dtypes == {
        "float32": torch.float32,
        "bfloat16": torch.bfloat16,
        "float16": torch.float16,
        "int8": torch.float32,
    }
    assert [Runtime(CPU, "int8").quantized, Runtime(CPU, "bfloat16").quantized] == [True, False]


@pytest.mark.parametrize(
    ("precision", "multiple_of_32", "message"),
    [
        ("float64", True, r"`precision` float64 is unknown · allowed: auto, float32, bfloat16, float16, int8"),
        ("", True, r"`precision`  is unknown"),
        ("int8", False, r"`precision` int8 is not possible here · this model's widths are not multiples of 32"),
        ("float16", True, r"`precision` float16 is not possible on a CPU .*use `precision` bfloat16, int8 or auto"),
    ],
)
def test_precisions_that_are_refused_on_a_cpu(precision: str, multiple_of_32: bool, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        choose_runtime("cpu", precision, parameters=10**9, multiple_of_32=multiple_of_32)


@pytest.mark.usefixtures("two_gpus")
def test_int8_is_for_the_cpu() -> None:
    with pytest.raises(UsageError, match=r"`precision` int8 is not possible here · it is for the CPU"):
        choose_runtime("cuda", "int8", parameters=10**9, multiple_of_32=True)
    assert choose_runtime("cuda", "float16", parameters=1, multiple_of_32=False).dtype == torch.float16


@pytest.mark.parametrize("there", [True, False])
def test_arithmetic_for_bfloat16_is_asked_of_the_processor(there: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    monkeypatch.setattr("torch.cpu._is_avx512_bf16_supported", lambda: there)
    assert computes_bfloat16(torch.device("cpu")) is there
    assert computes_bfloat16(torch.device("cuda"))
