"""What is known of the beats and the key of a piece of music."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Rhythm:
    """Beats of a song.

    Attributes:
        bpm: beats a minute (mean of the beat intervals, outliers left out), or None where no beat was found.
        confidence: of the beats, 0 to 1; 1 for annotations and where the tracker tells none.
        beats: seconds.
        downbeats: seconds; a subset of the beats.
        beats_per_bar: most common number, or None if unknown.
        bars_confidence: of downbeats and beats_per_bar, 0 to 1.
        source: "annotations", "essentia" or "beat-this".
    """

    bpm: float | None
    confidence: float
    beats: tuple[float, ...]
    downbeats: tuple[float, ...]
    beats_per_bar: int | None
    bars_confidence: float
    source: str


@dataclass(frozen=True)
class Key:
    """Key of a song: tonic ("C", "F#", "Bb", …), scale ("major" or "minor"), strength 0 to 1, source."""

    tonic: str
    scale: str
    strength: float
    source: str
