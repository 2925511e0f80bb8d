"""What a data set tells of one song before any of its audio is read.

Looking through folders: which hold songs, and which files in them are audio.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from stage_cli.core.audio.naming import AUDIO_SUFFIXES
from stage_cli.core.files import display_name
from stage_cli.core.stems import parse_stem
from stage_cli.errors import StageError, UsageError

PREPARED_DRUMS = "drums_mixed"
"""Name of the folder that `prepare-data` makes in a song; no layout takes it for a stem."""


@dataclass(frozen=True)
class SongFolder:
    """A song that was found, not yet read.

    Attributes:
        id: name of the folder; where two songs of a set share it, its path from the set's folder.
        path: of the folder.
        relative: the same, from the set's folder.
        layout: name of the layout that can read it.
        known_error: what its publishers say is wrong with it, or "".
    """

    id: str
    path: Path
    relative: Path
    layout: str
    known_error: str = ""


@dataclass(frozen=True)
class SourceTrack:
    """One audio file of a stem; `type` is the data set's word for it ("snare drum"), a text and never a path."""

    path: Path
    type: str = ""


@dataclass(frozen=True)
class Annotations:
    """Rhythm and key that come with the data.

    Attributes:
        bpm: beats a minute, or None.
        beats: seconds, rising.
        downbeats: seconds, rising.
        beats_per_bar: or None.
        key: tonic and scale ("A", "minor"), or None.
    """

    bpm: float | None
    beats: tuple[float, ...]
    downbeats: tuple[float, ...]
    beats_per_bar: int | None
    key: tuple[str, str] | None


@dataclass(frozen=True)
class Song:
    """One song as its data set describes it.

    Attributes:
        id: as in its `SongFolder`.
        folder: where it lies.
        layout: name of the layout.
        title: or "".
        artist: or "".
        genres: may be empty.
        stems: tracks by the project's stem names, at least one; a track belongs to one stem.
        metadata: files beside the audio that this description was read from.
        annotations: or None.
        notes: what was left out, and why.
    """

    id: str
    folder: Path
    layout: str
    title: str
    artist: str
    genres: tuple[str, ...]
    stems: Mapping[str, tuple[SourceTrack, ...]]
    metadata: tuple[Path, ...] = ()
    annotations: Annotations | None = None
    notes: tuple[str, ...] = ()

    @property
    def tracks(self) -> tuple[SourceTrack, ...]:
        """All tracks, stem by stem."""
        return tuple(track for tracks in self.stems.values() for track in tracks)


class StemCollector:
    """Gathers the tracks of a song by stem, and notes what is left out."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.notes: list[str] = []
        self._stems: dict[str, list[SourceTrack]] = {}

    def add(self, stem: str, track: SourceTrack) -> None:
        """Take a track of a stem, whose name is one of `STEMS`."""
        self._stems.setdefault(stem, []).append(track)

    def leave_out(self, what: str, why: str) -> None:
        """Note that something is no part of the music."""
        self.notes.append(f"{what} is left out: {why}")

    def finish(self) -> dict[str, tuple[SourceTrack, ...]]:
        """Return the tracks by stem.

        Raises:
            StageError: there are none.
        """
        if not self._stems:
            raise StageError(
                f"{display_name(self.folder)} has no stem",
                why="; ".join(self.notes) or "no audio file in it belongs to a stem",
                next_step="see docs/data.md for the layouts that are read",
            )
        return {stem: tuple(tracks) for stem, tracks in self._stems.items()}


def stem_or_none(name: str) -> str | None:
    """Return the stem that a file or folder name means, a number behind it aside ("guitar 2"), or None."""
    for text in (name, name.rstrip("0123456789 _-")):
        try:
            return parse_stem(text)
        except UsageError:
            continue
    return None


def is_click(name: str) -> bool:
    """Whether a track's name or type says that it is a click track, which is no music."""
    words = name.lower().replace("_", " ").replace("-", " ").split()
    return "click" in words or "clicks" in words or "metronome" in words


def file_inside(folder: Path, *parts: str) -> Path:
    """Return the path of names that a data set states, below `folder`.

    Raises:
        StageError: a name is empty, or would leave the folder ("..", "/etc/passwd", "a/b").
    """
    for part in parts:
        if not part or part in (".", "..") or any(mark in part for mark in ("/", "\\", "\0", ":")):
            raise StageError(
                f"{display_name(folder)} names a file {part!r}, which is no plain name",
                why="a name in a data set must not lead out of its song's folder",
                next_step="correct the name in its data file",
            )
    return folder.joinpath(*parts)


def spoken_genre(text: str) -> tuple[str, ...]:
    """Return a data set's genre as a description has it: "bossa_nova" is "Bossa Nova"; none for "" or "undefined"."""
    words = text.replace("_", " ").split()
    if not words or text.lower() in ("undefined", "unknown", "none", "other"):
        return ()
    return (" ".join(word.capitalize() if word.islower() else word for word in words),)


_DEEPEST = 3  # levels of folders between the one that is named and a song: data set, provider or split, song


def audio_files(folder: Path) -> list[Path]:
    """List the audio files directly in a folder, by name; hidden and unfinished ones left out."""
    return [
        path
        for path in _entries(folder)
        if path.suffix.lower() in AUDIO_SUFFIXES and not path.name.startswith(".") and path.is_file()
    ]


def subfolders(folder: Path) -> list[Path]:
    """List the folders directly in a folder, by name; hidden ones and prepared drums left out."""
    return [
        path
        for path in _entries(folder)
        if not path.name.startswith(".") and path.name != PREPARED_DRUMS and path.is_dir()
    ]


def song_folders(folder: Path, is_song: Callable[[Path], bool]) -> Iterator[Path]:
    """Yield the song folders at or below a folder, by name; songs do not lie in songs."""
    yield from _search(folder, is_song, _DEEPEST)


def _search(folder: Path, is_song: Callable[[Path], bool], depth: int) -> Iterator[Path]:
    if is_song(folder):
        yield folder
    elif depth:
        for child in subfolders(folder):
            yield from _search(child, is_song, depth - 1)


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError as error:
        raise StageError(
            f"cannot list the folder {display_name(folder)}",
            why=error.strerror or str(error),
            next_step="check the folder's permissions",
        ) from error
