"""`stage demo-data`: write a set of synthetic band songs."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Annotated

import typer

from stage_cli.cli import console, values
from stage_cli.cli.options import JsonOption
from stage_cli.core.band.settings import SOUNDS, TEMPO_CHANGES, DemoSettings, check_jobs

_DEFAULTS = DemoSettings()
_MOST_NAMED = 5


def demo_data(
    output: Annotated[Path, typer.Argument(metavar="OUT", help="Folder for the songs; new, empty, or to go on with.")],
    songs: Annotated[int, typer.Option("--songs", help="How many songs.")] = _DEFAULTS.songs,
    seconds: Annotated[
        float,
        typer.Option(
            "--duration", metavar="TIME", parser=values.seconds("--duration"), help="Length of each song: 90 or 1:30."
        ),
    ] = _DEFAULTS.seconds,
    seed: Annotated[int, typer.Option("--seed", help="Fixes the songs; another seed, other songs.")] = _DEFAULTS.seed,
    sounds: Annotated[
        str, typer.Option("--sounds", help=f"{', '.join(SOUNDS)}; auto is a soundfont if there is one, else synth.")
    ] = _DEFAULTS.sounds,
    soundfont: Annotated[
        Path | None, typer.Option("--soundfont", help="General MIDI soundfont (.sf2); Debian's FluidR3 if left out.")
    ] = _DEFAULTS.soundfont,
    tempo_changes: Annotated[
        str, typer.Option("--tempo-changes", help=f"Between a song's sections: {', '.join(TEMPO_CHANGES)}.")
    ] = _DEFAULTS.tempo_changes,
    drummers: Annotated[
        Path | None,
        typer.Option("--drummers", metavar="DIR", help="Drum performances to play: Groove MIDI's, or any MIDI files."),
    ] = _DEFAULTS.drummers,
    arrangements: Annotated[
        Path | None,
        typer.Option("--arrangements", metavar="DIR", help="MIDI files that become songs themselves."),
    ] = _DEFAULTS.arrangements,
    arrangement_share: Annotated[
        float, typer.Option("--arrangement-share", help="Share of the songs that are arrangements, 0 to 1.")
    ] = _DEFAULTS.arrangement_share,
    kits: Annotated[
        Path | None,
        typer.Option("--kits", metavar="DIR", help="Folders of recorded one-shots that some songs are played on."),
    ] = _DEFAULTS.kits,
    jobs: Annotated[int, typer.Option("--jobs", "-j", help="Processes.")] = 1,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace songs of other settings.")] = False,
    json: JsonOption = False,
) -> None:
    """Write synthetic band songs in MoisesDB's layout, to try everything without a data set."""
    settings = DemoSettings(
        songs, seconds, seed, sounds, soundfont, tempo_changes, drummers, arrangements, arrangement_share, kits
    )
    check_jobs(jobs)
    # Imported here, for argument errors answer without numpy.
    from stage_cli.core.band.arrangements import open_arrangements
    from stage_cli.core.band.demo_data import as_dict, write_demo_data
    from stage_cli.core.band.performances import open_drummers
    from stage_cli.core.band.recorded import open_recordings
    from stage_cli.core.band.sounds import resolve

    settings = resolve(settings)
    if not json:
        name = "the built-in synthesizer" if settings.soundfont is None else settings.soundfont.name
        console.print_note(f"Sounds: {name}{' and the built-in synthesizer' if settings.sounds == 'mixed' else ''}.")
    libraries = []
    if settings.drummers is not None:
        libraries.append((settings.drummers, open_drummers(settings.drummers)))
    if settings.arrangements is not None:
        libraries.append((settings.arrangements, open_arrangements(settings.arrangements)))
    if settings.kits is not None:
        libraries.append((settings.kits, open_recordings(settings.kits)))
    named = [_print_skipped(folder, library.skipped) for folder, library in libraries]
    began = time.perf_counter()
    written = kept = 0
    with console.audio_progress(f"{songs} songs", quiet=json) as on_progress:
        reports = write_demo_data(
            output,
            settings,
            jobs=jobs,
            overwrite=overwrite,
            on_progress=lambda done, total: on_progress("generate", done, total),
        )
        with closing(reports):
            for report in reports:
                written, kept = written + report.written, kept + (not report.written)
                if json:
                    console.print_json(as_dict(report))
    for (folder, library), before in zip(libraries, named, strict=True):
        _print_skipped(folder, library.skipped[before:])
    if json:
        return
    speed = written * seconds / max(time.perf_counter() - began, 1e-9)
    console.print_table(
        ("folder", "written", "kept", "seconds each", "× real time"),
        [(str(output), f"{written}", f"{kept}", f"{seconds:g}", f"{speed:.1f}" if written else "–")],
        right=range(1, 5),
    )


def _print_skipped(folder: Path, skipped: Sequence[str]) -> int:
    """Name what a folder lists or holds and cannot be used: the first few files, and how many more; return them all."""
    for line in skipped[:_MOST_NAMED]:
        console.print_note(f"Skipped in {folder}: {line}.")
    if len(skipped) > _MOST_NAMED:
        console.print_note(f"Skipped in {folder}: {len(skipped) - _MOST_NAMED} more files.")
    return len(skipped)
