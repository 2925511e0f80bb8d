"""What lies where in a folder of shards. Imports no torch.

`shards.json` lists the shards of a set and is written last; `shard-000000.json` beside each shard tells what it holds.
Where several machines have written a set together, each has a folder of its own, `part-2-of-8`, that is such a set.

One prepared song as the data set holds it: small in memory, whatever it is stored in. Imports no torch.

Find prepared songs, in folders or in shards, without opening any audio. Imports no torch.
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stage_cli.core.audio.chunks import AudioFile, AudioLimits, read_stem
from stage_cli.core.data.config import ANY_STEM, DataConfig
from stage_cli.core.data.settings import Shard
from stage_cli.core.data.song import FEATURES_FILE, SongFeatures, read_features
from stage_cli.core.files import display_name
from stage_cli.core.music.rhythm import Key
from stage_cli.errors import AudioError, StageError, UsageError

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
            next_step=f"run stage prepare-data with `shard` {missing}/{counts[0]} `shards` {display_name(root)}",
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


# `<set>/<part>/<song>/features.json`, and one level to spare; a folder that links to itself ends here too.
_DEEPEST = 4


def find_songs(roots: Sequence[str | Path]) -> list[IndexedSong]:
    """List the prepared songs of some folders, or of folders of shards, by song id: the same on every machine.

    Raises:
        UsageError: a folder is missing or has no prepared song.
        StageError: features or shards are damaged or unfinished.
    """
    found: list[IndexedSong] = []
    for root in map(Path, roots):
        songs = read_shards(root) if holds_shards(root) else list(map(_read_folder, find_features(root)))
        # Stable: songs of one id keep the order of their root and of their place in it.
        found += songs
    return sorted(found, key=lambda song: song.id)


def find_features(root: Path) -> list[Path]:
    """List the `features.json` below a folder, by name.

    Raises:
        UsageError: the folder is missing, or has none.
    """
    if not root.is_dir():
        raise UsageError(
            f"no folder {display_name(root)}",
            why="it is a file" if root.exists() else "there is no such folder",
            next_step="give a folder of prepared songs as data.root",
        )
    paths = list(_walk(root, _DEEPEST))
    if not paths:
        raise UsageError(
            f"no prepared song in {display_name(root)}",
            why=f"there is no {FEATURES_FILE} in it or in its folders",
            next_step=f"run stage prepare-data {display_name(root)} first",
        )
    return paths


def eligible_songs(songs: Sequence[IndexedSong], config: DataConfig) -> list[IndexedSong]:
    """Keep the songs that can give items: with the target, and with something to accompany it to.

    Raises:
        UsageError: there is none, or `data.exclude` names a song that is not there.
    """
    unknown = sorted(set(config.exclude) - {song.id for song in songs})
    if unknown:
        raise UsageError(f"data.exclude names {unknown[0]!r}, which is no song of {', '.join(config.root)}")
    kept = [song for song in songs if song.id not in config.exclude and targets(song, config)]
    if not kept:
        counts = Counter(stem for song in songs for stem in song.stems)
        listed = ", ".join(f"{stem} in {count}" for stem, count in counts.most_common()) or "nothing but silence"
        needed = {"mix": " and another stem", "metronome": " and beats", "both": " and another stem, or beats"}
        raise UsageError(
            f"no song has {config.stem}{needed[config.context]}",
            why=f"of {len(songs)} songs there is {listed}",
            next_step="choose another data.stem or data.context",
        )
    return kept


def targets(song: IndexedSong, config: DataConfig) -> tuple[str, ...]:
    """Return the stems of a song that can be targets."""
    wanted = sorted(song.stems) if config.stem == ANY_STEM else [config.stem]
    return tuple(stem for stem in wanted if stem in song.stems and context_kinds(song, stem, config))


def context_kinds(song: IndexedSong, stem: str, config: DataConfig) -> tuple[str, ...]:
    """Return which of "mix" and "metronome" the config asks for and the song can give."""
    kinds = ("mix", "metronome") if config.context == "both" else (config.context,)
    possible = {"mix": bool(song.stems.keys() - {stem}), "metronome": len(song.beats) >= 2}
    return tuple(kind for kind in kinds if possible[kind])


def _walk(folder: Path, depth: int) -> Iterator[Path]:
    if (folder / FEATURES_FILE).is_file():
        yield folder / FEATURES_FILE
        return
    if depth:
        with os.scandir(folder) as entries:
            names = sorted(entry.name for entry in entries if not entry.name.startswith(".") and entry.is_dir())
        for name in names:
            yield from _walk(folder / name, depth - 1)


def _read_folder(path: Path) -> IndexedSong:
    try:
        features = read_features(path)
    except StageError as error:
        named = error.what if str(path) in error.what else f"{display_name(path)}: {error.what}"
        raise StageError(named, why=error.why, next_step=error.next_step) from None
    return IndexedSong.from_features(features, path, lambda file: AudioFile(path.parent / file))
