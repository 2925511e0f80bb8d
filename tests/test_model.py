"""StageModel: what loading leaves behind, in each precision, and what it says when it cannot."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from transformers_reference import make_musicgen

import stage_cli
from stage_cli.core.lm.layout import delayed_sequence
from stage_cli.core.lm.linear import Int8Linear
from stage_cli.core.model import StageModel, memory_errors, runtime_for
from stage_cli.core.model_config import StageConfig
from stage_cli.core.precision import Runtime
from stage_cli.core.weights.checkpoint import own_shapes
from stage_cli.errors import DeviceError, UsageError

CPU = torch.device("cpu")


def test_the_package_lends_it() -> None:
    assert stage_cli.StageModel is StageModel
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = stage_cli.Nothing


def test_the_shapes_of_our_format_are_the_models(tiny_config: StageConfig, musicgen_dir: Path) -> None:
    with_text = StageModel.from_pretrained(str(musicgen_dir), device="cpu").config
    for config in (tiny_config, with_text):
        model = StageModel(config)
        assert own_shapes(config) == {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
        # A buffer that is not saved would hold whatever lay in memory.
        assert {name for name, _ in model.named_buffers()} <= set(model.state_dict())


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "int8"])
def test_what_is_kept_in_which_precision(tiny_model_dir: Path, tiny_model: StageModel, precision: str) -> None:
    model = StageModel.from_pretrained(str(tiny_model_dir), device="cpu", precision=precision)
    dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert {tensor.dtype for tensor in model.codec.state_dict().values()} == {torch.float32}
    assert {tensor.dtype for tensor in model.lm.parameters()} == {dtype}
    quantized = [module for module in model.lm.modules() if isinstance(module, Int8Linear)]
    assert bool(quantized) == (precision == "int8")
    for module in quantized:
        assert [part.dtype for part in module.weights] == [torch.int8, torch.float32]
    # Nothing is left on the meta device, and nothing hangs on to a larger storage or to the mapped file.
    for name, tensor in model.state_dict().items():
        assert tensor.device == CPU, name
        assert tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size(), name


@pytest.mark.parametrize(("precision", "bound"), [("bfloat16", 0.02), ("int8", 0.03)])
def test_low_precision_is_close(tiny_model_dir: Path, tiny_model: StageModel, precision: str, bound: float) -> None:
    """Relative error of all logits."""
    rough = StageModel.from_pretrained(str(tiny_model_dir), device="cpu", precision=precision)
    codes = torch.randint(0, 32, (1, 4, 40), generator=torch.Generator().manual_seed(0))
    for frames in (3, 40):
        inputs = delayed_sequence(codes[:, :, :frames], codes[:, :, :frames], tiny_model.config.lm)
        with torch.inference_mode():
            exact, close = tiny_model.lm(*inputs)[:, :, 1:], rough.lm(*inputs)[:, :, 1:]
        assert close.dtype == torch.float32
        assert (close - exact).norm() / exact.norm() < bound


def test_projected_text(musicgen_dir: Path) -> None:
    model = StageModel.from_pretrained(str(musicgen_dir), device="cpu", precision="bfloat16")
    reference = make_musicgen().enc_to_dec_proj
    vectors = torch.randn(2, 3, 32, generator=torch.Generator().manual_seed(0))
    mask = torch.tensor([[True, True, False], [True, False, False]])
    with torch.inference_mode():
        projected, expected = model.project_text(vectors, mask), reference(vectors) * mask[..., None]
    assert projected.dtype == torch.bfloat16  # the language model's
    assert torch.equal(projected, expected.to(torch.bfloat16))  # computed in fp32
    assert (projected[~mask] == 0).all()  # the bias too


def test_text_without_a_projection(tiny_model: StageModel) -> None:
    with pytest.raises(ValueError, match="no text projection"):
        tiny_model.project_text(torch.zeros(1, 1, 32), torch.ones(1, 1))


def test_runtimes_of_the_published_sizes() -> None:
    assert runtime_for(StageConfig(), "cpu", "auto") == Runtime(CPU, "int8")
    odd = dataclasses.replace(StageConfig().lm, dimension=1000, heads=8)
    with pytest.raises(UsageError, match="widths are not multiples of 32"):
        runtime_for(dataclasses.replace(StageConfig(), lm=odd), "cpu", "int8")


def test_a_tiny_model_runs_in_fp32(tiny_model: StageModel) -> None:
    assert tiny_model.runtime == Runtime(CPU, "float32")


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp:119] err == 0. DefaultCPUAllocator: can't allocate memory"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_running_out_of_memory_says_what_would_fit(error: Exception) -> None:
    config = StageConfig()
    expected = (
        r"Out of memory on cpu · this model's weights alone need: float32 1\.7 GB, bfloat16 0\.8 GB.*int8 0\.4 GB"
    )
    with pytest.raises(DeviceError, match=expected) as caught, memory_errors(config, Runtime(CPU, "float32")):
        raise error
    assert "`precision` int8" in caught.value.next_step
    with pytest.raises(DeviceError) as caught, memory_errors(config, Runtime(CPU, "int8")):
        raise error
    assert "`precision` int8" not in caught.value.next_step  # it is that already
    assert "smaller `model`" in caught.value.next_step


def test_a_real_allocation_that_fails() -> None:
    with pytest.raises(DeviceError, match="Out of memory on cpu"), memory_errors(StageConfig(), Runtime(CPU, "int8")):
        torch.empty(2**60, dtype=torch.int8)


def test_other_errors_pass_through() -> None:
    with pytest.raises(RuntimeError, match="shapes"), memory_errors(StageConfig(), Runtime(CPU, "int8")):
        raise RuntimeError("shapes cannot be multiplied")


def test_others_may_read_what_is_saved(tiny_model: StageModel, tmp_path: Path) -> None:
    """As far as the user's umask lets them; safetensors itself would keep the weights to the owner."""
    (tmp_path / "any").touch()
    tiny_model.save_pretrained(tmp_path / "model")
    modes = {path.name: path.stat().st_mode for path in (tmp_path / "model").iterdir()}
    assert set(modes.values()) == {(tmp_path / "any").stat().st_mode}, modes
