"""What a CUDA graph of a step does, on a device that is pretended (tests/pretend_cuda.py): the plain loop's tokens."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from pretend_cuda import PretendedDevice
from torch import Tensor

from generation.test_generation import CONFIGS, WINDOW, K, a_text, codes, language_model, plain_loop
from stage_cli.core.generation import graphs
from stage_cli.core.generation.config import GenerationConfig
from stage_cli.core.generation.graphs import Recording
from stage_cli.core.generation.song import decode_window, generate_song, uniform_numbers
from stage_cli.core.lm import steps
from stage_cli.core.lm.config import LanguageModelConfig
from stage_cli.core.lm.transformer import LanguageModel


@pytest.fixture(scope="module", params=["all options", "plain", pytest.param("STAGE", marks=pytest.mark.slow)])
def lm(request: pytest.FixtureRequest) -> LanguageModel:
    return language_model(request.param)


@pytest.fixture
def there(lm: LanguageModel, device: PretendedDevice) -> LanguageModel:
    return copy.deepcopy(lm).to("cuda")


def window(
    lm: LanguageModel, context: Tensor, known: Tensor, uniforms: Tensor, config: GenerationConfig, text: Any = None
) -> Tensor:
    moved = [tensor.to("cuda") for tensor in (context, known, uniforms)]
    return decode_window(lm, *moved, config, text=None if text is None else text.to("cuda"))


def test_a_window_equals_the_plain_loop(lm: LanguageModel, there: LanguageModel) -> None:
    for name, known_frames, with_text in [
        ("greedy, no guidance", 0, True),
        ("sampled from few", 5, True),
        ("sampled from few", 0, False),
    ]:
        config, context, known = CONFIGS[name], codes(10, 1), codes(known_frames, 2)
        uniforms, text = uniform_numbers(config.seed, 1, K, WINDOW), a_text() if with_text else None
        actual = window(there, context, known, uniforms, config, text)
        assert actual.is_cuda
        assert torch.equal(actual.cpu(), plain_loop(lm, context, known, uniforms, config, text)), name


def test_a_recording_holds_nothing_of_the_window_that_it_was_made_for(
    lm: LanguageModel, there: LanguageModel, device: PretendedDevice
) -> None:
    for seed, known_frames in ((1, 0), (2, 3), (3, 0), (4, 7)):
        config, context, known = GenerationConfig(seed=seed), codes(10, seed), codes(known_frames, seed + 9)
        uniforms = uniform_numbers(seed, 1, K, WINDOW)
        actual = window(there, context, known, uniforms, config)
        assert torch.equal(actual.cpu(), plain_loop(lm, context, known, uniforms, config)), seed
    (tape,) = device.tapes
    assert tape.replays == 4 * (WINDOW + K - 1) - 3 - 7


def test_early_steps_look_at_less(
    lm: LanguageModel, there: LanguageModel, device: PretendedDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(graphs, "SHORTEST_SPAN", 4)
    monkeypatch.setattr(steps, "ALIGNMENT", 4)
    for seed, known_frames in ((1, 0), (2, 5)):
        config, context, known = GenerationConfig(seed=seed), codes(10, seed), codes(known_frames, seed + 9)
        uniforms = uniform_numbers(seed, 1, K, WINDOW)
        actual = window(there, context, known, uniforms, config)
        assert torch.equal(actual.cpu(), plain_loop(lm, context, known, uniforms, config)), seed
    assert [tape.replays for tape in device.tapes] == [4, 4 + 3, 4 + 4, 3 + 3]  # of 15 steps, then of 10
    lengths = []
    for tape in device.tapes:
        _, keys, _, mask = tape.shapes("aten::_scaled_dot_product_efficient_attention")[0]
        assert keys[2] == mask[3]
        lengths.append(keys[2])
    assert lengths == [16, 20, 24, 28]  # the past is 10 steps long, the target 15


def test_a_batch_of_contexts_with_variations(lm: LanguageModel, there: LanguageModel) -> None:
    config = GenerationConfig(seed=2)
    contexts, known, text = codes(8, 1, B=2), codes(2, 2, B=6), a_text(B=2)
    uniforms = uniform_numbers(2, 6, K, 9)
    actual = window(there, contexts, known, uniforms, config, text).cpu()
    for row in range(6):
        one, own = slice(row // 3, row // 3 + 1), slice(row, row + 1)
        expected = plain_loop(lm, contexts[one], known[own], uniforms[own], config, text[one])
        assert torch.equal(actual[own], expected), row


def test_a_song_of_two_shapes_of_windows(lm: LanguageModel, there: LanguageModel, device: PretendedDevice) -> None:
    config, context = GenerationConfig(seed=4), codes(31, 1)
    expected = torch.cat(list(generate_song(lm, context, config, window=WINDOW)), dim=2)
    actual = torch.cat(list(generate_song(there, context.to("cuda"), config, window=WINDOW)), dim=2)
    assert torch.equal(actual.cpu(), expected)
    assert 1 <= len(device.tapes) <= graphs.KEPT_SHAPES


def test_no_step_waits_for_the_device(there: LanguageModel, device: PretendedDevice) -> None:
    """All the way from codes to codes: whoever wants to see them asks."""
    window(there, codes(10, 1), codes(2, 2), uniform_numbers(0, 1, K, WINDOW), GenerationConfig())
    assert device.asked == 0
    assert len(device.tapes) == 1


def operations(layers: int, samples: int, device: PretendedDevice) -> int:
    config = LanguageModelConfig(
        codebooks=K, codebook_size=32, dimension=64, layers=layers, heads=2, feed_forward=128, text_dimension=None
    )
    there = LanguageModel(config).eval().to("cuda")
    window(there, codes(10, 1), codes(0, 2, B=samples), uniform_numbers(0, samples, K, WINDOW), GenerationConfig())
    return device.tapes[-1].names.total()


def test_a_step_is_few_operations(device: PretendedDevice) -> None:
    """Each costs a GPU about as much as another; products of a layer are four, of which two add to what is there."""
    one, two = (operations(layers, 1, device) for layers in (1, 2))
    assert two - one == 4 + len(["norm", "keys and values kept", "attention", "norm", "GELU"])
    assert one - (two - one) <= 41  # embedding, sampling, and what all layers share
    many = operations(2, 4, device) - operations(1, 4, device)
    assert many == two - one + len(["attention of the unconditional rows", "both together"])


@pytest.mark.parametrize("how", ["number", "to the host", "from the host", "size"])
def test_a_capture_refuses_what_cuda_would(there: LanguageModel, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    """Else the tests above would say nothing."""
    take = Recording._take_step

    def with_a_slip(recording: Recording, lm: LanguageModel) -> None:
        take(recording, lm)
        slips = {
            "number": lambda: recording.tokens[0, 0, 0].item(),
            "to the host": lambda: recording.tokens.cpu(),
            "from the host": lambda: torch.tensor([1, 2], device="cuda"),
            "size": lambda: recording.tokens.nonzero(),
        }
        slips[how]()

    monkeypatch.setattr(Recording, "_take_step", with_a_slip)
    with pytest.raises(RuntimeError, match="not permitted when stream is capturing"):
        window(there, codes(10, 1), codes(0, 2), uniform_numbers(0, 1, K, WINDOW), GenerationConfig())


def test_a_capture_takes_no_step(there: LanguageModel, device: PretendedDevice) -> None:
    """Else a recording that counts on it would pass here and fail on a real device."""
    numbers = torch.zeros(3, device="cuda")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        numbers.add_(1)
        doubled = numbers * 2
    assert numbers.tolist() == [0, 0, 0]
    graph.replay()
    graph.replay()
    assert (numbers.tolist(), doubled.tolist()) == ([2, 2, 2], [4, 4, 4])


def test_tensors_of_two_devices_do_not_mix(device: PretendedDevice) -> None:
    with pytest.raises(RuntimeError, match="on the same device"):
        torch.ones(2, device="cuda") + torch.ones(2)
