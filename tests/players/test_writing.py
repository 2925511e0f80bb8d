"""Ears and pen in numpy: the same as in torch, the same in pieces, the same for a seed."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from stage_cli.core.music.beats import BeatGrid, constant_grid
from stage_cli.core.music.notes import DRUM_VOICES, Note, pitch_of
from stage_cli.core.players.config import GRID_CHANNELS, STROKES, TAGS, FeatureSettings, PlayerConfig
from stage_cli.core.players.generate import Hearing, Known, Player, WritingSettings, given_grid
from stage_cli.core.players.model import PlayerModel as TorchPlayer
from stage_cli.core.players.model import draw_weights
from stage_cli.core.players.numpy_model import NumpyEars, NumpyPen
from stage_cli.core.training.player_task import save_player

TINY = PlayerConfig(
    window=96,
    history=40,
    ears=16,
    ear_layers=2,
    ear_heads=2,
    convolutions=3,
    pen=16,
    pen_layers=2,
    pen_heads=2,
    stroke=16,
    features=FeatureSettings(bands=12),
)


@pytest.fixture(scope="module")
def model() -> TorchPlayer:
    torch.manual_seed(0)
    model = TorchPlayer(TINY).eval()
    draw_weights(model, 0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model


@pytest.fixture(scope="module")
def weights(model: TorchPlayer) -> dict[str, np.ndarray]:
    return {name: value.numpy() for name, value in model.state_dict().items()}


@pytest.fixture
def player(weights: dict[str, np.ndarray]) -> Player:
    return Player(TINY, weights, WritingSettings(bias=1.0))


def _audio(seconds: float = 12.0, rate: int = 8000) -> np.ndarray:
    return np.random.default_rng(3).normal(size=round(seconds * rate)).astype(np.float32) * 0.1


def _tokens(rng: np.random.Generator, steps: int) -> np.ndarray:
    return rng.integers(1, STROKES + 1, (steps, 12)) * (rng.random((steps, 12)) < 0.1)


def test_numpy_computes_what_torch_computes(model: TorchPlayer, weights: dict[str, np.ndarray]) -> None:
    rng = np.random.default_rng(1)
    steps = TINY.window
    heard = rng.normal(size=(2 * steps, 12)).astype(np.float32)
    grid = rng.normal(size=(2 * steps, GRID_CHANNELS)).astype(np.float32)
    tokens, is_known = _tokens(rng, steps), rng.random(steps) < 0.5
    known = tokens * is_known[:, None]
    past = np.concatenate([np.zeros((1, 12), np.int64), tokens[:-1]])
    tags = np.stack([rng.integers(0, count + 1, steps) for count in TAGS.values()], axis=1)

    def batch(array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(array)[None]

    with torch.no_grad():
        expected_ears = model.ears(batch(heard), batch(grid), batch(known), batch(is_known))
        expected_beats = model.ears.beats(expected_ears).sigmoid().reshape(-1, 2)
        none_hidden = torch.zeros(1, steps, dtype=torch.bool)
        states = model.pen.states(expected_ears, batch(past), none_hidden, batch(tags))
        logits, hidden = model.pen.whether_logits(states, batch(tokens))
        how = torch.einsum("tvw,vwk->tvk", hidden[0], model.pen.how) + model.pen.how_bias

    ears, pen = NumpyEars(TINY, weights), NumpyPen(TINY, weights)
    found = ears.hear(heard, grid, known, is_known)
    np.testing.assert_allclose(found, expected_ears[0], atol=1e-4)
    np.testing.assert_allclose(ears.beats(found), expected_beats, atol=1e-4)
    told = pen.inputs(found, tags)
    for step in range(steps):  # twice the history: the ring goes round
        state = pen.state(told[step], past[step])
        np.testing.assert_allclose(state, states[0, step], atol=1e-4)
        for voice in range(12):
            assert pen.whether(state)[voice] == pytest.approx(float(logits[0, step, voice]), abs=1e-3)
            if tokens[step, voice]:
                np.testing.assert_allclose(pen.how(state, voice), how[step, voice], atol=1e-3)
                state = pen.strike(state, voice, int(tokens[step, voice]))


def test_a_voice_sees_those_before_it_and_no_other(model: TorchPlayer) -> None:
    states, tokens = torch.randn(1, 1, 16), torch.zeros(1, 1, 12, dtype=torch.int64)
    changed = tokens.clone()
    changed[0, 0, 5] = 7
    before, after = (model.pen.whether_logits(states, given)[0][0, 0] for given in (tokens, changed))
    assert torch.equal(before[:6], after[:6])
    assert not torch.isclose(before[6:], after[6:]).any()


def test_the_pen_sees_no_later_step(model: TorchPlayer) -> None:
    rng = np.random.default_rng(5)
    past, ears = torch.from_numpy(_tokens(rng, 50))[None], torch.randn(1, 50, 16)
    hidden, tags = torch.zeros(1, 50, dtype=torch.bool), torch.zeros(1, 50, len(TAGS), dtype=torch.int64)
    changed = past.clone()
    changed[0, 30:] = 0
    first, second = (model.pen.states(ears, given, hidden, tags)[0] for given in (past, changed))
    assert torch.equal(first[:30], second[:30])
    assert not torch.equal(first[30:], second[30:])


def test_a_seed_fixes_the_notes(player: Player) -> None:
    audio = _audio()
    first, again, other = (player.write(audio, 8000, seed=seed) for seed in (1, 1, 2))
    assert len(first.notes) > 20
    assert first == again
    assert first.notes != other.notes


def test_notes_come_as_they_are_written(player: Player) -> None:
    hearing = player.listen([_audio(60)], 8000)
    grid = constant_grid(120, 4, 60.0)
    coming = player.notes(hearing, grid, seed=4)
    beginning = list(itertools.islice(coming, 10))
    assert beginning + list(coming) == list(player.write(_audio(60), 8000, grid=grid, seed=4).notes)
    assert beginning == sorted(beginning)


def test_blocks_and_rates_do_not_matter_to_what_is_heard(player: Player) -> None:
    audio = _audio()
    whole = player.listen([audio], 8000)
    pieces = player.listen([audio[at : at + 777] for at in range(0, len(audio), 777)], 8000)
    np.testing.assert_allclose(whole.levels.astype(np.float32), pieces.levels.astype(np.float32), atol=0.1)
    assert whole.steps == pieces.steps == 300


def test_a_later_window_does_not_change_what_is_written_before(player: Player) -> None:
    long = player.listen([_audio(20)], 8000)
    short = replace(long, levels=long.levels[:500], seconds=10.0)
    grid = constant_grid(100, 4, 20.0)
    before = [note for note in player.notes(long, grid, seed=1) if note.onset < 2.5]
    assert before == [note for note in player.notes(short, grid, seed=1) if note.onset < 2.5]


@pytest.mark.parametrize("seconds", [0.0, 0.01, 0.5, 3.84, 3.85, 7.9])
def test_songs_of_every_length(player: Player, seconds: float) -> None:
    performance = player.write(_audio(seconds), 8000)
    assert all(0 <= note.onset < seconds for note in performance.notes)
    assert all(note.pitch in map(pitch_of, DRUM_VOICES) and 1 <= note.velocity <= 127 for note in performance.notes)


def test_the_grid_is_heard(player: Player) -> None:
    audio, nothing = _audio(), BeatGrid((), ())
    grids = (nothing, constant_grid(90, 4, 12.0), constant_grid(140, 3, 12.0))
    written = [player.write(audio, 8000, grid=grid).notes for grid in grids]
    assert len(set(written)) == 3
    given = given_grid(constant_grid(140, 3, 12.0))
    assert (round(given.bpm), given.beats_per_bar, given.confidence) == (140, 3, 1.0)


def test_tags_and_bias_are_told(player: Player) -> None:
    audio = _audio()
    plain = player.write(audio, 8000).notes
    assert player.write(audio, 8000, settings=WritingSettings(bias=1.0, tags={"density": 1})).notes != plain
    assert len(player.write(audio, 8000, settings=WritingSettings(bias=-10)).notes) == 0
    late = WritingSettings(bias=1.0, sections=((6.0, {"style": 3}),))
    changed = player.write(audio, 8000, settings=late).notes
    assert [n for n in changed if n.onset < 6] == [n for n in plain if n.onset < 6]
    assert changed != plain
    for wrong in ({"density": 99}, {"colour": 1}):
        with pytest.raises(ValueError, match="no tag"):
            WritingSettings(tags=wrong)


def test_known_notes_are_kept_around_a_stretch(player: Player) -> None:
    notes = [Note(at / 4 + 0.005, 0.1, 38, 100) for at in range(48)]
    written = player.write(_audio(), 8000, known=Known(notes, ((4.0, 8.0),))).notes
    outside = [note for note in written if not 4 <= note.onset < 8]
    assert [round(n.onset, 6) for n in outside] == [round(n.onset, 6) for n in notes if not 4 <= n.onset < 8]
    assert {note.pitch for note in outside} == {38}
    assert len({note.pitch for note in written if 4 <= note.onset < 8}) > 1


def test_a_saved_player_is_loaded_without_torch(tmp_path: Path, model: TorchPlayer, player: Player) -> None:
    save_player(tmp_path, TINY, model.state_dict(), {"bias": 0.5, "tags": {"density": 5}})
    loaded = Player.from_pretrained(tmp_path)
    assert loaded.config == TINY
    assert loaded.settings == WritingSettings(bias=0.5, tags={"density": 5})
    # float16 rounds: the same take, but for strokes that were close to being others.
    audio, settings = _audio(2.0), WritingSettings(bias=1.0)
    found = {(n.onset, n.pitch) for n in loaded.write(audio, 8000, settings=settings).notes}
    expected = {(n.onset, n.pitch) for n in player.write(audio, 8000, settings=settings).notes}
    assert found & expected


def test_ten_minutes_need_no_more_memory_than_their_levels(player: Player) -> None:
    hearing = Hearing(np.full((3000, 12), -30, np.float16), 60.0, -20.0)
    assert sum(1 for _ in player.notes(hearing, BeatGrid((), ()), seed=0)) > 0
    assert hearing.levels.nbytes == 3000 * 12 * 2


def test_a_shipped_module_imports_no_torch() -> None:
    import subprocess
    import sys

    code = "import sys, stage_cli.core.players.generate; print('torch' in sys.modules, 'scipy.signal' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
