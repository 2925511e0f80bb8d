"""Find prepared songs, in folders or in shards, without opening any audio. Imports no torch."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from stage_cli.core.audio.files import display_name
from stage_cli.core.data.audio_chunks import AudioFile
from stage_cli.core.data.config import ANY_STEM, DataConfig
from stage_cli.core.data.indexed_song import IndexedSong
from stage_cli.core.data.shard_index import holds_shards, read_shards
from stage_cli.core.data.song import FEATURES_FILE, read_features
from stage_cli.errors import StageError, UsageError

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
