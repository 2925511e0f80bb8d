"""Schedules, optimizers, averages, clipping and gradients: against closed forms, torch's own and transformers'."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import nn

from stage_cli.core.training import optimizers
from stage_cli.core.training.checkpoints import read_tensors, write_tensors
from stage_cli.core.training.optimizers import Optimizers, WeightAverage, learning_rate_share, orthogonal
from stage_cli.core.training.settings import TrainConfig
from stage_cli.core.training.task import ParameterGroup


def small(seed: int = 0) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 4))


def parameters_of(module: nn.Module) -> dict[str, nn.Parameter]:
    return dict(module.named_parameters())


GROUPS = [ParameterGroup(("0.weight", "1.weight"), kind="matrix"), ParameterGroup(("0.bias", "1.bias"), decay=False)]


def give_gradients(module: nn.Module, step: int) -> None:
    generator = torch.Generator().manual_seed(step)
    for parameter in module.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)


def test_cosine_and_warm_up_are_those_of_transformers() -> None:
    from transformers import get_cosine_schedule_with_warmup

    config = TrainConfig(steps=50, schedule="cosine", warmup_steps=10)
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = get_cosine_schedule_with_warmup(optimizer, 10, 50).lr_lambdas[0]
    for step in range(1, 51):
        assert learning_rate_share(config, step) == pytest.approx(theirs(step), abs=1e-12)


def test_cosine_ends_at_the_final_share_and_stays_there() -> None:
    config = TrainConfig(steps=20, schedule="cosine", final_learning_rate=0.1)
    assert learning_rate_share(config, 20) == pytest.approx(0.1)
    assert learning_rate_share(config, 25) == pytest.approx(0.1)
    assert learning_rate_share(config, 10) == pytest.approx(0.55)


def test_constant_grows_from_the_first_step_to_the_end_of_the_warm_up() -> None:
    config = TrainConfig(steps=20, warmup_steps=4)
    assert [learning_rate_share(config, step) for step in (1, 2, 3, 4, 5, 20)] == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]


def test_adamw_is_torchs_with_decay_for_those_groups_that_have_it() -> None:
    config = TrainConfig(steps=5, learning_rate=0.1, weight_decay=0.5, warmup_steps=2)
    ours, theirs = small(), small()
    optimizers = Optimizers(config, parameters_of(ours), GROUPS)
    named = parameters_of(theirs)
    reference = torch.optim.AdamW(
        [
            {"params": [named["0.weight"], named["1.weight"]], "weight_decay": 0.5},
            {"params": [named["0.bias"], named["1.bias"]], "weight_decay": 0.0},
        ],
        betas=(0.9, 0.95),
        eps=1e-8,
        foreach=False,
    )
    for step in range(1, 6):
        for module in (ours, theirs):
            give_gradients(module, step)
        for group in reference.param_groups:
            group["lr"] = 0.1 * min(1, step / 2)
        optimizers.step(step)
        reference.step()
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter, named[name])
        assert parameter.grad is None


@pytest.mark.parametrize("quick", [True, False], ids=["bfloat16", "float32"])
def test_muon_moves_the_matrices_and_adamw_the_rest(quick: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a processor without arithmetic for bfloat16 Muon works in float32: torch's, but for its rounding."""
    monkeypatch.setattr("stage_cli.core.training.optimizers.computes_bfloat16", lambda device: quick)
    config = TrainConfig(steps=5, optimizer="muon", muon_learning_rate=0.02, learning_rate=0.003, weight_decay=0.0)
    ours, theirs = small(), small()
    optimizers = Optimizers(config, parameters_of(ours), GROUPS)
    assert (type(optimizers.members["muon"]) is torch.optim.Muon) == quick
    assert optimizers.learning_rates(1) == {"adamw": 0.003, "muon": 0.02}
    named = parameters_of(theirs)
    muon = torch.optim.Muon([named["0.weight"], named["1.weight"]], lr=0.02, weight_decay=0.0)
    adamw = torch.optim.AdamW([named["0.bias"], named["1.bias"]], lr=0.003, betas=(0.9, 0.95), weight_decay=0.0)
    for step in range(1, 4):
        for module in (ours, theirs):
            give_gradients(module, step)
        optimizers.step(step)
        muon.step()
        adamw.step()
    rounding = {} if quick else {"rtol": 0.0, "atol": 0.02 * 0.05}  # of three steps of 0.02, one in twenty of one
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter, named[name], **rounding)


@pytest.mark.parametrize("shape", [(7, 5), (5, 7), (6, 6), (1, 9)])
def test_an_update_of_muon_is_orthogonal(shape: tuple[int, int]) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    update = orthogonal(matrix, (3.4445, -4.775, 2.0315), 5, 1e-7)
    assert update.shape == shape
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    values = torch.linalg.svdvals(update)
    assert 0.6 < values.min() <= values.max() < 1.3
    assert (left.T @ update @ right.T - torch.diag((left.T @ update @ right.T).diag())).abs().max() < 1e-4
    assert (left.T @ update @ right.T).diag().min() > 0.6  # the same directions, none turned round


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_the_optimizers_state_comes_back_through_a_file_bit_by_bit(optimizer: str, tmp_path: Path) -> None:
    config = TrainConfig(steps=9, optimizer=optimizer, learning_rate=0.01)
    first, second = small(), small()
    one = Optimizers(config, parameters_of(first), GROUPS)
    for step in range(1, 4):
        give_gradients(first, step)
        one.step(step)
    write_tensors(tmp_path / "state", list(one.state()))
    second.load_state_dict(first.state_dict())
    other = Optimizers(config, parameters_of(second), GROUPS)
    other.load_state(dict(read_tensors(tmp_path / "state")))
    for step in range(4, 7):
        for module, each in ((first, one), (second, other)):
            give_gradients(module, step)
            each.step(step)
    for name, parameter in first.named_parameters():
        assert torch.equal(parameter, parameters_of(second)[name])


@pytest.mark.parametrize(
    "groups",
    [
        [ParameterGroup(("0.weight", "1.weight", "0.bias"))],
        [*GROUPS, ParameterGroup(("1.bias",))],
        [*GROUPS, ParameterGroup(("2.bias",))],
    ],
)
def test_each_parameter_stands_in_one_group(groups: list[ParameterGroup]) -> None:
    with pytest.raises(ValueError, match=r"not in exactly one group of trainable parameters: [12]\.bias$"):
        Optimizers(TrainConfig(), parameters_of(small()), groups)


def test_the_average_follows_its_closed_form_and_swaps_bit_by_bit() -> None:
    module = small()
    parameters = parameters_of(module)
    average = WeightAverage(parameters, decay=0.75)
    expected = {name: parameter.detach().clone() for name, parameter in parameters.items()}
    for step in range(1, 5):
        with torch.no_grad():
            for parameter in parameters.values():
                parameter.add_(0.1 * step)
        average.update()
        expected = {name: 0.75 * value + 0.25 * parameters[name].detach() for name, value in expected.items()}
    before = {name: parameter.detach().clone() for name, parameter in parameters.items()}
    with average.in_place():
        for name, parameter in parameters.items():
            torch.testing.assert_close(parameter.detach(), expected[name])
    for name, parameter in parameters.items():
        assert torch.equal(parameter, before[name])
        torch.testing.assert_close(average.weights[name], expected[name])


def test_gradients_are_clipped_by_value_by_norm_or_not() -> None:
    def gradient(**settings: object) -> torch.Tensor:
        weight = nn.Parameter(torch.zeros(2))
        weight.grad = torch.tensor([3.0, -4.0])
        norm = optimizers.total_norm([weight])
        assert float(norm) == 5.0
        optimizers.clip([weight], TrainConfig(**settings), norm)
        return weight.grad

    assert gradient(clip="value", clip_at=3.5).tolist() == [3.0, -3.5]
    torch.testing.assert_close(gradient(clip="norm", clip_at=2.5), torch.tensor([1.5, -2.0]))
    assert gradient(clip="norm", clip_at=10.0).tolist() == [3.0, -4.0]
    assert gradient(clip="none").tolist() == [3.0, -4.0]


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_one_gradient_that_is_not_finite_makes_the_norm_so(value: float) -> None:
    weights = [nn.Parameter(torch.zeros(3)) for _ in range(2)]
    for weight in weights:
        weight.grad = torch.ones(3)
    weights[1].grad[2] = value
    assert not math.isfinite(float(optimizers.total_norm(weights)))


def test_tensors_are_written_as_the_safetensors_library_reads_them(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    generator = torch.Generator().manual_seed(0)
    tensors = {
        "weights": torch.randn(3, 5, generator=generator),
        "half": torch.randn(4, generator=generator).to(torch.bfloat16),
        "turned": torch.randn(4, 6, generator=generator).t(),
        "count": torch.tensor(7),
        "flags": torch.tensor([True, False]),
        "nothing": torch.zeros(0, 3),
        "number": torch.tensor(2.5, dtype=torch.float64),
    }
    write_tensors(tmp_path / "ours", list(tensors.items()))
    loaded = load_file(tmp_path / "ours")
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, tmp_path / "theirs")
    for content in (loaded, dict(read_tensors(tmp_path / "theirs")), dict(read_tensors(tmp_path / "ours"))):
        assert content.keys() == tensors.keys()
        for name, tensor in tensors.items():
            assert content[name].dtype == tensor.dtype
            assert torch.equal(content[name], tensor)


def test_a_file_that_is_cut_off_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    write_tensors(path, [("a", torch.zeros(1000))])
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(OSError, match="weights is damaged"):
        list(read_tensors(path))
