"""MoisesDB: `<song>/data.json` and `<song>/<stemName>/<track>.wav`; also without data.json.

data.json: {"song", "artist", "genre", "stems": [{"id", "stemName", "tracks": [{"id", "trackType", "extension",
"has_bleed"}]}]}. Sources: Pereira et al., "MoisesDB", ISMIR 2023; github.com/moises-ai/moises-db. `stage demo-data`
adds "annotations": {"bpm", "beats", "downbeats", "beats_per_bar", "key": {"tonic", "scale"}}, times in seconds.
"""

from __future__ import annotations

import json
import math
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

from stage_cli.core.data.layouts.folders import collect_stems
from stage_cli.core.data.layouts.source import (
    Annotations,
    Song,
    SongFolder,
    SourceTrack,
    StemCollector,
    audio_files,
    file_inside,
    is_click,
    spoken_genre,
    stem_or_none,
    subfolders,
)
from stage_cli.core.files import display_name
from stage_cli.core.stems import STEMS
from stage_cli.errors import StageError

NAME = "moisesdb"
DATA_FILE = "data.json"

_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)


def is_song(folder: Path) -> bool:
    """Whether it has a data.json, or is named like MoisesDB's songs and has folders named like its stems."""
    if (folder / DATA_FILE).is_file():
        return True
    return _UUID.fullmatch(folder.name) is not None and any(
        path.name in STEMS and audio_files(path) for path in subfolders(folder)
    )


def known_errors(folders: list[Path]) -> dict[Path, str]:
    """Return nothing: bleeding tracks are marked in data.json, and songs are not withdrawn."""
    del folders
    return {}


def read_song(found: SongFolder) -> Song:
    """Describe a song.

    Raises:
        StageError: data.json is damaged or names files outside the song's folder, or no stem is left.
    """
    path = found.path / DATA_FILE
    if not path.is_file():
        stems = collect_stems(found.path)
        return Song(found.id, found.path, NAME, "", "", (), stems.finish(), notes=tuple(stems.notes))
    data = _read_data(path)
    try:
        stems = _collect(found.path, data)
        annotations = _annotations(data["annotations"]) if data.get("annotations") else None
        return Song(
            id=found.id,
            folder=found.path,
            layout=NAME,
            title=str(data.get("song") or ""),
            artist=str(data.get("artist") or ""),
            genres=spoken_genre(str(data.get("genre") or "")),
            stems=stems.finish(),
            metadata=(path,),
            annotations=annotations,
            notes=tuple(stems.notes),
        )
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise _damaged(path, f"{type(error).__name__}: {error}") from None


def _collect(folder: Path, data: dict[str, Any]) -> StemCollector:
    stems = StemCollector(folder)
    seen = set()
    for entry in data["stems"]:
        name = entry["stemName"]
        stem = stem_or_none(name)
        for track in entry["tracks"]:
            kind = str(track.get("trackType") or "")
            path = file_inside(folder, name, f"{track['id']}.{track.get('extension') or 'wav'}")
            if path in seen:  # a stem that is listed twice may list a track twice; its sound is there once
                continue
            seen.add(path)
            if is_click(kind):
                stems.leave_out(f"{name}/{path.name}", "it is a click track")
            elif stem is None:
                stems.leave_out(f"{name}/{path.name}", "its stem's name is unknown")
            else:
                stems.add(stem, SourceTrack(path, kind))
    return stems


def _annotations(values: dict[str, Any]) -> Annotations:
    beats, downbeats = _times(values.get("beats", ())), _times(values.get("downbeats", ()))
    bpm, beats_per_bar, key = values.get("bpm"), values.get("beats_per_bar"), values.get("key")
    if bpm is not None and not 0 < float(bpm) < 1000:
        raise ValueError(f"bpm {bpm}")
    if beats_per_bar is not None and (int(beats_per_bar) != beats_per_bar or beats_per_bar < 1):
        raise ValueError(f"beats_per_bar {beats_per_bar}")
    if key is not None and key["scale"] not in ("major", "minor"):
        raise ValueError(f"scale {key['scale']!r} is neither major nor minor")
    return Annotations(
        bpm=None if bpm is None else float(bpm),
        beats=beats,
        downbeats=downbeats,
        beats_per_bar=None if beats_per_bar is None else int(beats_per_bar),
        key=None if key is None else (str(key["tonic"]), str(key["scale"])),
    )


def _times(values: Any) -> tuple[float, ...]:
    times = tuple(float(value) for value in values)
    if not all(math.isfinite(time) and time >= 0 for time in times) or not all(a < b for a, b in pairwise(times)):
        raise ValueError("times must be seconds from 0 that rise")
    return times


def _read_data(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise StageError(f"cannot read {display_name(path)}", why=error.strerror or str(error)) from None
    except ValueError as error:
        raise _damaged(path, str(error)) from None
    if not isinstance(data, dict):
        raise _damaged(path, "it holds no object")
    return data


def _damaged(path: Path, why: str) -> StageError:
    return StageError(
        f"{display_name(path)} is damaged", why=why, next_step="download it again, or see docs/data.md for its form"
    )
