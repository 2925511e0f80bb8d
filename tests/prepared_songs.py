"""Prepared songs written from arrays: what `stage prepare-data` leaves behind, without running it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import soundfile

from stage_cli.core.data.song import FEATURES_FILE, SongFeatures, StemFeatures, write_features
from stage_cli.core.music.rhythm import Rhythm

RATE = 8000
TONES = {"bass": 200.0, "drums": 450.0, "guitar": 750.0, "piano": 1250.0, "vocals": 1800.0}
"""Hz of each stem's pure tone; none is a multiple of another, and none is a click's 1 kHz."""


def tone(frequency: float, seconds: float, sample_rate: int = RATE, peak: float = 0.2) -> np.ndarray:
    time = np.arange(round(seconds * sample_rate)) / sample_rate
    return (peak * np.sin(2 * np.pi * frequency * time)).astype(np.float32)


def write_song(
    folder: Path,
    stems: Mapping[str, np.ndarray | Sequence[np.ndarray]] | None = None,
    *,
    seconds: float = 30.0,
    sample_rate: int = RATE,
    bpm: float = 120.0,
    beats: np.ndarray | None = None,
    genres: Sequence[str] = ("Rock",),
    moods: Sequence[str] = ("happy",),
    artist: str = "",
    title: str = "",
    suffix: str = ".wav",
    subtype: str = "PCM_24",
) -> Path:
    """Write stems `[frames]` or `[frames, channels]` (a list of them: several tracks) and their features.

    Default: a pure tone for each of `TONES`. Returns the folder.
    """
    if stems is None:
        stems = {name: tone(frequency, seconds, sample_rate) for name, frequency in TONES.items()}
    described, frames = {}, 0
    for name, audio in stems.items():
        tracks = [audio] if isinstance(audio, np.ndarray) else list(audio)
        files = []
        for number, track in enumerate(tracks):
            file = f"{name}/{number}{suffix}"
            (folder / name).mkdir(parents=True, exist_ok=True)
            soundfile.write(folder / file, track, sample_rate, subtype=subtype)
            files.append(file)
            frames = max(frames, len(track))
        block = round(0.1 * sample_rate)
        level = np.zeros(max(map(len, tracks)))
        for track in tracks:
            level[: len(track)] += track if track.ndim == 1 else track.mean(axis=1)
        active = sum(np.abs(level[at : at + block]).max() >= 0.01 for at in range(0, len(level), block)) * 0.1
        described[name] = StemFeatures(tuple(files), float(active), -20.0 if active else None)
    beats = np.arange(0.25, frames / sample_rate, 60 / bpm) if beats is None else beats
    rhythm = Rhythm(bpm, 1.0, tuple(beats.tolist()), tuple(beats[::4].tolist()), 4, 1.0, "annotations")
    features = SongFeatures(
        song=folder.name,
        title=title,
        artist=artist,
        layout="folders",
        sample_rate=sample_rate,
        frames=frames,
        stems=described,
        rhythm=rhythm,
        key=None,
        genres=tuple(genres),
        moods=tuple(moods),
    )
    write_features(folder / FEATURES_FILE, features)
    return folder


def heard_tones(samples: np.ndarray, sample_rate: int = RATE) -> set[str]:
    """Return the stems whose tones are in a signal, more than 40 dB above its other content."""
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples))))
    bins = np.fft.rfftfreq(len(samples), 1 / sample_rate)
    strongest = spectrum.max(initial=1e-9)
    return {
        name for name, frequency in TONES.items() if spectrum[np.abs(bins - frequency) < 10].max() > 0.01 * strongest
    }
