"""Key agreement and chroma similarity; chroma of tones beside librosa's."""

from __future__ import annotations

import math

import librosa
import mir_eval
import numpy as np
import pytest

from stage_cli.core.evaluation.metrics import chroma_similarity, key_agreement
from stage_cli.core.music.detection import CHROMA_HOP, CHROMA_RATE, chroma

NAMES = ("C", "Db", "D", "Eb", "E", "F", "F#", "G", "Ab", "A", "Bb", "B")


@pytest.mark.parametrize(
    ("key", "score"),
    [
        ("D minor", 1),
        ("A minor", 0.5),  # a fifth above
        ("G minor", 0),  # a fifth below
        ("F major", 0.3),  # relative
        ("D major", 0.2),  # parallel
        ("Bb major", 0),
        (None, 0),
    ],
)
def test_key_agreement(key: str | None, score: float) -> None:
    assert key_agreement(key, "D minor") == score


def test_key_agreement_is_mir_evals() -> None:
    keys = [f"{name} {scale}" for name in NAMES for scale in ("major", "minor")]
    for reference in keys:
        assert [key_agreement(key, reference) for key in keys] == [
            mir_eval.key.weighted_score(reference, key) for key in keys
        ]
    assert key_agreement("Gb major", "F# major") == 1
    assert math.isnan(key_agreement("C major", None))


def test_bad_keys() -> None:
    with pytest.raises(ValueError, match="Key H is invalid"):
        key_agreement("H major", "C major")
    with pytest.raises(ValueError, match="Mode 'dorian' is invalid"):
        key_agreement("C major", "C dorian")


def tones(pitches: list[float], seconds: float = 2.0, rate: int = 32_000, partials: int = 4) -> np.ndarray:
    time = np.arange(round(seconds * rate)) / rate
    waves = [
        np.sin(2 * np.pi * 440 * 2 ** ((pitch - 69) / 12) * n * time) / n**1.5
        for pitch in pitches
        for n in range(1, partials + 1)
    ]
    return (0.1 * np.sum(waves, axis=0)).astype(np.float32)


@pytest.mark.parametrize("pitch", [28, 29, 33, 40, 41, 52, 60, 67, 71, 84])
def test_the_pitch_class_of_a_tone(pitch: int) -> None:
    """From the lowest string of a bass on, whose neighbour is 2.5 Hz away."""
    frames = chroma(tones([pitch], partials=3), 32_000)
    assert frames.shape == (2 * CHROMA_RATE // CHROMA_HOP + 1, 12)
    inner = frames[3:-3]
    assert (inner.argmax(axis=1) == pitch % 12).all()
    np.testing.assert_allclose(np.linalg.norm(inner, axis=1), 1)


@pytest.mark.parametrize("pitch", [45, 60, 70])
def test_a_pure_tone_has_one_pitch_class(pitch: int) -> None:
    inner = chroma(tones([pitch], partials=1), 32_000)[3:-3]
    assert inner[:, pitch % 12].min() > 0.999
    between = chroma(tones([pitch + 0.5], partials=1), 32_000)[3:-3]
    np.testing.assert_allclose(between[:, [pitch % 12, (pitch + 1) % 12]], 0.5**0.5, atol=0.03)


@pytest.mark.parametrize("chord", [[48, 52, 55], [57, 60, 64], [50, 57, 65, 72], [43, 59, 62, 65]])
def test_chords_beside_librosa(chord: list[int]) -> None:
    audio = tones(chord)
    ours = chroma(audio, 32_000)[5:-5].mean(axis=0)
    theirs = librosa.feature.chroma_stft(y=audio, sr=32_000, n_fft=16_384, tuning=0.0)
    theirs = theirs[:, 10:-10].mean(axis=1)
    assert ours @ theirs / np.linalg.norm(ours) / np.linalg.norm(theirs) > 0.9
    played = sorted({pitch % 12 for pitch in chord})
    assert sorted(np.argsort(ours)[-len(played) :].tolist()) == played


def test_loudness_and_rate_do_not_matter() -> None:
    audio = tones([48, 64])
    reference = chroma(audio, 32_000)
    np.testing.assert_allclose(chroma(0.3 * audio, 32_000), reference, atol=1e-5)
    other = chroma(tones([48, 64], rate=44_100), 44_100)
    assert chroma_similarity(other, reference) > 0.999


def test_similarity_of_tones() -> None:
    c, e = chroma(tones([60], partials=1), 32_000), chroma(tones([64], partials=1), 32_000)
    both = chroma(tones([60, 64], partials=1), 32_000)
    assert chroma_similarity(c, c) == pytest.approx(1)
    assert chroma_similarity(chroma(tones([72], partials=1), 32_000), c) > 0.99  # an octave is the same
    assert chroma_similarity(c, e) < 0.02
    assert chroma_similarity(both, c) == pytest.approx(0.5**0.5, abs=0.04)


def test_only_frames_in_which_the_true_stem_sounds_count() -> None:
    c, e, rest = np.eye(12)[0], np.eye(12)[4], np.zeros(12)
    reference = np.array([c, c, rest, rest, c, c])
    assert chroma_similarity(np.array([c, e, c, e, 5 * c, rest]), reference) == pytest.approx(0.5)
    assert chroma_similarity(np.array([c, c, c]), reference) == pytest.approx(0.5)  # the rest is silence
    assert chroma_similarity(np.array([c] * 9), reference) == 1
    assert math.isnan(chroma_similarity(reference, np.zeros((6, 12))))
    assert math.isnan(chroma_similarity(reference, np.zeros((0, 12))))


def test_silence_has_no_chroma() -> None:
    audio = np.concatenate((tones([60]), np.zeros(64_000, dtype=np.float32), 0.02 * tones([60])))
    frames = chroma(audio, 32_000)
    assert frames[3:18].any(axis=1).all()
    assert not frames[23:].any()
    assert not chroma(np.zeros(0), 32_000).any()


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (np.zeros((12, 5)), r"\[frames, 12\], not \[12, 5\]"),
        (-np.ones((5, 12)), "finite and not negative"),
        (np.full((5, 12), np.nan), "finite and not negative"),
    ],
)
def test_bad_chroma(table: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=f"chroma must be {message}"):
        chroma_similarity(table, np.ones((5, 12)))
    with pytest.raises(ValueError, match=f"reference must be {message}"):
        chroma_similarity(np.ones((5, 12)), table)
