"""Metrics: pure functions of audio, times or embeddings. Each module says its conventions.

Times of beats and onsets, as the music metrics take them: `[times]` in seconds, rising.

Beats of a stem against the beats of its song: Beat F1, CMLt and AMLt, by mir_eval.

- Beat F1: beats are matched one to one within ±70 ms; harmonic mean of the share of the stem's beats and of the song's
  beats that are matched. Half or double the tempo gives about 0.67.
- CMLt: share of beats that are right together with their interval to the beat before, both within 17.5 % of the song's
  interval (so not ±70 ms: ±88 ms at 120 bpm). Half or double the tempo gives 0.
- AMLt: likewise, but the stem may have its beats between the song's, or half or double the tempo.

The first argument is the truth: the annotated beats of the song, or the click grid. All are 0 to 1, and nan where there
is no truth: for F1 no beat in it, for the others fewer than two. Where the stem has too few beats they are 0. Nothing
is trimmed: mir_eval's own programs drop the first five seconds, which is half of a clip. Sources: Raffel et al.,
"mir_eval", ISMIR 2014; Davies, Degara and Plumbley, "Evaluation methods for musical audio beat tracking algorithms",
2009.

Chroma similarity: how far a pitched stem plays the harmony that the true stem plays, at the same time.

The mean, over the frames in which the true stem sounds, of the cosine between the pitch classes of both stems. Frames
are fixed, ten a second (`detection.chroma`), not synchronised to beats: whoever changes the chord late loses. Loudness
and octaves do not matter. 0 to 1; a frame in which only the true stem sounds counts 0, frames in which only the other
one sounds do not count. Another melody over the same chord is well below 1: the scale's zero is a stem of another song.

Key of a stem against that of its song: MIREX's weighted score, by mir_eval.

1 for the same key; 0.5 for a fifth above it, same mode; 0.3 for its relative key (A minor for C major); 0.2 for its
parallel key (C minor for C major); 0 for any other. Sharps and flats are the same (F# = Gb). A single stem tells a key
less surely than a whole song, a bass least: compare with the true stem. Source: Raffel et al., "mir_eval", ISMIR 2014.

Levels of a stem: loudness, its difference from the true stem, silence and clipping.

- Loudness: integrated, LUFS, ITU-R BS.1770-4 (`core.loudness`); nan for what is silent or shorter than 0.4 s.
- Loudness difference: absolute, in LU (dB), to the true stem; nan where one of them has no loudness.
- Silent: 1 for a stem whose peak is below 0.01 (−40 dBFS), the limit below which training takes a chunk as silent
  (docs/dev/model.md); else 0.
- Clipped: share of the samples that stand at full scale, 0.9999 or more.

Onsets of a stem against the time grid of its context: onset F.

- Grid: the 8th notes of the context, that is its beats and the points midway between them, carried on to both ends of
  the clip at the tempo of the first and the last beats. Straight 8ths are meant: swung 8ths, triplets and 16ths lie
  beside the grid, so a true stem is not at 1. Compare with the true stem, not with 1. Where a beat is a dotted quarter
  (6/8) the points midway are no 8ths, and precision is low for the true stem too.
- Precision: share of the stem's onsets within ±30 ms of the grid; nan for a stem without onsets.
- Recall: share of the context's beats within ±50 ms of which the stem has an onset.
- Onset F: their harmonic mean; 0 for a stem without onsets, and where both are 0.

All are 0 to 1, and nan where there is no grid: fewer than two beats. A limit holds for times that lie exactly on it.
Chance is not 0: at 120 bpm the grid takes 24 % of all times, and onsets at random reach 0.24 (three a second) to 0.31
(six). A stem that is late by a constant 0.1 s may well be below that.

Tempo of a stem against that of its song, whatever octave it is heard in.

The tempo error is the smallest relative distance |bpm − f · reference| / (f · reference) over the factors f = ⅓, ½, 1,
2 and 3: people tap one piece at half or double the tempo, and in threes. A tempo is right if its error is at most 4 %.
Both are what the field calls Accuracy 2 (Gouyon et al., "An experimental comparison of audio tempo induction
algorithms", 2006). No tempo is far from all factors: between a third and three times the reference the error is ⅓ at
most. Of two tempi drawn at random from 70 to 180 (even in the logarithm) 13 % are right, and the mean error is 0.16.

Whose stem a shuffled pair takes: for each item, an item of another song.
"""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Sequence

import numpy as np

from stage_cli.core.audio.loudness import ACTIVE_PEAK, LoudnessMeter

Times = Sequence[float] | np.ndarray


def rising_times(times: Times, name: str) -> np.ndarray:
    """Check times and return them in float64, `[times]`; there may be none.

    Raises:
        ValueError: they are no list of finite seconds from 0 on that rise.
    """
    seconds = np.asarray(times, dtype=np.float64)
    if seconds.ndim != 1:
        raise ValueError(f"{name} must be a list of times, not of shape {list(seconds.shape)}")
    if not (np.isfinite(seconds).all() and (seconds >= 0).all()):
        raise ValueError(f"{name} must be finite and not negative")
    if (np.diff(seconds) <= 0).any():
        raise ValueError(f"{name} must rise")
    return seconds


BEAT_TOLERANCE = 0.07
"""Seconds, of Beat F1."""


def beat_f1(reference: Times, estimated: Times) -> float:
    """Return Beat F1; nan without beats in the reference.

    Args:
        reference: beats of the song in seconds.
        estimated: beats heard in the stem.

    Raises:
        ValueError: times are negative or not finite, or do not rise.
    """
    import mir_eval

    truth, heard = rising_times(reference, "reference beats"), rising_times(estimated, "estimated beats")
    if not len(truth):
        return math.nan
    if not len(heard):
        return 0.0
    return float(mir_eval.beat.f_measure(truth, heard, f_measure_threshold=BEAT_TOLERANCE))


def beat_cmlt(reference: Times, estimated: Times) -> float:
    """Return CMLt, the beats that are right at the correct metrical level; nan for fewer than two reference beats.

    Args:
        reference: beats of the song in seconds.
        estimated: beats heard in the stem.

    Raises:
        ValueError: times are negative or not finite, or do not rise.
    """
    return _continuity(reference, estimated)[0]


def beat_amlt(reference: Times, estimated: Times) -> float:
    """Return AMLt, the beats that are right at any allowed metrical level; nan for fewer than two reference beats.

    Args:
        reference: beats of the song in seconds.
        estimated: beats heard in the stem.

    Raises:
        ValueError: times are negative or not finite, or do not rise.
    """
    return _continuity(reference, estimated)[1]


def _continuity(reference: Times, estimated: Times) -> tuple[float, float]:
    """Return CMLt and AMLt."""
    import mir_eval

    truth, heard = rising_times(reference, "reference beats"), rising_times(estimated, "estimated beats")
    if len(truth) < 2:
        return math.nan, math.nan
    if len(heard) < 2:
        return 0.0, 0.0
    with warnings.catch_warnings():
        # Of two reference beats, some of the allowed levels have one beat or none: worth 0, and no warning.
        warnings.simplefilter("ignore", UserWarning)
        _, correct, _, allowed = mir_eval.beat.continuity(truth, heard)
    return float(correct), float(allowed)


_PITCH_CLASSES = 12


def chroma_similarity(chroma: np.ndarray, reference: np.ndarray) -> float:
    """Return the mean cosine of two chromagrams; nan where the reference is silent throughout.

    Args:
        chroma: of the stem, `[frames, 12]`, not negative; silent frames are 0. A shorter one ends in silence.
        reference: of the true stem; its length counts.

    Raises:
        ValueError: a chromagram is not `[frames, 12]`, negative or not finite.
    """
    for name, table in (("chroma", chroma), ("reference", reference)):
        if table.ndim != 2 or table.shape[1] != _PITCH_CLASSES:
            raise ValueError(f"{name} must be [frames, 12], not {list(table.shape)}")
        if not (np.isfinite(table).all() and (table >= 0).all()):
            raise ValueError(f"{name} must be finite and not negative")
    missing = max(0, len(reference) - len(chroma))
    heard = np.pad(chroma[: len(reference)], ((0, missing), (0, 0)))
    sounding = reference.any(axis=1)
    if not sounding.any():
        return math.nan
    heard, truth = heard[sounding], reference[sounding]
    lengths = np.linalg.norm(heard, axis=1) * np.linalg.norm(truth, axis=1)
    cosines = np.divide((heard * truth).sum(axis=1), lengths, out=np.zeros(len(truth)), where=lengths > 0)
    return float(np.minimum(cosines, 1.0).mean())


def key_agreement(key: str | None, reference: str | None) -> float:
    """Return the weighted score of a key; nan without a reference (None). No key at all scores 0.

    Args:
        key: of the stem, such as "F# minor"; None where none was found.
        reference: of its song.

    Raises:
        ValueError: a key is not of the form "F# minor".
    """
    import mir_eval

    for name in (key, reference):
        if name is not None:
            mir_eval.key.validate_key(name)
    if reference is None:
        return math.nan
    return 0.0 if key is None else float(mir_eval.key.weighted_score(reference, key))


FULL_SCALE = 0.9999
"""Just below the highest sample of 16-bit audio."""


def loudness(audio: np.ndarray, sample_rate: int) -> float:
    """Return the integrated loudness in LUFS; nan for what is silent or shorter than 0.4 s.

    Args:
        audio: `[samples]`.
        sample_rate: Hz.

    Raises:
        ValueError: the audio is not mono or not finite.
    """
    meter = LoudnessMeter(sample_rate, 1)
    meter.push(_mono(audio))
    return meter.integrated if math.isfinite(meter.integrated) else math.nan


def loudness_difference(loudness: float, reference: float) -> float:
    """Return how far two loudnesses (LUFS) are apart, in LU, not negative; nan where one is nan."""
    return abs(loudness - reference)


def silent(audio: np.ndarray) -> float:
    """Return 1 where the peak of `[samples]` is below −40 dBFS, else 0.

    Raises:
        ValueError: the audio is not mono or not finite.
    """
    return float(np.abs(_mono(audio)).max(initial=0.0) < ACTIVE_PEAK)


def clipped(audio: np.ndarray) -> float:
    """Return the share of `[samples]` that stand at full scale; nan for no samples.

    Raises:
        ValueError: the audio is not mono or not finite.
    """
    levels = np.abs(_mono(audio))
    return float((levels >= FULL_SCALE).mean()) if len(levels) else math.nan


def _mono(audio: np.ndarray) -> np.ndarray:
    if audio.ndim != 1:
        raise ValueError(f"audio must be mono, [samples], not {list(audio.shape)}")
    if not np.isfinite(audio).all():
        raise ValueError("audio must be finite")
    return audio


GRID_TOLERANCE = 0.03
"""Seconds, of precision."""

BEATS_PLAYED_TOLERANCE = 0.05
"""Seconds, of recall."""

_ROUNDING = 1e-9


def eighth_grid(beats: Times, seconds: float) -> np.ndarray:
    """Return the 8th notes of a clip, `[times]` in seconds from 0 to its end; none for fewer than two beats.

    Args:
        beats: seconds.
        seconds: length of the clip.

    Raises:
        ValueError: beats are negative or not finite, or do not rise, or the length is not above 0.
    """
    times = rising_times(beats, "beats")
    if not (math.isfinite(seconds) and seconds > 0):
        raise ValueError(f"a clip's length must be above 0 seconds, not {seconds}")
    if len(times) < 2:
        return np.zeros(0)
    opening, closing = (times[1] - times[0]) / 2, (times[-1] - times[-2]) / 2
    before = times[0] - opening * np.arange(math.floor(times[0] / opening + _ROUNDING), 0, -1)
    steps = max(0, math.floor((seconds - times[-1]) / closing + _ROUNDING))
    after = times[-1] + closing * np.arange(1, steps + 1)
    inside = np.interp(np.arange(2 * len(times) - 1) / 2, np.arange(len(times)), times)
    grid = np.concatenate((before, inside, after))
    return np.clip(grid[grid <= seconds + _ROUNDING], 0, seconds)


def onset_precision(onsets: Times, grid: Times) -> float:
    """Return the share of onsets within ±30 ms of a grid; nan without onsets or grid.

    Args:
        onsets: of the stem, seconds.
        grid: of the context, from `eighth_grid`.

    Raises:
        ValueError: times are negative or not finite, or do not rise.
    """
    heard, times = rising_times(onsets, "onsets"), rising_times(grid, "the grid")
    return _share_near(heard, times, GRID_TOLERANCE) if len(heard) and len(times) else math.nan


def onset_recall(onsets: Times, beats: Times) -> float:
    """Return the share of beats within ±50 ms of which there is an onset; nan for fewer than two beats.

    Args:
        onsets: of the stem, seconds.
        beats: of the context.

    Raises:
        ValueError: times are negative or not finite, or do not rise.
    """
    heard, times = rising_times(onsets, "onsets"), rising_times(beats, "beats")
    return _share_near(times, heard, BEATS_PLAYED_TOLERANCE) if len(times) > 1 else math.nan


def onset_f(onsets: Times, beats: Times, seconds: float) -> float:
    """Return onset F of a clip; nan for fewer than two beats.

    Args:
        onsets: of the stem, seconds.
        beats: of the context.
        seconds: length of the clip.

    Raises:
        ValueError: times are negative or not finite, or do not rise, or the length is not above 0.
    """
    grid = eighth_grid(beats, seconds)
    recall = onset_recall(onsets, beats)
    if not len(grid):
        return math.nan
    precision = onset_precision(onsets, grid)
    if math.isnan(precision) or precision + recall == 0:
        return 0.0
    return 2 * precision * recall / (precision + recall)


def _share_near(times: np.ndarray, others: np.ndarray, tolerance: float) -> float:
    """Return the share of times that have one of the others within a tolerance."""
    if not len(others):
        return 0.0
    after = np.searchsorted(others, times)
    distances = np.minimum(
        np.abs(times - others[np.maximum(after - 1, 0)]), np.abs(times - others[np.minimum(after, len(others) - 1)])
    )
    return float((distances <= tolerance + _ROUNDING).mean())


FACTORS = (1 / 3, 1 / 2, 1.0, 2.0, 3.0)

TEMPO_TOLERANCE = 0.04
"""Relative error of a tempo that is right."""


def tempo_error(bpm: float | None, reference: float | None) -> float:
    """Return the octave-aware relative error of a tempo; nan where the stem or the reference has none (None).

    Args:
        bpm: beats a minute of the stem.
        reference: of its song.

    Raises:
        ValueError: a tempo is not finite or not above 0.
    """
    for name, value in (("bpm", bpm), ("reference", reference)):
        if value is not None and not (math.isfinite(value) and value > 0):
            raise ValueError(f"{name} must be above 0, not {value}")
    if bpm is None or reference is None:
        return math.nan
    return min(abs(bpm - factor * reference) / (factor * reference) for factor in FACTORS)


def tempo_right(bpm: float | None, reference: float | None) -> float:
    """Return 1 where the tempo error is at most 4 %, else 0; nan without a reference. No tempo at all is not right.

    Args:
        bpm: beats a minute of the stem.
        reference: of its song.

    Raises:
        ValueError: a tempo is not finite or not above 0.
    """
    error = tempo_error(bpm, reference)
    return math.nan if reference is None else float(error <= TEMPO_TOLERANCE)


def other_songs(songs: Sequence[str], *, seed: int) -> list[int]:
    """Return for each item the index of an item of another song.

    Where no song has more than half of the items, every item is used exactly once, so shuffled sets hold the same stems
    as true ones. Otherwise items may be used more than once.

    Args:
        songs: the song of each item.
        seed: of the shuffle.

    Raises:
        ValueError: there are not two songs.
    """
    counts = Counter(songs)
    if len(counts) < 2:
        raise ValueError("shuffled pairs need items of at least two songs")
    generator = np.random.default_rng(seed)
    largest = max(counts.values())
    if 2 * largest > len(songs):
        others = {song: [i for i, other in enumerate(songs) if other != song] for song in counts}
        return [int(generator.choice(others[song])) for song in songs]
    # Songs in random order, their items side by side: a step of the largest song's size always leaves the song.
    names = list(counts)
    place = {names[name]: position for position, name in enumerate(generator.permutation(len(names)))}
    order = sorted(generator.permutation(len(songs)).tolist(), key=lambda item: place[songs[item]])
    partner = {item: order[(i + largest) % len(order)] for i, item in enumerate(order)}
    return [partner[item] for item in range(len(songs))]
