"""The kits that the package carries: every voice sounds, on time, where and as loud as it should."""

from __future__ import annotations

import functools
import itertools
from dataclasses import replace
from pathlib import Path

import mir_eval
import numpy as np
import pytest

from stage_cli.core.music.notes import DRUM_VOICES, Note, pitch_of
from stage_cli.core.players.instruments import ASSETS
from stage_cli.core.players.kits import PLACES, DrumKit, read_kit
from stage_cli.core.players.sampler import Sampler
from stage_cli.core.players.samples import stroke_level
from stage_cli.errors import StageError

KITS = sorted(path.parent.name for path in (ASSETS / "kits").glob("*/kit.toml"))
RATE = 44_100


@functools.cache
def load(name: str) -> DrumKit:
    return read_kit(ASSETS / "kits" / name)


def bare(name: str) -> Sampler:
    """Return a kit without its room and bus: each stroke is what its sample is."""
    return Sampler(replace(load(name), room=None, bus=None))


def render(name: str, *notes: Note, seconds: float = 3.0, rate: int = RATE, seed: int = 0) -> np.ndarray:
    return bare(name).render(notes, round(seconds * rate), rate, seed=seed)


def attack_of(sound: np.ndarray, rate: int) -> float:
    """Return the seconds at which a sound reaches a tenth of the peak of its first 30 ms."""
    size = np.abs(sound).max(axis=1)
    rough = int(np.argmax(size > 0.1 * size.max()))
    return int(np.argmax(size > 0.1 * size[rough : rough + round(0.03 * rate)].max())) / rate


def test_there_are_kits() -> None:
    assert {"acoustic"} <= set(KITS)


@pytest.mark.parametrize("name", KITS)
@pytest.mark.parametrize("voice", DRUM_VOICES)
def test_every_voice_sounds_on_time(name: str, voice: str) -> None:
    for rate in (44_100, 48_000) if name == "acoustic" else (44_100,):
        for number, velocity in enumerate((20, 100)):
            onset = 0.2 + number / 7
            out = render(name, Note(onset, 0.1, pitch_of(voice), velocity), rate=rate, seed=number)
            assert np.isfinite(out).all()
            assert np.abs(out).max() > 1e-4
            assert abs(attack_of(out, rate) - onset) <= 0.001, (rate, velocity)
            # 0.5 ms lie before the attack; before them nothing sounds.
            assert not out[: round(onset * rate) - 1].any()


@pytest.mark.parametrize("name", KITS)
def test_loudness_follows_velocity(name: str) -> None:
    for voice in DRUM_VOICES:
        strokes = [Note(0.1, 0.1, pitch_of(voice), velocity) for velocity in range(12, 128, 23)]
        levels = [stroke_level(render(name, stroke), RATE) for stroke in strokes]
        assert (np.diff(levels) > 0).all(), voice
        assert 12 < levels[-1] - levels[0] < 44, voice


@pytest.mark.parametrize("name", KITS)
def test_the_balance_is_that_of_a_mix(name: str) -> None:
    kit = load(name)
    for voice in DRUM_VOICES:
        sound = kit.sound_of(pitch_of(voice))
        assert sound is not None
        out = render(name, Note(0.1, 0.1, pitch_of(voice), 127))
        assert stroke_level(out, RATE) == pytest.approx(sound.place.level + kit.gain + 3, abs=3), voice
        assert abs(sound.place.level - PLACES[voice].level) <= 8, voice


@pytest.mark.parametrize("name", KITS)
def test_kick_snare_and_hat_lie_above_each_other(name: str) -> None:
    def centroid(voice: str) -> float:
        out = render(name, Note(0.0, 0.1, pitch_of(voice), 100), seconds=1).sum(axis=1)
        power = np.abs(np.fft.rfft(out)) ** 2
        return float((power * np.fft.rfftfreq(len(out), 1 / RATE)).sum() / power.sum())

    kick, snare, hat = map(centroid, ("kick", "snare", "closed_hat"))
    assert kick < 0.5 * snare
    assert 1.5 * snare < hat
    assert kick < 400


@pytest.mark.parametrize("name", KITS)
def test_a_closed_hat_silences_the_open_one(name: str) -> None:
    opened = Note(0.1, 0.1, pitch_of("open_hat"), 110)
    for voice in ("closed_hat", "pedal_hat"):
        closed = Note(0.25, 0.1, pitch_of(voice), 1)
        free = render(name, opened)
        choked = render(name, opened, closed)
        cut = round(0.25 * RATE)
        after = slice(cut + round(0.1 * RATE), None)
        assert np.abs(choked[after]).max() < 0.1 * np.abs(free[after]).max()
        fading = slice(cut, cut + round(0.1 * RATE))
        assert np.abs(np.diff(choked[fading], axis=0)).max() <= 1.2 * np.abs(np.diff(free[fading], axis=0)).max()


@pytest.mark.parametrize("name", KITS)
def test_no_stroke_ends_in_a_click(name: str) -> None:
    for voice in DRUM_VOICES:
        out = render(name, Note(0.0, 0.1, pitch_of(voice), 127), seconds=7)
        last = int(np.flatnonzero(np.abs(out).max(axis=1))[-1])
        assert last < len(out) - 1, voice
        assert np.abs(np.diff(out[last - 20 :], axis=0)).max() < 3e-3 * np.abs(out).max(), voice


@pytest.mark.parametrize("name", KITS)
def test_takes_do_not_repeat(name: str) -> None:
    for voice in ("kick", "snare", "closed_hat"):
        notes = [Note(number * 2.0, 0.1, pitch_of(voice), 96) for number in range(8)]
        out = render(name, *notes, seconds=16)
        strokes = [out[round(note.onset * RATE) :][: RATE // 5, 0] for note in notes]
        strokes = [stroke / np.abs(stroke).max() for stroke in strokes]
        for before, after in itertools.pairwise(strokes):
            assert np.abs(before - after).max() > 1e-3, voice


@pytest.mark.parametrize("name", KITS)
def test_a_seed_fixes_the_takes(name: str) -> None:
    voices = itertools.islice(itertools.cycle(DRUM_VOICES), 30)
    notes = [Note(number * 0.21, 0.1, pitch_of(voice), 40 + number) for number, voice in enumerate(voices)]
    sampler = Sampler(load(name))
    first, again, other = (sampler.render(notes, 7 * RATE, RATE, seed=seed) for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    fresh = Sampler(read_kit(ASSETS / "kits" / name)).render(notes, 7 * RATE, RATE, seed=1)
    assert np.array_equal(first, fresh)


@pytest.mark.parametrize("name", KITS)
def test_voices_stand_where_a_drummer_sees_them(name: str) -> None:
    def side(voice: str) -> float:
        energy = (render(name, Note(0.0, 0.1, pitch_of(voice), 100)) ** 2).sum(axis=0)
        return float(10 * np.log10(energy[1] / energy[0]))

    assert abs(side("kick")) < 0.5
    assert abs(side("snare")) < 1.5
    assert side("closed_hat") < -1
    assert side("high_tom") < side("mid_tom") < side("low_tom")
    assert side("ride") > 1


@pytest.mark.parametrize("name", KITS)
def test_onsets_are_found_again(name: str) -> None:
    """Kick, snare and toms, well apart: an energy detector finds each within 10 ms, and nothing else."""
    rng = np.random.default_rng(4)
    onsets = 0.5 + np.cumsum(rng.uniform(0.35, 0.7, 60))
    voices = rng.choice(["kick", "snare", "side_stick", "high_tom", "low_tom", "closed_hat"], 60)
    notes = [
        Note(float(onset), 0.1, pitch_of(voice), int(rng.integers(80, 127)))
        for onset, voice in zip(onsets, voices, strict=True)
    ]
    out = Sampler(load(name)).render(notes, round((onsets[-1] + 1) * RATE), RATE, seed=3)
    found = energy_onsets(out.mean(axis=1), RATE)
    f, _, _ = mir_eval.onset.f_measure(onsets, found, window=0.01)
    assert f >= 0.98


def energy_onsets(mono: np.ndarray, rate: int) -> np.ndarray:
    """Return the seconds where the power of 2 ms is 6 dB over that of the 30 ms before, 100 ms apart or more."""
    hop = rate // 500
    bright = np.diff(mono, prepend=0.0) * 8 + mono
    power = np.square(bright[: len(bright) // hop * hop]).reshape(-1, hop).mean(axis=1) + 1e-9
    found: list[int] = []
    for number in range(15, len(power)):
        rises = power[number] > max(1e-5, 4 * power[number - 15 : number].max())
        if rises and (not found or number - found[-1] > 50):
            found.append(number)
    return np.array(found) * hop / rate


def test_a_bad_kit_file_names_its_field(tmp_path: Path) -> None:
    folder = tmp_path / "kit"
    folder.mkdir()
    (folder / "kit.toml").write_text('[sounds.kick]\nfile = "kick.ogg"\nlayers = [{level = 3, takes = [[0, 5]]}]\n')
    with pytest.raises(StageError, match=r"sounds\.kick") as caught:
        read_kit(folder)
    assert "velocity" in caught.value.why
    (folder / "kit.toml").write_text('[sounds.kick]\nfile = "../kick.ogg"\nlayers = []\n')
    with pytest.raises(StageError, match=r"sounds\.kick"):
        read_kit(folder)
    (folder / "kit.toml").write_text("title = 'empty'\n")
    with pytest.raises(StageError, match="no kick"):
        read_kit(folder)
    (folder / "kit.toml").write_text("title = \n")
    with pytest.raises(StageError, match="no valid TOML"):
        read_kit(folder)
