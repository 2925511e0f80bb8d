"""The music metrics of one item: what is heard in a stem, and how that fits what is true of its song.

Hearing is slow and happens once for each stem (`hear`); comparing is fast and may happen many times (`compare`): a
system's stem is compared with its own song, and, for the shuffled anchor, with another one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from stage_cli.core.evaluation import metrics
from stage_cli.core.evaluation.metrics import chroma_similarity, key_agreement, rising_times, tempo_error, tempo_right
from stage_cli.core.music.detection import chroma, find_key, find_onsets, track_beats
from stage_cli.core.music.rhythm import Key, tempo

PERCUSSIVE_STEMS = frozenset({"drums", "percussion"})
"""Stems without a key."""

PITCHED_METRICS: tuple[str, ...] = ("key_agreement", "chroma_similarity")
"""What is measured of all other stems only."""


@dataclass(frozen=True, eq=False)
class ItemTruth:
    """What is true of an item's clip of a song.

    Attributes:
        seconds: length of the clip.
        beats: `[beats]`, annotated, or the click grid; seconds from the start of the clip, rising, within it.
        bpm: beats a minute; None takes it from the beats.
        key: of the song; None where unknown.
        target: the true stem, `[samples]`; None where there is none.
        target_rate: Hz of the true stem.

    Raises:
        ValueError: the length is not above 0, beats do not rise from 0 on, or the true stem has no rate.
    """

    seconds: float
    beats: np.ndarray
    bpm: float | None = None
    key: Key | None = None
    target: np.ndarray | None = None
    target_rate: int = 0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.seconds) and self.seconds > 0):
            raise ValueError(f"a clip's length must be above 0 seconds, not {self.seconds}")
        rising_times(self.beats, "beats")
        if self.target is not None and self.target_rate <= 0:
            raise ValueError(f"the true stem needs its sample rate, not {self.target_rate}")

    @cached_property
    def tempo(self) -> float | None:
        """Beats a minute; None for fewer than two beats, unless it is known."""
        return tempo(self.beats) if self.bpm is None else self.bpm

    @cached_property
    def loudness(self) -> float:
        """LUFS of the true stem; nan where it is silent, or where there is none."""
        return math.nan if self.target is None else metrics.loudness(self.target, self.target_rate)

    @cached_property
    def chroma(self) -> np.ndarray:
        """Pitch classes of the true stem, `[frames, 12]`; no frames where there is none."""
        return np.zeros((0, 12)) if self.target is None else chroma(self.target, self.target_rate)


@dataclass(frozen=True, eq=False)
class Analysis:
    """What is heard in a stem.

    Attributes:
        beats: seconds.
        bpm: None where no beats are heard.
        onsets: `[onsets]` seconds.
        loudness: LUFS; nan where it is silent.
        silent: 1 or 0.
        clipped: share of the samples.
        key: None where none is heard, or not listened for.
        chroma: `[frames, 12]`; None where not listened for.
    """

    beats: tuple[float, ...]
    bpm: float | None
    onsets: np.ndarray
    loudness: float
    silent: float
    clipped: float
    key: Key | None = None
    chroma: np.ndarray | None = None


def analyse(audio: np.ndarray, sample_rate: int, *, stem: str, tracker: str | None = None) -> Analysis:
    """Listen to a stem: 0.3 to 0.4 s of processor time for 10 s of audio.

    Args:
        audio: `[samples]`.
        sample_rate: Hz.
        stem: which stem it is; key and chroma are not listened for in those of `PERCUSSIVE_STEMS`.
        tracker: "essentia", "beat-this" or "librosa"; None is the first that is installed.

    Raises:
        ValueError: the audio is not mono or not finite, or there is no such tracker.
        StageError: the tracker, or what finds keys, is not installed or cannot be loaded.
    """
    pitched = stem not in PERCUSSIVE_STEMS
    rhythm = track_beats(audio, sample_rate, percussive=not pitched, tracker=tracker)
    return Analysis(
        beats=rhythm.beats,
        bpm=rhythm.bpm,
        onsets=find_onsets(audio, sample_rate),
        loudness=metrics.loudness(audio, sample_rate),
        silent=metrics.silent(audio),
        clipped=metrics.clipped(audio),
        key=find_key(audio, sample_rate) if pitched else None,
        chroma=chroma(audio, sample_rate) if pitched else None,
    )


def compare(analysis: Analysis, truth: ItemTruth) -> dict[str, float]:
    """Return the music metrics of a stem by name, as results.json has them; nan where one is undefined.

    Undefined is what the truth does not tell: beats, tempo, key, a true stem. A stem that is silent, or has no beat, no
    onset or no key, has 0 in what it lacks, but no loudness, tempo error and onset precision.

    Args:
        analysis: of the stem.
        truth: of its item; or of another, as an anchor.

    Returns: all music metrics; `PITCHED_METRICS` only where chroma was listened for.
    """
    measured = {
        "beat_f1": metrics.beat_f1(truth.beats, analysis.beats),
        "beat_cmlt": metrics.beat_cmlt(truth.beats, analysis.beats),
        "beat_amlt": metrics.beat_amlt(truth.beats, analysis.beats),
        "onset_f": metrics.onset_f(analysis.onsets, truth.beats, truth.seconds),
        "onset_precision": metrics.onset_precision(analysis.onsets, metrics.eighth_grid(truth.beats, truth.seconds)),
        "onset_recall": metrics.onset_recall(analysis.onsets, truth.beats),
        "tempo_error": tempo_error(analysis.bpm, truth.tempo),
        "tempo_right": tempo_right(analysis.bpm, truth.tempo),
        "loudness": analysis.loudness,
        "loudness_difference": metrics.loudness_difference(analysis.loudness, truth.loudness),
        "silent": analysis.silent,
        "clipped": analysis.clipped,
    }
    if analysis.chroma is not None:
        measured["key_agreement"] = key_agreement(_name(analysis.key), _name(truth.key))
        measured["chroma_similarity"] = chroma_similarity(analysis.chroma, truth.chroma)
    return measured


def measure(
    audio: np.ndarray, sample_rate: int, truth: ItemTruth, *, stem: str, tracker: str | None = None
) -> dict[str, float]:
    """Return the music metrics of a stem: `hear` and `compare` in one."""
    return compare(analyse(audio, sample_rate, stem=stem, tracker=tracker), truth)


def analyse_truth(
    context: np.ndarray,
    sample_rate: int,
    *,
    target: np.ndarray | None = None,
    target_rate: int = 0,
    tracker: str | None = None,
) -> ItemTruth:
    """Return what a context itself tells, for files that come without annotations; less sure than those.

    Args:
        context: `[samples]`.
        sample_rate: Hz.
        target: the true stem, `[samples]`, if there is one.
        target_rate: Hz of the true stem.
        tracker: "essentia", "beat-this" or "librosa"; None is the first that is installed.

    Raises:
        ValueError: the audio is not mono or not finite, or there is no such tracker.
        StageError: the tracker, or what finds keys, is not installed or cannot be loaded.
    """
    rhythm = track_beats(context, sample_rate, percussive=False, tracker=tracker)
    return ItemTruth(
        seconds=len(context) / sample_rate,
        beats=np.array(rhythm.beats),
        bpm=rhythm.bpm,
        key=find_key(context, sample_rate),
        target=target,
        target_rate=target_rate,
    )


def _name(key: Key | None) -> str | None:
    return None if key is None else f"{key.tonic} {key.scale}"
