"""Small songs with known truth, written from scratch with numpy: each stem, its beats, downbeats and key."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

_MAJOR, _MINOR = (0, 2, 4, 5, 7, 9, 11), (0, 2, 3, 5, 7, 8, 10)
_PROGRESSIONS = {
    "major": ((0, 4, 5, 3), (0, 5, 3, 4), (0, 3, 0, 4)),
    "minor": ((0, 5, 3, 4), (0, 3, 4, 0), (0, 3, 0, 4)),
}
_NAMES = ("C", "C#", "D", "Eb", "E", "F", "F#", "G", "Ab", "A", "Bb", "B")


@dataclass(frozen=True)
class Truth:
    """A song and what is known of it; stems `[frames]`, times in seconds."""

    stems: dict[str, np.ndarray]
    sample_rate: int
    bpm: float
    beats: np.ndarray
    downbeats: np.ndarray
    beats_per_bar: int
    tonic: str
    scale: str


def compose(
    seed: int = 0,
    *,
    bpm: float = 112.0,
    beats_per_bar: int = 4,
    tonic: int = 9,
    scale: str = "minor",
    seconds: float = 20.0,
    sample_rate: int = 44100,
    offset: float = 0.35,
) -> Truth:
    """Compose drums, bass, piano and vocals of constant tempo; the first downbeat lies at `offset` seconds."""
    rng = np.random.default_rng(seed)
    frames = round(seconds * sample_rate)
    stems = {name: np.zeros(frames) for name in ("drums", "bass", "piano", "vocals")}
    degrees = _MAJOR if scale == "major" else _MINOR
    progression = _PROGRESSIONS[scale][seed % 3]
    beats = np.arange(offset, seconds - 0.01, 60 / bpm)

    def add(stem: str, time: float, sound: np.ndarray, gain: float) -> None:
        at = round(time * sample_rate)
        part = sound[: max(0, frames - at)]
        stems[stem][at : at + len(part)] += gain * part

    def tone(pitch: float, length: float, decay: float, partials: int = 5) -> np.ndarray:
        time = np.arange(round(length * sample_rate)) / sample_rate
        frequency = 440 * 2 ** ((pitch - 69) / 12)
        wave = sum(
            np.sin(2 * np.pi * frequency * n * time) / n
            for n in range(1, partials + 1)
            if frequency * n < sample_rate / 2
        )
        return wave * np.exp(-decay * time) * np.minimum(1, (length - time) / 0.01) * np.minimum(1, time / 0.003)

    def noise(length: float, decay: float) -> np.ndarray:
        time = np.arange(round(length * sample_rate)) / sample_rate
        return np.diff(rng.standard_normal(len(time) + 1)) * np.exp(-decay * time)

    time = np.arange(round(0.2 * sample_rate)) / sample_rate
    kick = np.sin(2 * np.pi * (50 * time + 40 / 30 * (1 - np.exp(-30 * time)))) * np.exp(-18 * time)
    for index, start in enumerate(beats):
        place, bar = index % beats_per_bar, index // beats_per_bar
        root = degrees[progression[bar % 4]]
        chord = [degrees[(progression[bar % 4] + step) % 7] for step in (0, 2, 4)]
        if scale == "minor" and progression[bar % 4] == 4:
            chord[1] += 1  # the leading note of harmonic minor
        length = 60 / bpm
        if place == 0 or (beats_per_bar == 4 and place == 2):
            add("drums", start, kick, 0.8)
        else:
            add("drums", start, noise(0.15, 25), 0.15)
        for half in (0, 0.5):
            add("drums", start + half * length, noise(0.04, 90), 0.06 * rng.uniform(0.7, 1.3))
        add("bass", start, tone(36 + (tonic + root) % 12, 0.9 * length, 4), 0.3 if place == 0 else 0.2)
        if place == 0:
            for step in chord:
                add("piano", start, tone(60 + (tonic + step) % 12, beats_per_bar * length, 1.5), 0.12)
        elif rng.random() < 0.5:
            for step in chord:
                add("piano", start + 0.5 * length, tone(60 + (tonic + step) % 12, 0.4 * length, 4), 0.05)
        melody = chord[rng.integers(3)] if rng.random() < 0.7 else degrees[rng.integers(7)]
        add("vocals", start, tone(67 + (tonic + melody - 7) % 12, 0.9 * length, 2, 8), 0.08)
    stems = {name: (0.6 * audio).astype(np.float32) for name, audio in stems.items()}
    return Truth(stems, sample_rate, bpm, beats, beats[::beats_per_bar], beats_per_bar, _NAMES[tonic], scale)
