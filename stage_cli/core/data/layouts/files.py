"""Looking through folders: which hold songs, and which files in them are audio."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from stage_cli.core.audio.files import display_name
from stage_cli.core.audio.naming import AUDIO_SUFFIXES
from stage_cli.core.data.layouts.source import PREPARED_DRUMS
from stage_cli.errors import StageError

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
