"""Effects of recordings: what they do to a mix, and what they leave as it is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from prepared_songs import write_song
from scipy.signal import sosfreqz

from stage_cli.core.data import augment
from stage_cli.core.data.augment import biquad, record
from stage_cli.core.data.config import DataConfig
from stage_cli.core.data.dataset import StemDataset

RATE = 24000


def clicks(seconds: float = 3.0, gap: float = 0.5) -> np.ndarray:
    """Short bursts of noise, each `gap` seconds."""
    rng = np.random.default_rng(1)
    audio = np.zeros(round(seconds * RATE), dtype=np.float32)
    for start in np.arange(0.25, seconds - 0.1, gap):
        first = round(start * RATE)
        audio[first : first + 400] = rng.uniform(-0.5, 0.5, 400) * np.linspace(1, 0, 400)
    return audio


def attacks(audio: np.ndarray) -> np.ndarray:
    """Seconds at which the energy of 5 ms rises most, the loudest of each half second."""
    hop = RATE // 200
    energy = np.square(audio[: len(audio) // hop * hop].reshape(-1, hop)).mean(axis=1)
    rise = np.diff(np.sqrt(energy), prepend=0).clip(min=0)
    return np.array([start + int(rise[start : start + 100].argmax()) for start in range(0, len(rise) - 99, 100)]) / 200


def test_each_draw_sounds_different_and_is_repeatable() -> None:
    mix = clicks()
    made = [record(mix, RATE, np.random.default_rng(seed)) for seed in range(12)]
    again = [record(mix, RATE, np.random.default_rng(seed)) for seed in range(12)]
    for one, two in zip(made, again, strict=True):
        assert np.array_equal(one, two)
        assert one.dtype == np.float32
        assert one.shape == mix.shape
        assert np.isfinite(one).all()
        assert 0.05 < np.abs(one).max() <= 1
    assert len({audio.tobytes() for audio in made}) == 12


@pytest.mark.parametrize("seed", range(20))
def test_no_onset_moves(seed: int) -> None:
    mix = clicks()
    made = record(mix, RATE, np.random.default_rng(seed))
    assert np.abs(attacks(made) - attacks(mix)).max() <= 0.01


def test_silence_stays_silence() -> None:
    silence = np.zeros(RATE, dtype=np.float32)
    assert not record(silence, RATE, np.random.default_rng(0)).any()
    assert record(silence[:0], RATE, np.random.default_rng(0)).shape == (0,)


@pytest.mark.parametrize(("kind", "low", "middle", "high"), [("low", 6, 0, 0), ("high", 0, 0, 6), ("peak", 0, 6, 0)])
def test_an_equalizer_band_raises_its_band_only(kind: str, low: float, middle: float, high: float) -> None:
    section = np.array([biquad(kind, {"low": 200, "peak": 1000, "high": 6000}[kind], 6.0, RATE)])
    _, response = sosfreqz(section, worN=[20, 1000, 11500], fs=RATE)
    assert 20 * np.log10(np.abs(response)) == pytest.approx([low, middle, high], abs=0.35)


@pytest.mark.parametrize("rate", [16000, 24000, 32000, 44100])
def test_lossy_coding_adds_no_delay(rate: int) -> None:
    noise = np.random.default_rng(0).standard_normal(rate) / 8
    coded = augment._code(noise, rate, 1.0)
    assert coded.shape == noise.shape
    spectra = np.fft.rfft(noise, 2 * rate).conj() * np.fft.rfft(coded, 2 * rate)
    assert int(np.fft.irfft(spectra).argmax()) == 0
    assert not np.allclose(coded / np.abs(coded).max(), noise / np.abs(noise).max(), atol=1e-3)


def test_the_share_of_metronomes(tmp_path: Path) -> None:
    write_song(tmp_path / "song")
    for share, expected in ((0.0, {"mix"}), (1.0, {"metronome"}), (0.2, {"mix", "metronome"})):
        config = DataConfig(
            root=(str(tmp_path),), split="none", chunk_seconds=1.0, context_seconds=(1.0, 1.0), speed_probability=0.0,
            pitch_probability=0.0, metronome_share=share,
        )  # fmt: skip
        dataset = StemDataset(config, RATE, 0)
        kinds = [dataset[index].context_kind for index in range(len(dataset))]
        assert set(kinds) == expected
        assert abs(kinds.count("metronome") / len(kinds) - share) < 0.25


def test_the_data_set_changes_mixes_and_nothing_else(tmp_path: Path) -> None:
    root = tmp_path
    for number in range(3):
        write_song(root / f"song-{number}")
    plain = DataConfig(root=(str(root),), split="none", speed_probability=0.0, pitch_probability=0.0)
    changed = DataConfig(
        root=(str(root),), split="none", speed_probability=0.0, pitch_probability=0.0, effects_probability=0.5
    )
    clean, recorded = StemDataset(plain, RATE, 0), StemDataset(changed, RATE, 0)
    kinds = set()
    for epoch in range(4):
        clean.set_epoch(epoch)
        recorded.set_epoch(epoch)
        for index in range(len(clean)):
            one, two = clean[index], recorded[index]
            assert np.array_equal(one.target, two.target)
            assert one.start == two.start
            kinds.add((one.context_kind, np.array_equal(one.context, two.context)))
    assert kinds == {("metronome", True), ("mix", True), ("mix", False)}
    assert changed.without_augmentation().effects_probability == 0
