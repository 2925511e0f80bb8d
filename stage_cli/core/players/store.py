"""Songs as players learn from them: each part's log-mel power and its notes, rendered once.

Power spectra of incoherent parts add, so mixes are made from the store without touching audio.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stage_cli.core.players.config import FeatureSettings
from stage_cli.core.players.features import LogMel

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
        drummer: whose performance the drums are; "" where they are invented.
        has_notes: False for recordings whose notes nobody knows: they are contexts for other drummers.
    """

    name: str
    parts: tuple[StoredPart, ...]
    beats: np.ndarray
    downbeats: np.ndarray
    beats_per_bar: int
    swing: float
    style: str
    duration: float
    drummer: str = ""
    has_notes: bool = True


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
        "drummer": song.drummer,
        "has_notes": song.has_notes,
    }
    arrays: dict[str, Any] = {"about": np.array(json.dumps(about)), "beats": song.beats, "downbeats": song.downbeats}
    for number, part in enumerate(song.parts):
        arrays |= {f"level{number}": part.level, f"notes{number}": part.notes}
    hidden = path.with_name(f".{path.name}.part")
    with hidden.open("wb") as file:
        np.savez(file, **arrays)
    hidden.replace(path)


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
            about.get("drummer", ""),
            about.get("has_notes", True),
        )
