"""Frames that leave in the middle of a window: the same, as early as they can, and nothing is left behind."""

from __future__ import annotations

import weakref
from typing import Any

import pytest
import torch
from random_weights import randomise
from torch import Tensor

from generation.test_threads import Clock, int8_model, two_threads  # noqa: F401 - a fixture that is used by itself
from stage_cli.core.generation import song, threads
from stage_cli.core.generation.config import GenerationConfig
from stage_cli.core.generation.song import decode_pieces, decode_window, generate_song, uniform_numbers
from stage_cli.core.generation.threads import StepThreads
from stage_cli.core.lm.config import LanguageModelConfig
from stage_cli.core.lm.transformer import LanguageModel

K, CODES, WINDOW = 4, 32, 12


@pytest.fixture(scope="module", params=["STAGE", "plain"])
def lm(request: pytest.FixtureRequest) -> LanguageModel:
    config = LanguageModelConfig(
        codebooks=K,
        codebook_size=CODES,
        dimension=64,
        layers=2,
        heads=4,
        feed_forward=128,
        text_dimension=None,
        separator=request.param == "STAGE",
    )
    model = LanguageModel(config).eval()
    randomise(model, seed=3)
    return model


def codes(T: int, seed: int = 1) -> Tensor:
    return torch.randint(0, CODES, (1, K, T), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("total", "known"), [(1, 0), (7, 0), (12, 5), (31, 0), (31, 8)])
def test_a_song_in_pieces_has_the_same_codes(lm: LanguageModel, total: int, known: int) -> None:
    config = GenerationConfig(seed=4, variations=2)
    continuation = codes(known, seed=2) if known else None

    def parts(piece: int | None) -> list[Tensor]:
        return list(generate_song(lm, codes(total), config, window=WINDOW, continuation=continuation, piece=piece))

    whole = torch.cat(parts(None), dim=2)
    for piece in (1, 5, WINDOW, 100):
        pieces = parts(piece)
        assert torch.equal(torch.cat(pieces, dim=2), whole), piece
        made = pieces[1:] if known else pieces
        assert all(1 <= part.shape[2] <= piece for part in made)
        assert len(made) >= (total - known) / min(piece, WINDOW)


def test_a_piece_leaves_as_soon_as_it_is_whole(lm: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    advance = lm.advance

    def count(*arguments: Any) -> Tensor:
        events.append("step")
        return advance(*arguments)

    monkeypatch.setattr(lm, "advance", count)
    uniforms = uniform_numbers(0, 1, K, WINDOW)
    config = GenerationConfig(guidance=1.0)
    pieces = decode_pieces(lm, codes(0), codes(0), uniforms, config, piece=5, on_step=lambda n: events.append(f"{n}"))
    sizes = []
    for piece in pieces:
        sizes.append(piece.shape[2])
        events.append("piece")
    assert sizes == [5, 5, 2]
    # A frame is whole when the last codebook, which runs K − 1 steps late, has its token.
    steps = [event for frames in [0] * (K - 1) + list(range(1, WINDOW + 1)) for event in ("step", f"{frames}")]
    for frames in (5, 10, 12):
        steps.insert(steps.index(f"{frames}") + 1, "piece")
    assert events == steps


def test_what_has_left_does_not_change(lm: LanguageModel) -> None:
    parts, copies = [], []
    for part in generate_song(lm, codes(40), GenerationConfig(), window=WINDOW, piece=2):
        parts.append(part)
        copies.append(part.clone())
    assert all(torch.equal(part, copy) for part, copy in zip(parts, copies, strict=True))


def test_a_window_is_its_pieces_and_what_was_known(lm: LanguageModel) -> None:
    known, uniforms = codes(4, seed=2), uniform_numbers(0, 1, K, WINDOW)
    pieces = list(decode_pieces(lm, codes(9), known, uniforms, GenerationConfig(), piece=3))
    window = decode_window(lm, codes(9), known, uniforms, GenerationConfig())
    assert torch.equal(torch.cat([known, *pieces], dim=2), window)
    everything = codes(WINDOW, seed=3)
    assert torch.equal(decode_window(lm, codes(9), everything, uniforms, GenerationConfig()), everything)


def test_the_caches_are_gone_before_the_last_frames_leave(lm: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever decodes a whole window with a large codec needs their memory."""
    caches: list[weakref.ref] = []
    prefill = song.prefill

    def watched(*arguments: Any) -> song.Rows:
        rows = prefill(*arguments)
        caches.append(weakref.ref(rows.cache))
        return rows

    monkeypatch.setattr(song, "prefill", watched)
    for _ in generate_song(lm, codes(30), GenerationConfig(), window=WINDOW):
        assert caches
        assert not [cache for cache in caches if cache() is not None]


def test_other_work_between_two_steps_has_all_threads() -> None:
    lm = int8_model()
    context, uniforms = torch.zeros(1, 4, 10, dtype=torch.int64), torch.rand(1, 4, 60)
    used = set()
    pieces = decode_pieces(
        lm,
        context,
        context[:, :, :0],
        uniforms,
        GenerationConfig(),
        piece=1,
        on_step=lambda _: used.add(torch.get_num_threads()),
    )
    for _ in pieces:
        assert torch.get_num_threads() == 2
    assert used == {1, 2}, "the steps themselves are tried with both"


def test_an_iterator_that_is_closed_gives_the_threads_back() -> None:
    context = torch.zeros(1, 4, 30, dtype=torch.int64)
    seen = []
    parts = generate_song(
        int8_model(),
        context,
        GenerationConfig(),
        window=30,
        piece=4,
        on_frames=lambda _: seen.append(torch.get_num_threads()),
    )
    next(parts)
    parts.close()
    assert 1 in seen
    assert torch.get_num_threads() == 2
    assert list(parts) == []


def test_the_time_of_other_work_is_not_a_steps_time(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock({2: 0.03, 1: 0.05})
    monkeypatch.setattr(threads.time, "perf_counter", clock.perf_counter)
    with StepThreads(int8_model(), 2) as steps:
        clock.run(steps, 10)
        used = []
        for _ in range(40):
            with steps.paused():
                assert torch.get_num_threads() == 2
                clock.now += 9.0
            used += clock.run(steps, 25)
    assert used.count(2) > 0.94 * len(used), "tried anew every 40 steps, and not after each pause"
