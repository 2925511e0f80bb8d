"""One prepared song as the data set holds it: small in memory, whatever it is stored in. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from stage_cli.core.audio.files import display_name
from stage_cli.core.data.audio_chunks import AudioFile, AudioLimits, read_stem
from stage_cli.core.data.features.annotations import Key
from stage_cli.core.data.song import SongFeatures
from stage_cli.errors import AudioError, StageError

# A file's length is rounded to its own rate, the song's to the highest of its rates.
_ROUNDING = 0.01  # seconds


@dataclass(frozen=True)
class StemAudio:
    """One stem: its tracks, and the seconds in which it can be heard."""

    files: tuple[AudioFile, ...]
    active: float


@dataclass(frozen=True, eq=False)
class IndexedSong:
    """What is known of a song, and where its audio is.

    Attributes:
        id: of the song.
        place: its `features.json`, or its shard; for error messages.
        title: or "".
        artist: or "".
        stems: by the project's stem names, silent ones left out.
        sample_rate: Hz, the highest of its files.
        duration: seconds.
        beats: seconds, rising; an array, as lists of thousands of songs would fill the memory.
        downbeats: likewise.
        genres: may be empty.
        moods: likewise.
        key: None where none was found.
    """

    id: str
    place: Path
    title: str
    artist: str
    stems: dict[str, StemAudio]
    sample_rate: int
    duration: float
    beats: np.ndarray
    downbeats: np.ndarray
    genres: tuple[str, ...]
    moods: tuple[str, ...]
    key: Key | None = None

    @classmethod
    def from_features(cls, features: SongFeatures, place: Path, locate: Callable[[str], AudioFile]) -> IndexedSong:
        """Take over a song's features.

        Args:
            features: as `prepare-data` wrote them.
            place: where they were read, for error messages.
            locate: finds a file that they name.

        Raises:
            StageError: a length, a rate or a beat is impossible.
        """
        try:
            beats, downbeats = (
                np.asarray(times, dtype=np.float64) for times in (features.rhythm.beats, features.rhythm.downbeats)
            )
            if not (features.sample_rate >= 1 and features.frames >= 1):
                raise ValueError(f"{features.frames} frames at {features.sample_rate} Hz")
            for times in (beats, downbeats):
                if times.ndim != 1 or not np.isfinite(times).all() or (times < 0).any() or (np.diff(times) <= 0).any():
                    raise ValueError("beats must be seconds from 0 on, rising")
            stems = {
                name: StemAudio(tuple(locate(file) for file in stem.files), float(stem.active))
                for name, stem in features.stems.items()
                if stem.active > 0 and stem.files
            }
        except (TypeError, ValueError, KeyError) as error:
            raise StageError(
                f"{display_name(place)} is damaged", why=str(error), next_step="run stage prepare-data again"
            ) from None
        return cls(
            id=features.song,
            place=place,
            title=features.title,
            artist=features.artist,
            stems=stems,
            sample_rate=features.sample_rate,
            duration=features.duration,
            beats=beats,
            downbeats=downbeats,
            genres=features.genres,
            moods=features.moods,
            key=features.key,
        )

    def read(self, stem: str, start: float, duration: float) -> np.ndarray:
        """Read a part of a stem at the song's sample rate: `[round(duration · sample_rate)]` float32, mono.

        Raises:
            AudioError: a file cannot be used; the error names the song and the stem.
        """
        limits = AudioLimits(self.sample_rate, self.duration + _ROUNDING)
        try:
            return read_stem(self.stems[stem].files, start, duration, self.sample_rate, limits)
        except AudioError as error:
            raise AudioError(
                f"song {self.id}, {stem}: {error.what}", why=error.why, next_step=error.next_step
            ) from error
