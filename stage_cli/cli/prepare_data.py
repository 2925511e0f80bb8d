"""`stage prepare-data`: make a folder of multitrack songs ready for training."""

from __future__ import annotations

from collections import Counter, defaultdict
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stage_cli.cli import console
from stage_cli.cli.options import JsonOption
from stage_cli.core.data.settings import BEAT_SOURCES, WHOLE_SET, PrepareSettings, Shard, check_shard_settings
from stage_cli.core.music import key_finder
from stage_cli.errors import StageError, UsageError

if TYPE_CHECKING:
    from stage_cli.core.data.layouts.source import SongFolder
    from stage_cli.core.data.prepare import PreparedSong

_DEFAULTS = PrepareSettings()


def prepare_data(
    directory: Annotated[
        Path | None, typer.Argument(metavar="DIR", help="Data set, a part of it, or one song.", show_default=False)
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Folder for what is written; into the songs' own if left out."),
    ] = None,
    layout: Annotated[
        str | None, typer.Option("--layout", help="moisesdb, musdb18, slakh or folders; seen by itself if left out.")
    ] = None,
    check: Annotated[bool, typer.Option("--check", help="Only report what is there; write nothing.")] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Skip songs that their publishers know to be bad.")] = False,
    beats: Annotated[str, typer.Option("--beats", help=f"Where beats come from: {', '.join(BEAT_SOURCES)}.")] = (
        _DEFAULTS.beats
    ),
    tags: Annotated[
        Path | None, typer.Option("--tags", help="Folder of the Discogs-EffNet models, for genres and moods.")
    ] = None,
    jobs: Annotated[
        int | None, typer.Option("--jobs", "-j", help="Songs at a time, a process each; one a core if left out.")
    ] = None,
    shard: Annotated[
        str | None, typer.Option("--shard", metavar="I/N", help="Prepare only the I-th of N parts (for clusters).")
    ] = None,
    shards: Annotated[
        Path | None,
        typer.Option("--shards", metavar="DIR", help="Write all prepared songs into WebDataset shards there, too."),
    ] = None,
    shards_rate: Annotated[
        int | None,
        typer.Option(
            "--shards-rate", metavar="HZ", help="Shards hold a mono FLAC a stem at this rate (the codec's is 32000)."
        ),
    ] = None,
    plot: Annotated[
        str | None, typer.Option("--plot", metavar="SONG", help="Prepare and draw this one song: a name, or a folder.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Mix each song's drums into one file, and write its beats, key, stems and levels to features.json.

    Run it again after a stop or a change: only what is missing or has changed is done.
    """
    settings = PrepareSettings(beats=beats, tags=tags, output=output, check=check)
    part = WHOLE_SET if shard is None else Shard.parse(shard)
    if jobs is not None and jobs < 1:
        raise UsageError(f"--jobs cannot be {jobs}", next_step="give 1 or more")
    if shards is None and shards_rate is not None:
        raise UsageError("--shards-rate needs --shards", next_step="name a folder for the shards: --shards DIR")
    if shards is not None:
        check_shard_settings(shards, shards_rate)
        for option, is_given in (("--check", check), ("--plot", plot is not None)):
            if is_given:
                raise UsageError(f"--shards does not go with {option}", next_step="leave one of them out")
    if plot is not None:
        _plot(directory, plot, layout, settings, json=json)
        return
    if directory is None:
        raise UsageError("DIR is missing", next_step="name the folder of a data set: stage prepare-data DIR")
    # Imported here, for help and errors answer without audio libraries.
    from stage_cli.core.data.layouts import find_songs

    with console.spinner(f"Looking for songs in {directory} …", quiet=json):
        found = find_songs(directory, layout)
    if shards is not None:
        from stage_cli.core.data.shards import check_output

        # Now, not after hours of work.
        check_output(
            shards, [settings.folder_of(song) for song in found], {song.id for song in found}, shards_rate, part
        )
    songs = part.take(found)
    known_bad = [song for song in songs if song.known_error]
    for song in known_bad:
        _note(f"{song.id}: {song.known_error}{' – skipped' if strict else ''}", json=json)
    chosen = [song for song in songs if not (strict and song.known_error)]
    if not json:
        console.print_note(f"{len(found)} songs, layout {found[0].layout}; {len(chosen)} to look at.")
        if not check:
            console.print_note(f"Beats: {settings.beats}. Keys: {key_finder()}.")
    results = _prepare(chosen, settings, jobs, json=json)
    skipped = [song for song in known_bad if strict]
    if json:
        for song in skipped:
            console.print_json({"song": song.id, "status": "skipped", "known_error": song.known_error})
    else:
        _print_summary(results, len(skipped), check=check)
    if shards is not None:
        _write_shards(results, shards, shards_rate, part, jobs, json=json)
    if any(result.error for result in results):
        raise typer.Exit(StageError.exit_code)


def _prepare(songs: list[SongFolder], settings: PrepareSettings, jobs: int | None, *, json: bool) -> list[PreparedSong]:
    from stage_cli.core.data.prepare import prepare_songs
    from stage_cli.core.machine import available_cores

    results = []
    known_errors = {song.id: song.known_error for song in songs}
    with (
        console.count_progress("preparing", len(songs), "songs", quiet=json) as advance,
        closing(prepare_songs(songs, settings, jobs or available_cores())) as prepared,
    ):
        for result in prepared:
            results.append(result)
            advance()
            if json:
                console.print_json(_as_json(result, known_errors[result.id]))
            elif result.error is not None:
                console.print_error(result.error, subject=result.id)
            for note in result.notes:
                _note(f"{result.id}: {note}", json=json)
    return sorted(results, key=lambda result: result.id)


def _write_shards(
    results: list[PreparedSong], output: Path, sample_rate: int | None, part: Shard, jobs: int | None, *, json: bool
) -> None:
    from stage_cli.core.data.shards import write_shards
    from stage_cli.core.machine import available_cores

    folders = [result.folder for result in results if result.features is not None]
    if len(folders) < len(results):
        _note(f"The shards will lack {len(results) - len(folders)} songs, which failed.", json=json)
    if not folders and part.count == 1:
        return  # of a part without songs, however, it must be known that it is whole
    written = 0
    with console.count_progress("writing shards", len(folders), "songs", quiet=json) as advance:

        def follow(done: int, _: int) -> None:
            nonlocal written
            for _ in range(done - written):
                advance()
            written = done

        report = write_shards(
            folders, output, sample_rate=sample_rate, part=part, jobs=jobs or available_cores(), progress=follow
        )
    if json:
        facts = {"songs": report.songs, "written": report.shards - report.kept, "kept": report.kept}
        console.print_json({"shards": str(report.folder), **facts, "bytes": report.size})
        return
    row = (str(report.folder), f"{report.songs}", f"{report.shards - report.kept}", f"{report.kept}")
    size = f"{report.size / 1e9:.2f}"
    console.print_table(("shards", "songs", "written", "kept", "GB"), [(*row, size)], right=range(1, 5))


def _plot(directory: Path | None, name: str, layout: str | None, settings: PrepareSettings, *, json: bool) -> None:
    from stage_cli.core.data.layouts import find_songs
    from stage_cli.core.data.prepare import prepare_song
    from stage_cli.core.data.song import FEATURES_FILE

    if settings.check:
        raise UsageError("--plot writes a file, --check writes nothing", next_step="leave one of them out")
    if directory is None and (Path(name) / FEATURES_FILE).is_file():
        folder = Path(name)  # perhaps an --output folder: its audio lies elsewhere
    else:
        found = find_songs(Path(name) if directory is None else directory, layout)
        chosen = [song for song in found if name in (song.id, song.path.name) or song.path == Path(name)]
        if directory is None:
            chosen = found
        if len(chosen) != 1:
            raise UsageError(
                f"--plot takes one song, {name!r} names {len(chosen) or 'none'}",
                next_step=f"the songs here are: {', '.join(song.id for song in found[:5])}{', …' * (len(found) > 5)}",
            )
        with console.spinner(f"Preparing {chosen[0].id} …", quiet=json):
            result = prepare_song(chosen[0], settings)
        if result.error is not None:
            raise result.error
        folder = result.folder
    from stage_cli.core.data.plot import plot_song

    picture = plot_song(folder)
    if json:
        console.print_json({"plot": str(picture)})
    else:
        typer.echo(picture)


def _note(text: str, *, json: bool) -> None:
    if not json:
        console.print_note(text)


def _print_summary(results: list[PreparedSong], skipped: int, *, check: bool) -> None:
    if check:
        rows = [(result.id, _stems(result), _status(result)) for result in results]
        console.print_table(("song", "stems (tracks)", "status"), rows)
        return
    count = Counter(result.status for result in results)
    hours, active = defaultdict[str, float](float), defaultdict[str, float](float)
    songs = Counter[str]()
    for result in results:
        if result.features is None:
            continue
        hours[result.status] += result.features.duration / 3600
        for stem, part in result.features.stems.items():
            songs[stem] += bool(part.active)
            active[stem] += part.active / 3600
    count["skipped"] = skipped
    rows = [(status, str(number), _hours(hours, status)) for status, number in count.items() if number]
    rows += [(stem, str(number), _hours(active, stem)) for stem, number in songs.most_common()]
    console.print_table(("", "songs", "hours"), rows, right=(1, 2))


def _hours(hours: dict[str, float], name: str) -> str:
    return f"{hours[name]:.2f}" if name in hours else "–"


def _stems(result: PreparedSong) -> str:
    return ", ".join(f"{stem} ({number})" if number > 1 else stem for stem, number in result.tracks.items()) or "–"


def _status(result: PreparedSong) -> str:
    if result.error is not None:
        return f"failed: {result.error.what}"
    return {"unchanged": "prepared", "outdated": "to be prepared"}[result.status]


def _as_json(result: PreparedSong, known_error: str) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "song": result.id,
        "status": result.status,
        "path": str(result.folder),
        "tracks": dict(result.tracks),
        "notes": list(result.notes),
        "known_error": known_error or None,
        "compute_seconds": result.compute_seconds,
    }
    if result.error is not None:
        error = result.error
        told = {"error": error.what, "why": error.why, "next": error.next_step}
        return facts | {name: console.as_typed(text) for name, text in told.items()}
    if result.features is not None:
        rhythm, key = result.features.rhythm, result.features.key
        facts |= {
            "seconds": result.features.duration,
            "bpm": rhythm.bpm,
            "beats_source": rhythm.source,
            "beats_per_bar": rhythm.beats_per_bar,
            "key": f"{key.tonic} {key.scale}" if key else None,
            "key_source": key.source if key else None,
            "genres": list(result.features.genres),
            "moods": list(result.features.moods),
        }
    return facts
