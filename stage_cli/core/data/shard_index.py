"""What lies where in a folder of shards. Imports no torch.

`shards.json` lists the shards of a set and is written last; `shard-000000.json` beside each shard tells what it holds.
Where several machines have written a set together, each has a folder of its own, `part-2-of-8`, that is such a set.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from stage_cli.core.audio.files import display_name
from stage_cli.core.data.audio_chunks import AudioFile
from stage_cli.core.data.indexed_song import IndexedSong
from stage_cli.core.data.settings import Shard
from stage_cli.core.data.song import SongFeatures
from stage_cli.errors import StageError, UsageError

SHARDS_FILE = "shards.json"
"""Lists the shards of a folder; written last, so that a folder without it is no finished set of shards."""

SHARDS_VERSION = 1

_PART = re.compile(r"part-(\d+)-of-(\d+)")


def part_folder(output: Path, part: Shard) -> Path:
    """Return where a machine writes its shards: `output` itself if it is the only one."""
    return output if part.count == 1 else output / f"part-{part.index}-of-{part.count}"


def find_parts(folder: Path) -> dict[Path, Shard]:
    """Return the folders that several machines have written side by side, finished or not."""
    matches = {path: _PART.fullmatch(path.name) for path in sorted(folder.iterdir()) if path.is_dir()}
    return {path: Shard(int(match[1]), int(match[2])) for path, match in matches.items() if match}


def shard_name(number: int) -> str:
    """Return the name of a shard in its folder."""
    return f"shard-{number:06d}.tar"


def holds_shards(root: Path) -> bool:
    """Whether a folder is to be read as shards, by itself or in parts; finished or not."""
    if (root / SHARDS_FILE).is_file() or (root / shard_name(0)).is_file():
        return True
    return root.is_dir() and any((part / SHARDS_FILE).is_file() for part in find_parts(root))


def read_shards(root: Path) -> list[IndexedSong]:
    """List the songs of a folder of shards.

    Raises:
        StageError: shards or their indexes are damaged, or a part is missing or unfinished.
        UsageError: there are parts of two divisions.
    """
    if (root / SHARDS_FILE).is_file():
        return _read_set(root)
    parts = find_parts(root)
    if not parts:
        raise StageError(
            f"the shards in {display_name(root)} are unfinished",
            why=f"there is no {SHARDS_FILE}, which is written last",
            next_step="run the command again that writes them: it goes on where it stopped",
        )
    counts = sorted({part.count for part in parts.values()})
    if len(counts) > 1:
        raise UsageError(
            f"{display_name(root)} holds parts of two divisions",
            why=f"some are one of {counts[0]}, others one of {counts[1]}: songs would be there twice",
            next_step="delete the folders of one of them",
        )
    finished = {part.index for path, part in parts.items() if (path / SHARDS_FILE).is_file()}
    missing = next((index for index in range(1, counts[0] + 1) if index not in finished), None)
    if missing is not None:
        raise StageError(
            f"the shards in {display_name(root)} are unfinished",
            why=f"{len(finished)} of {counts[0]} parts are whole, number {missing} is not",
            next_step=f"run stage prepare-data with --shard {missing}/{counts[0]} --shards {display_name(root)}",
        )
    return [song for path in parts for song in _read_set(path)]


def read_index(shard: Path) -> dict[str, Any]:
    """Read what a shard holds.

    Raises:
        StageError: its index is missing or damaged.
    """
    return _read_json(shard.with_suffix(".json"))


def _read_set(root: Path) -> list[IndexedSong]:
    listed = _read_json(root / SHARDS_FILE)
    if listed.get("version") != SHARDS_VERSION:
        raise StageError(
            f"{display_name(root / SHARDS_FILE)} has version {listed.get('version')!r}, not {SHARDS_VERSION}",
            next_step="write the shards again: stage prepare-data --shards",
        )
    try:
        return [song for name in listed["shards"] for song in _read_shard(root / name)]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise StageError(
            f"{display_name(root)} is damaged",
            why=f"{type(error).__name__}: {error}",
            next_step="copy the shards again, or write them again",
        ) from None


def _read_shard(shard: Path) -> Iterator[IndexedSong]:
    content = read_index(shard)
    try:
        size = shard.stat().st_size
    except OSError as error:
        raise StageError(f"cannot read {display_name(shard)}", why=error.strerror or str(error)) from None
    for entry in content["songs"]:
        members = {name: AudioFile(shard, name, *place) for name, place in entry["members"].items()}
        if any(member.offset + (member.size or 0) > size for member in members.values()):
            raise StageError(
                f"{display_name(shard)} is truncated",
                why=f"its index tells of more than its {size} bytes",
                next_step="copy it again, or write the shards again",
            )
        yield IndexedSong.from_features(SongFeatures.from_dict(entry["features"]), shard, members.__getitem__)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise StageError(
            f"cannot read {display_name(path)}", why=error.strerror or str(error), next_step="copy the shards again"
        ) from None
    except ValueError as error:
        raise StageError(f"{display_name(path)} is damaged", why=str(error)) from None
    if not isinstance(content, dict):
        raise StageError(f"{display_name(path)} is damaged", why="it is not a JSON object")
    return content
