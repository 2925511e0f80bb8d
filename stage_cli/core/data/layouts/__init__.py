"""How multitrack data sets lie on disk: find their songs, and describe each one."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

from stage_cli.core.data.layouts import folders, moisesdb, musdb, slakh
from stage_cli.core.data.layouts.source import PREPARED_DRUMS, Annotations, Song, SongFolder, SourceTrack, song_folders
from stage_cli.core.files import display_name
from stage_cli.errors import UsageError

__all__ = ["LAYOUTS", "PREPARED_DRUMS", "Annotations", "Song", "SongFolder", "SourceTrack", "find_songs", "read_song"]

# In the order of detection: the last one reads every folder in which something has a stem's name.
_READERS = {module.NAME: module for module in (musdb, slakh, moisesdb, folders)}

LAYOUTS: tuple[str, ...] = tuple(_READERS)
"""Names of the layouts."""


def find_songs(folder: Path, layout: str | None = None) -> list[SongFolder]:
    """Find the songs at or below a folder, by path; none of them is read.

    Args:
        folder: of the data set, of a part of it, or of one song.
        layout: one of `LAYOUTS`; None takes the first that finds songs.

    Raises:
        UsageError: the folder is missing, or holds no song of the layout.
        StageError: a folder cannot be listed.
    """
    if not folder.is_dir():
        why = "it is not a folder" if folder.exists() else "there is no such folder"
        raise UsageError(f"cannot use {display_name(folder)}", why=why, next_step="name the folder of a data set")
    if layout is not None and layout not in LAYOUTS:
        raise UsageError(f"`layout` cannot be {layout!r}", next_step=f"allowed: {', '.join(LAYOUTS)}")
    for name in LAYOUTS if layout is None else (layout,):
        reader = _READERS[name]
        # With the layout given, MoisesDB's plain form needs no data.json and no UUID as a name.
        is_song = (
            (lambda path: moisesdb.is_song(path) or folders.is_song(path)) if layout == "moisesdb" else reader.is_song
        )
        paths = list(song_folders(folder, is_song))
        if paths:
            errors = reader.known_errors(paths)
            return _unique([
                SongFolder(_name(path), path, path.relative_to(folder), name, errors.get(path, "")) for path in paths
            ])  # fmt: skip
    raise UsageError(
        f"no songs in {display_name(folder)}",
        why=f"nothing in it looks like {' or '.join(LAYOUTS if layout is None else (layout,))}",
        next_step="a song of your own is a folder with bass.wav, drums.wav, …; see docs/data.md",
    )


def read_song(found: SongFolder) -> Song:
    """Describe a song that was found: its stems, their files, and what else its data set tells.

    Raises:
        StageError: the song's data file is damaged, or it has no stem.
    """
    return _READERS[found.layout].read_song(found)


def _name(path: Path) -> str:
    return path.name or path.resolve().name


def _unique(songs: list[SongFolder]) -> list[SongFolder]:
    count = Counter(song.id for song in songs)
    return [song if count[song.id] == 1 else replace(song, id=song.relative.as_posix()) for song in songs]
