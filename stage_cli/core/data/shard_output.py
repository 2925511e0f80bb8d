"""Where shards may be written: nowhere over songs, or over shards of something else. Imports no numpy."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stage_cli.core.audio.files import display_name
from stage_cli.core.data.settings import WHOLE_SET, Shard
from stage_cli.core.data.shard_index import find_parts, part_folder, read_index, shard_name
from stage_cli.errors import StageError, UsageError

_ANOTHER = "name another folder, or delete what is there"


def check_output(
    output: Path, folders: Sequence[Path], ids: set[str] | None, sample_rate: int | None, part: Shard = WHOLE_SET
) -> None:
    """Make sure that shards of some songs may be written to a folder, as `write_shards` does by itself.

    Args:
        output: folder of the shards.
        folders: of the songs.
        ids: of all songs of the set; None does not look for shards of other songs.
        sample_rate: Hz of the shards' audio, or None.
        part: of the set.

    Raises:
        UsageError: the folder is a file, or it holds the songs themselves, or shards of other songs, of another rate,
            or of another division into parts.
    """
    if output.exists() and not output.is_dir():
        raise UsageError(f"cannot write shards to {display_name(output)}", why="it is a file", next_step=_ANOTHER)
    if any(output.resolve() in (folder.resolve(), *folder.resolve().parents) for folder in folders):
        raise UsageError(f"{display_name(output)} holds the songs themselves", next_step="name another folder")
    if not output.is_dir():
        return
    others = {other.count for other in find_parts(output).values()} - {part.count}
    if others or (part.count > 1 and (output / shard_name(0)).is_file()):
        raise UsageError(
            f"{display_name(output)} holds shards of another division",
            why=f"they are {f'one of {min(others)} parts' if others else 'a whole set'}",
            next_step=_ANOTHER,
        )
    found = _first_index(part_folder(output, part))
    if found is None:
        return
    names = [song["features"]["song"] for song in found["songs"]]
    if found.get("sample_rate") != sample_rate:
        raise UsageError(
            f"{display_name(output)} holds shards of another rate",
            why=f"{_rate(found.get('sample_rate'))} there, {_rate(sample_rate)} here",
            next_step=_ANOTHER,
        )
    if ids is not None and names and not ids.intersection(names):
        raise UsageError(
            f"{display_name(output)} holds shards of other songs", why=f"such as {names[0]}", next_step=_ANOTHER
        )


def _first_index(folder: Path) -> dict[str, Any] | None:
    """Read the index of the first shard of an earlier run; None if there is none that can be read."""
    try:
        found = read_index(folder / shard_name(0))
        return found if all(song["features"]["song"] for song in found["songs"]) else None
    except (StageError, KeyError, TypeError):
        return None


def _rate(sample_rate: int | None) -> str:
    return "files as they were" if sample_rate is None else f"{sample_rate} Hz"
