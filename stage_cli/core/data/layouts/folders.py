"""One's own songs: `<song>/<stem>.wav` or `<song>/<stem>/*.wav`, in any audio format, also mixed."""

from __future__ import annotations

from pathlib import Path

from stage_cli.core.data.layouts.source import (
    Song,
    SongFolder,
    SourceTrack,
    StemCollector,
    audio_files,
    is_click,
    stem_or_none,
    subfolders,
)

NAME = "folders"

_MIXES = frozenset(("mix", "mixture", "master", "mixdown", "full mix", "full_mix", "instrumental", "accompaniment"))


def is_song(folder: Path) -> bool:
    """Whether a file or a subfolder has a stem's name and holds audio."""
    return any(stem_or_none(path.stem) for path in audio_files(folder)) or any(
        _is_stem_folder(path) for path in subfolders(folder)
    )


def known_errors(folders: list[Path]) -> dict[Path, str]:
    """Return nothing: nobody has published errata of one's own songs."""
    del folders
    return {}


def read_song(found: SongFolder) -> Song:
    """Describe a song. Files and folders whose names are no stem's are left out, and noted.

    Raises:
        StageError: no stem is left.
    """
    stems = collect_stems(found.path)
    return Song(
        id=found.id,
        folder=found.path,
        layout=NAME,
        title=found.path.name,
        artist="",
        genres=(),
        stems=stems.finish(),
        notes=tuple(stems.notes),
    )


def collect_stems(folder: Path) -> StemCollector:
    """Gather the tracks of a folder by the names of files and subfolders."""
    stems = StemCollector(folder)
    for path in audio_files(folder):
        if is_click(path.stem):
            stems.leave_out(path.name, "it is a click track")
        elif path.stem.lower() in _MIXES:
            stems.leave_out(path.name, "it is a mix")
        elif (stem := stem_or_none(path.stem)) is None:
            stems.leave_out(path.name, "its name is no stem's")
        else:
            stems.add(stem, SourceTrack(path))
    for subfolder in subfolders(folder):
        stem = stem_or_none(subfolder.name)
        for path in audio_files(subfolder):
            name = f"{subfolder.name}/{path.name}"
            if is_click(path.stem) or is_click(subfolder.name):
                stems.leave_out(name, "it is a click track")
            elif stem is None:
                stems.leave_out(name, "its folder's name is no stem's")
            else:
                stems.add(stem, SourceTrack(path, path.stem))
    return stems


def _is_stem_folder(folder: Path) -> bool:
    if stem_or_none(folder.name) is None:
        return False
    # A song may be called "Beat" or "Strings": a folder with files of several stems is one, not a stem's folder.
    files = audio_files(folder)
    return bool(files) and len({stem_or_none(path.stem) for path in files} - {None}) < 2
