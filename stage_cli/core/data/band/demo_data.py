"""A set of synthetic band songs: `stage demo-data`, and the same in memory for training."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator
from concurrent.futures import as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stage_cli.core.data.band.composition.composer import compose
from stage_cli.core.data.band.rendering.mixing import render
from stage_cli.core.data.band.settings import DemoSettings
from stage_cli.core.data.band.song_folder import DATA_FILE, read_recipe, remove_unfinished, song_id, write_song
from stage_cli.core.data.band.sounds import open_bank, recipe, resolve
from stage_cli.core.machine import worker_pool
from stage_cli.errors import StageError, UsageError


@dataclass(frozen=True)
class SongReport:
    """One song of a set: its folder, what it is, and whether it was written now or had been there."""

    index: int
    path: str
    title: str
    style: str
    bpm: float
    time_signature: str
    key: str
    stems: tuple[str, ...]
    seconds: float
    written: bool


def compose_and_render(
    seed: int,
    index: int,
    seconds: float,
    *,
    sounds: str = "synth",
    soundfont: Path | None = None,
    tempo_changes: str = "some",
) -> dict[str, np.ndarray]:
    """Return a song's stems by name, each `[frames, 2]` float32 at 44.1 kHz; no file is written.

    The same as the files of `stage demo-data`, but not rounded to 16 bits. Their sum is the mix, within ±1. What else
    is known of the song is in `compose(seed, index, seconds)`, whose beats are those of the audio.

    Args:
        seed: of the set.
        index: of the song in the set.
        seconds: length; a shorter one is the beginning of a longer one but for one gain over all.
        sounds: "synth", "soundfont", "mixed" or "auto".
        soundfont: file; Debian's FluidR3 if left out.
        tempo_changes: "never", "some" or "always".

    Raises:
        UsageError: a value is out of range.
        StageError: the soundfont, or the library that reads it, is missing.
    """
    settings = DemoSettings(1, seconds, seed, sounds, soundfont, tempo_changes)
    score = compose(seed, index, seconds, tempo_changes=tempo_changes)
    stems: dict[str, np.ndarray] = {}
    for track in render(score, open_bank(resolve(settings)), (seed, index)):
        if track.stem in stems:
            stems[track.stem] += track.audio
        else:
            stems[track.stem] = track.audio
    return {name: np.ascontiguousarray(audio.T) for name, audio in stems.items()}


def write_demo_data(
    output: Path,
    settings: DemoSettings,
    *,
    jobs: int = 1,
    overwrite: bool = False,
    on_progress: Callable[[float, float], None] = lambda *_: None,
) -> Generator[SongReport]:
    """Write a set of songs under a folder and yield a report of each; songs that are there already are kept.

    Args:
        output: folder; made if it is not there.
        settings: what to write.
        jobs: processes.
        overwrite: replace songs that were made by other settings.
        on_progress: called with (seconds of audio done, seconds in all).

    Raises:
        UsageError: the folder holds something else, or songs of other settings and `overwrite` is off.
        StageError: the folder cannot be written; the soundfont, or the library that reads it, is missing.
    """
    settings = resolve(settings)
    recipes = [recipe(settings, index) for index in range(settings.songs)]
    _prepare_folder(output)
    kept, due = _plan(output, settings, recipes, overwrite=overwrite)
    total = settings.songs * settings.seconds
    done = len(kept) * settings.seconds
    on_progress(done, total)
    for index in kept:
        yield _report(output / song_id(settings.seed, index), settings, index, written=False)
    for report in _write_all(output, settings, due, jobs):
        done += settings.seconds
        on_progress(done, total)
        yield report


def _prepare_folder(output: Path) -> None:
    """Make the folder, and make sure that it is ours and can be written to."""
    if output.exists() and not output.is_dir():
        raise UsageError(f"cannot write songs to {output}", why="it is a file", next_step="name a folder")
    try:
        output.mkdir(parents=True, exist_ok=True)
        entries = [entry for entry in output.iterdir() if not entry.name.startswith(".")]
        probe = output / ".stage-demo-data.part"
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        raise StageError(
            f"cannot write to {output}", why=error.strerror or str(error), next_step="choose another folder"
        ) from error
    if entries and not any(read_recipe(entry) for entry in entries):
        raise UsageError(
            f"{output} holds other files",
            why=f"{entries[0].name} is no demo song",
            next_step="name an empty or a new folder",
        )


def _plan(
    output: Path, settings: DemoSettings, recipes: list[dict[str, Any]], *, overwrite: bool
) -> tuple[list[int], list[int]]:
    """Return the songs that are there, and those that are to be written."""
    kept, due = [], []
    for index, wanted in enumerate(recipes):
        folder = output / song_id(settings.seed, index)
        found = read_recipe(folder) if folder.exists() else None
        if found == wanted:
            kept.append(index)
            continue
        if found is not None and not overwrite:
            other = next(name for name in wanted if found.get(name) != wanted[name])
            raise UsageError(
                f"{output} holds songs of other settings",
                why=f"{other.replace('_', ' ')} is {found.get(other)} there, {wanted[other]} here",
                next_step="use --overwrite to replace them, or another folder",
            )
        due.append(index)
    return kept, due


def _write_all(output: Path, settings: DemoSettings, due: list[int], jobs: int) -> Generator[SongReport]:
    if jobs == 1 or len(due) < 2:
        for index in due:
            yield _make_song(output, settings, index)
        return
    unfinished = set(due)
    try:
        with worker_pool(min(jobs, len(due))) as pool:
            for future in as_completed([pool.submit(_make_song, output, settings, index) for index in due]):
                report = future.result()
                unfinished.remove(report.index)
                yield report
    finally:
        for index in unfinished:
            remove_unfinished(output / song_id(settings.seed, index))


def _make_song(output: Path, settings: DemoSettings, index: int) -> SongReport:
    folder = output / song_id(settings.seed, index)
    score = compose(settings.seed, index, settings.seconds, tempo_changes=settings.tempo_changes)
    tracks = render(score, open_bank(settings), (settings.seed, index))
    write_song(folder, score, tracks, recipe(settings, index))
    return _report(folder, settings, index, written=True)


def _report(folder: Path, settings: DemoSettings, index: int, *, written: bool) -> SongReport:
    content = json.loads((folder / DATA_FILE).read_text(encoding="utf-8"))
    known = content["annotations"]
    return SongReport(
        index=index,
        path=str(folder),
        title=f"{content['song']} – {content['artist']}",
        style=known["style"],
        bpm=known["bpm"],
        time_signature=known["time_signature"],
        key=f"{known['key']['tonic']} {known['key']['mode']}",
        stems=tuple(stem["stemName"] for stem in content["stems"]),
        seconds=settings.seconds,
        written=written,
    )


def as_dict(report: SongReport) -> dict[str, Any]:
    """Return a report ready for JSON."""
    return asdict(report)
