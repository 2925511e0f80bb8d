"""Songs as players learn from them: each part's log-mel power and its notes, rendered once.

Power spectra of incoherent parts add, so mixes are made from the store without touching audio.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stage_cli.core.data.band.composition.composer import compose
from stage_cli.core.data.band.composition.score import Score
from stage_cli.core.data.band.instruments import SAMPLE_RATE
from stage_cli.core.data.band.rendering.mixing import render
from stage_cli.core.data.band.rendering.sound_banks import SoundBank
from stage_cli.core.players.features import FeatureSettings, LogMel

DRUMS = "drums"


@dataclass(frozen=True)
class StoredPart:
    """One part of a stored song.

    Attributes:
        name: unique in the song.
        stem: one of the project's stem names.
        instrument: what plays it.
        level: `[frames, bands]` float16, dB; the part's log-mel power.
        notes: `[notes, 4]` float32: onset and duration in seconds, MIDI pitch, velocity 1 to 127; by onset.
    """

    name: str
    stem: str
    instrument: str
    level: np.ndarray
    notes: np.ndarray


@dataclass(frozen=True)
class StoredSong:
    """A song of the store. Times are seconds from its first frame.

    Attributes:
        name: of the file.
        parts: those that sound; all drums are one.
        beats: every beat.
        downbeats: first beats of bars.
        beats_per_bar: of all bars.
        swing: place of the second of two, 0.5 is straight.
        style: name of the composer's style.
        duration: seconds.
    """

    name: str
    parts: tuple[StoredPart, ...]
    beats: np.ndarray
    downbeats: np.ndarray
    beats_per_bar: int
    swing: float
    style: str
    duration: float


def song_from_score(score: Score, bank: SoundBank, key: tuple[int | str, ...], settings: FeatureSettings) -> StoredSong:
    """Render a score and listen to each part.

    Args:
        score: what is played.
        bank: where sounds come from.
        key: of the song, as `render` takes it.
        settings: of the frames.
    """
    tracks = render(score, bank, key)
    drums = [track.audio for track in tracks if track.stem == DRUMS]
    others = iter(track.audio for track in tracks if track.stem != DRUMS)
    parts = []
    for part in score.parts:
        if not part.notes:
            continue
        audio = np.sum(drums, axis=0) if part.stem == DRUMS else next(others)
        notes = [(n.onset, n.duration, n.pitch, np.clip(round(n.velocity * 127), 1, 127)) for n in part.notes]
        level = whole_log_mel(audio.mean(axis=0), SAMPLE_RATE, settings)
        parts.append(
            StoredPart(part.name, part.stem, part.instrument, level.astype(np.float16), np.array(notes, np.float32))
        )
    beats = np.array(score.beat_times, dtype=np.float64)
    return StoredSong(
        "-".join(map(str, key)),
        tuple(parts),
        beats,
        beats[:: score.meter.beats_per_bar],
        score.meter.beats_per_bar,
        score.swing,
        score.style,
        score.duration,
    )


def whole_log_mel(mono: np.ndarray, sample_rate: int, settings: FeatureSettings) -> np.ndarray:
    """Return the frames `[frames, bands]` (dB) of a whole mono signal `[samples]`."""
    stream = LogMel(sample_rate, settings)
    return np.concatenate([stream.push(mono), stream.finish()])


def write_song(path: Path, song: StoredSong) -> None:
    """Write a song as one `.npz` file, whole or not at all.

    Raises:
        OSError: it cannot be written.
    """
    about = {
        "parts": [{"name": p.name, "stem": p.stem, "instrument": p.instrument} for p in song.parts],
        "beats_per_bar": song.beats_per_bar,
        "swing": song.swing,
        "style": song.style,
        "duration": song.duration,
    }
    arrays: dict[str, Any] = {"about": np.array(json.dumps(about)), "beats": song.beats, "downbeats": song.downbeats}
    for number, part in enumerate(song.parts):
        arrays |= {f"level{number}": part.level, f"notes{number}": part.notes}
    hidden = path.with_name(f".{path.name}.part")
    with hidden.open("wb") as file:
        np.savez(file, **arrays)
    os.replace(hidden, path)


def read_song(path: Path) -> StoredSong:
    """Read a song of `write_song`.

    Raises:
        OSError, ValueError, KeyError: the file cannot be read, or is none of them.
    """
    with np.load(path, allow_pickle=False) as arrays:
        about = json.loads(str(arrays["about"]))
        parts = tuple(
            StoredPart(**part, level=arrays[f"level{number}"], notes=arrays[f"notes{number}"])
            for number, part in enumerate(about["parts"])
        )
        return StoredSong(
            path.stem,
            parts,
            arrays["beats"],
            arrays["downbeats"],
            about["beats_per_bar"],
            about["swing"],
            about["style"],
            about["duration"],
        )


def compose_store(
    folder: Path,
    songs: int,
    *,
    seed: int,
    seconds: float,
    bank: SoundBank,
    settings: FeatureSettings,
    on_song: Callable[[int], None] = lambda _: None,
) -> None:
    """Compose and store the songs 0 … songs − 1 of a seed; those that are there are kept.

    Args:
        folder: made if it is not there.
        songs: how many.
        seed: of the composer.
        seconds: of each song.
        bank: where sounds come from.
        settings: of the frames.
        on_song: called with the number of songs that are done.

    Raises:
        OSError: a song cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(songs):
        path = folder / f"{seed}-{index:05d}.npz"
        if not path.exists():
            score = compose(seed, index, seconds)
            if any(part.notes for part in score.parts):
                write_song(path, song_from_score(score, bank, (seed, index), settings))
        on_song(index + 1)
