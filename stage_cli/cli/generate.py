"""`stage generate`: write a stem for each context."""

from __future__ import annotations

import secrets
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stage_cli.cli import console, values
from stage_cli.cli.help import choice, complete_model, complete_stem
from stage_cli.cli.options import (
    AdvanceOption,
    DeviceOption,
    GuidanceOption,
    JsonOption,
    LookaheadOption,
    OfflineOption,
    PrecisionOption,
    TemperatureOption,
    TopKOption,
    TopPOption,
    given_sampling,
)
from stage_cli.cli.process import importing
from stage_cli.core.generation.config import GenerationConfig
from stage_cli.core.stems import STEMS
from stage_cli.errors import StageError, UsageError

if TYPE_CHECKING:
    from stage_cli.core.accompany import Accompanist, AccompanySettings
    from stage_cli.core.model import StageModel
    from stage_cli.core.players.accompanist import StagePlayer
    from stage_cli.core.stem_files import NamedContext, StemFile, StemRequest, Stream, WrittenStems

STDOUT = Path("-")
_STDIN = (Path("-"), Path("/dev/stdin"))


def goes_to_stdout(
    stream: Path | None,
    contexts: Sequence[object],
    variations: int,
    output: Path | None,
    format: str | None,
    *,
    json: bool,
) -> bool:
    """Return whether audio goes to stdout.

    Raises:
        UsageError: other options contradict, or stdout is a terminal.
    """
    if stream is None:
        return False
    if stream != STDOUT:
        if output is not None:
            raise UsageError(
                f"--stream {stream} says where to write, and so does --output {output}", next_step="give one of them"
            )
        return False
    to_a_file = "stream to a file, for example: --stream drums.wav"
    if json:
        raise UsageError("--json and --stream - both write to stdout", next_step=f"leave one out, or {to_a_file}")
    for things, what in ((len(contexts), "contexts"), (variations, "variations")):
        if things > 1:
            raise UsageError(
                f"--stream - is one stem, but there are {things} {what}",
                next_step="choose one, or stream to files: --stream FOLDER",
            )
    if output is None and format not in (None, "wav"):
        raise UsageError(
            f"--stream - writes WAV, not {format}", next_step=f"leave out --format, or name a file: --output x.{format}"
        )
    if sys.stdout.isatty():
        raise UsageError(
            "--stream - would write audio into the terminal",
            next_step=f"send it to a player: … | aplay; or {to_a_file}",
        )
    return True


STEM_COLUMNS = ("file", "seconds", "peak dBFS", "LUFS", "seed", "× real time")


def report_failure(request: StemRequest, error: StageError, *, json: bool) -> None:
    """Tell of a context for which nothing was written."""
    if json:
        failed = {
            "context": request.context.name,
            "error": console.as_typed(error.what),
            "why": console.as_typed(error.why),
            "next": console.as_typed(error.next_step),
        }
        console.print_json(failed)
    else:
        console.print_error(error)


def notes_on(result: WrittenStems) -> list[str]:
    """Tell what the user should know of it."""
    from stage_cli.core.files import display_name

    notes = list(result.notes)
    for stem in result.stems:
        name = "What was streamed" if stem.path is None else display_name(stem.path)
        if stem.note_count == 0:
            notes.append("No note was written: try another --seed.")
        if stem.silent:
            notes.append(f"{name} is silent (peak under −60 dBFS): try another --seed.")
        if stem.turned_down:
            notes.append(f"{name} was turned down by {stem.turned_down:.1f} dB to avoid clipping.")
        if stem.mix_path is not None and stem.mix_turned_down:
            mix_name = display_name(stem.mix_path)
            notes.append(f"{mix_name} was turned down by {stem.mix_turned_down:.1f} dB to avoid clipping.")
    return notes


def _speed(result: WrittenStems) -> float:
    return sum(stem.seconds for stem in result.stems) / max(result.compute_seconds, 1e-9)


def table_row(result: WrittenStems, stem: StemFile) -> tuple[str, ...]:
    """A stem's row under `STEM_COLUMNS`."""
    levels = (f"{stem.peak:.1f}", f"{stem.loudness:.1f}")
    return (
        str(stem.path or stem.midi_path or "stdout"),
        f"{stem.seconds:.2f}",
        *(("", "") if stem.path is None and stem.midi_path is not None else levels),
        str(stem.seed),
        f"{_speed(result):.2f}",
    )


def stem_as_json(request: StemRequest, result: WrittenStems, stem: StemFile, model_name: str) -> dict[str, Any]:
    """A stem's JSON object."""
    return {
        "context": request.context.name,
        "stem": request.stem,
        "model": model_name,
        **{key: str(value) if isinstance(value, Path) else value for key, value in asdict(stem).items()},
        "compute_seconds": result.compute_seconds,
        "speed": _speed(result),
        "notes": [console.as_typed(note) for note in notes_on(result)],
    }


_DEFAULTS = GenerationConfig()
_ANY_RATE = 48_000  # Hz: a context is looked at before the model's rate is known


def generate(
    typed: typer.Context,
    more: Annotated[list[Path] | None, typer.Argument(metavar="[CONTEXT]…", help="More contexts.")] = None,
    context: Annotated[
        list[Path] | None,
        typer.Option("--context", "-c", help="Audio file to accompany, or a folder of them; may be repeated."),
    ] = None,
    stem: Annotated[
        str, typer.Option("--stem", "-s", help=f"Stem to write: {', '.join(STEMS)}.", autocompletion=complete_stem)
    ] = "",
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "-m",
            help="Directory, Hub id, or a name of `stage models list`; the bundled one.",
            autocompletion=complete_model,
        ),
    ] = None,
    description: Annotated[
        str | None, typer.Option("--description", "-d", help='Text, such as "Genre: Rock. Mood: happy."')
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="File or folder; next to the context if left out.")
    ] = None,
    stream: Annotated[
        Path | None,
        typer.Option("--stream", metavar="PATH|-", help="As --output, growing while it is generated; - is stdout."),
    ] = None,
    mix: Annotated[bool, typer.Option("--mix", help="Also write context and stem together.")] = False,
    variations: Annotated[int, typer.Option("--variations", "-n", help="Stems to write for each context.")] = (
        _DEFAULTS.variations
    ),
    seed: Annotated[int | None, typer.Option("--seed", help="Fixes the result; random if left out.")] = None,
    start: Annotated[
        float,
        typer.Option("--start", metavar="TIME", parser=values.seconds("--start"), help="Of the context, to skip."),
    ] = 0.0,
    duration: Annotated[
        float | None,
        typer.Option(
            "--duration",
            metavar="TIME",
            parser=values.seconds("--duration"),
            help="How long the stem is: 90, 1:30 or 1m30s; as the context if left out.",
        ),
    ] = None,
    continuation: Annotated[
        Path | None,
        typer.Option("--continue", help="Audio of the stem's beginning, to go on from."),
    ] = None,
    bpm: Annotated[
        float | None,
        typer.Option("--bpm", metavar="BPM", parser=values.tempo("--bpm"), help="No context but a tempo: clicks."),
    ] = None,
    beats_per_bar: Annotated[
        int | None,
        typer.Option(
            "--beats-per-bar",
            metavar="BEATS",
            parser=values.beats_per_bar("--beats-per-bar"),
            help="With --bpm: 3, or 6/8 for 6 clicks a bar (4 if left out).",
        ),
    ] = None,
    offset: Annotated[
        float | None,
        typer.Option(
            "--offset", metavar="TIME", parser=values.seconds("--offset"), help="With --bpm: when the first beat is."
        ),
    ] = None,
    guidance: GuidanceOption = None,
    temperature: TemperatureOption = None,
    top_k: TopKOption = None,
    top_p: TopPOption = None,
    advance: AdvanceOption = None,
    lookahead: LookaheadOption = None,
    kit: Annotated[
        str | None, typer.Option("--kit", help="Drum kit of a player: acoustic, studio, dry, electronic or 808.")
    ] = None,
    sounds: Annotated[
        Path | None,
        typer.Option("--sounds", help="Own sounds for a player: SoundFont, SFZ file or folder of samples."),
    ] = None,
    gain: Annotated[
        float | None, typer.Option("--gain", metavar="DB", help="A player's stem so much louder than usual.")
    ] = None,
    no_midi: Annotated[bool, typer.Option("--no-midi", help="A player writes no MIDI file.")] = False,
    midi_only: Annotated[bool, typer.Option("--midi-only", help="A player writes its notes, and no audio.")] = False,
    device: DeviceOption = "auto",
    precision: PrecisionOption = "auto",
    offline: OfflineOption = False,
    format: Annotated[
        str | None, typer.Option("--format", help="wav or flac (24 bit).", autocompletion=choice(("wav", "flac")))
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace files that exist.")] = False,
    json: JsonOption = False,
) -> None:
    """Write a stem that fits a mix, or a tempo, on the beat and exactly as long."""
    sampling = given_sampling(
        guidance=guidance, temperature=temperature, top_k=top_k, top_p=top_p, advance=advance, lookahead=lookahead
    )
    seed = secrets.randbelow(2**31) if seed is None else seed
    GenerationConfig.from_options(sampling, seed=seed, variations=variations)  # what is not possible is told at once
    # Imported here, for argument errors answer without audio libraries.
    from stage_cli.core.accompany import AccompanySettings
    from stage_cli.core.contexts import FileContext
    from stage_cli.core.stem_files import StemRequest, choose_format, plan_requests
    from stage_cli.core.stems import parse_stem

    if not stem:
        raise UsageError("--stem is missing", next_step="say which stem to write, for example: --stem drums")
    values.check_quotes(stem, more or [])
    paths = [*(context or []), *(more or [])]
    if any(path in _STDIN for path in paths):
        paths = _spooled(typed, paths, is_named=output is not None or stream is not None)
    contexts = _contexts(paths, start, duration, bpm, beats_per_bar, offset)
    if continuation is not None and len(contexts) > 1:
        raise UsageError("--continue goes with one context")
    settings = AccompanySettings(
        description=description, continuation=None if continuation is None else FileContext(continuation)
    )
    stem = parse_stem(stem)
    name = _require_model(model, stem)
    player = _player_options(
        name, kit, sounds, gain, offline=offline, device=device, precision=precision, midi_only=midi_only,
        no_midi=no_midi,
    )  # fmt: skip
    if midi_only and (mix or stream is not None or no_midi or format is not None):
        other = "--mix" if mix else "--stream" if stream is not None else "--no-midi" if no_midi else "--format"
        raise UsageError(f"--midi-only writes no audio, and {other} goes with audio", next_step="leave one out")
    to_stdout = goes_to_stdout(stream, contexts, variations, output, format, json=json)
    named, field = (output, "output") if stream is None or to_stdout else (stream, "stream")
    template = StemRequest(
        contexts[0],
        stem,
        (),
        format=choose_format(named, format, field=field),
        overwrite=overwrite,
        growing=stream is not None and not to_stdout,
    )
    requests = [template]
    if named is not None or not to_stdout:
        inputs = () if continuation is None else (continuation,)
        requests = plan_requests(
            contexts,
            template,
            output=named,
            variations=variations,
            mix=mix,
            inputs=inputs,
            field=field,
            midi=player is not None and not no_midi,
            audio=not midi_only,
        )
    requests, failures = _readable(requests, settings, json=json)
    if requests:
        if player is None:
            loaded = _load_model(name, device, precision, offline=offline, json=json)
        else:
            loaded = _load_player(name, player, json=json)
        settings = _completed(loaded, requests[0], settings, sampling, seed, variations)
        if not json:
            _tell_of_model(loaded, name, seed)
        failures += _write(loaded, name, requests, settings, _stream(mix) if to_stdout else None, json=json)
    if failures:
        raise typer.Exit(min(error.exit_code for error in failures))


def _spooled(typed: typer.Context, paths: list[Path], *, is_named: bool) -> list[Path]:
    """Write stdin to a file that the end of the command removes: a context is read more than once."""
    if sum(path in _STDIN for path in paths) > 1:
        raise UsageError("stdin is one context", next_step="name it once")
    if not is_named:
        raise UsageError(
            "A context from stdin has no name for its stem", next_step="say where to write: --output drums.wav"
        )
    if sys.stdin.isatty():
        raise UsageError(
            "stdin is a terminal, not audio", next_step="send a file to it: stage generate -c - … < mix.wav"
        )
    folder = Path(tempfile.mkdtemp(prefix="stage-"))
    typed.call_on_close(lambda: shutil.rmtree(folder, ignore_errors=True))
    with (folder / "stdin.wav").open("wb") as file:  # libsndfile looks at what is in it, not at its name
        shutil.copyfileobj(sys.stdin.buffer, file)
    return [folder / "stdin.wav" if path in _STDIN else path for path in paths]


def _contexts(
    paths: list[Path],
    start: float,
    duration: float | None,
    bpm: float | None,
    beats_per_bar: int | None,
    offset: float | None,
) -> list[NamedContext]:
    from stage_cli.core.audio.naming import find_audio
    from stage_cli.core.contexts import FileContext, MetronomeContext

    if bpm is not None:
        if paths or start:
            raise UsageError(
                "--bpm makes its own context", next_step=f"leave out {'--context' if paths else '--start'}"
            )
        track = MetronomeContext(bpm)
        return [
            MetronomeContext(
                bpm,
                track.beats_per_bar if beats_per_bar is None else beats_per_bar,
                track.duration if duration is None else duration,
                track.offset if offset is None else offset,
            )
        ]
    for option, value in (("--beats-per-bar", beats_per_bar), ("--offset", offset)):
        if value is not None:
            raise UsageError(f"{option} goes with --bpm only")
    if not paths:
        raise UsageError(
            "There is nothing to accompany", next_step="give --context mix.wav, or a tempo: --bpm 120 --duration 20"
        )
    return [FileContext(path, start, duration) for path in find_audio(paths)]


def _require_model(name: str | None, stem: str) -> str:
    """Return the model's name, or that of the package's model for the stem, or explain how to get one."""
    if name:
        return name
    from stage_cli.core.weights.hub import bundled_stems, default_model, local_models, player_stems

    if (default := default_model(stem)) is not None:
        return default
    own = [path.name for path in local_models()]
    here = f"; your own are: {', '.join(own)} (use --model {own[0]})" if own else ""
    stems = sorted({*bundled_stems(), *player_stems()})
    raise UsageError(
        f"No model for {stem} comes with stage-cli: --model is missing",
        why=f"bundled are models for: {', '.join(stems) or 'no stem'}{here}",
        next_step=f"import a STAGE checkpoint (stage models import stage-{stem}.safetensors --stem {stem}) or train "
        "one (docs/train.md), then give --model; see docs/models.md",
    )


@dataclass(frozen=True)
class PlayerOptions:
    """How a player is to play: options of `stage generate`."""

    kit: str | None
    sounds: Path | None
    gain: float
    offline: bool


def _player_options(
    name: str,
    kit: str | None,
    sounds: Path | None,
    gain: float | None,
    *,
    device: str,
    precision: str,
    offline: bool,
    midi_only: bool,
    no_midi: bool,
) -> PlayerOptions | None:
    """Return how a player is to play, or None if the model is none.

    Raises:
        UsageError: options that do not go with the model.
    """
    from stage_cli.core.weights.hub import is_player, resolve

    given = {
        "--kit": kit, "--sounds": sounds, "--gain": gain, "--midi-only": midi_only or None,
        "--no-midi": no_midi or None,
    }  # fmt: skip
    chosen = [option for option, value in given.items() if value is not None]
    # What has to be fetched is looked at only where it matters: a player is known by its files.
    directory = _directory_here(name)
    if directory is None and chosen:
        directory = resolve(name, offline=offline)
    if directory is None or not is_player(directory):
        if chosen:
            raise UsageError(
                f"{chosen[0]} goes with a player, and {name} is none",
                why="it writes audio, and no notes",
                next_step=f"leave {chosen[0]} out, or use --model player-drums",
            )
        return None
    for option, value in (("--device", device), ("--precision", precision)):
        if value not in ("auto", "cpu", "float32"):
            raise UsageError(
                f"{option} {value} does not go with a player", why="it runs on the CPU", next_step=f"leave {option} out"
            )
    return PlayerOptions(kit, sounds, gain or 0.0, offline)


def _directory_here(name: str) -> Path | None:
    """Return the directory of a model that need not be fetched; None for others, and for names that there are not."""
    from stage_cli.core.weights.hub import hub_repository, resolve

    try:
        return None if hub_repository(name) else resolve(name, offline=True)
    except StageError:
        return None


def _readable(
    requests: list[StemRequest], settings: AccompanySettings, *, json: bool
) -> tuple[list[StemRequest], list[StageError]]:
    """Keep the requests whose audio can be opened; tell of the others now, before a model is loaded."""
    kept, failures = [], []
    for request in requests:
        try:
            for context in (request.context, settings.continuation):
                if context is not None:
                    context.open(_ANY_RATE)
            kept.append(request)
        except StageError as error:
            failures.append(error)
            report_failure(request, error, json=json)
    return kept, failures


def _load_model(name: str, device: str, precision: str, *, offline: bool, json: bool) -> StageModel:
    with console.spinner(f"Loading {name} …", quiet=json):
        with importing():
            from stage_cli.core.model import StageModel

        return StageModel.from_pretrained(name, device=device, precision=precision, offline=offline)


def _load_player(name: str, options: PlayerOptions, *, json: bool) -> StagePlayer:
    with console.spinner(f"Loading {name} …", quiet=json):
        with importing():
            from stage_cli.core.players.accompanist import StagePlayer

        return StagePlayer.from_pretrained(
            name, kit=options.kit, sounds=options.sounds, gain=options.gain, offline=options.offline
        )


def _completed(
    model: Accompanist[Any, Any],
    request: StemRequest,
    settings: AccompanySettings,
    sampling: dict[str, Any],
    seed: int,
    variations: int,
) -> AccompanySettings:
    """Complete the settings by the model's own."""
    from stage_cli.core.accompany import check_stem, generation_for

    check_stem(model, request.stem)
    # A run has files for contexts, or one metronome: one of them stands for all.
    generation = generation_for(model, request.context, sampling, seed=seed, variations=variations)
    return replace(settings, generation=generation)


def _tell_of_model(model: Accompanist[Any, Any], name: str, seed: int) -> None:
    from stage_cli.core.weights.hub import bundled_directory

    config, runtime = getattr(model, "config", None), getattr(model, "runtime", None)
    where = f" on {runtime.device} in {runtime.precision}" if runtime is not None else ""
    console.print_note(f"Model: {name}{where}. Seed: {seed}.")
    if bundled_directory(name) is not None:
        console.print_note("It is small and was trained on synthetic songs. For a full-size one see docs/models.md.")
    if config is not None and config.note:
        console.print_note(config.note)


def _stream(mix: bool) -> Stream:
    from stage_cli.core.stem_files import Stream

    return Stream(console.audio_stdout(), mixed=mix)


def _write(
    model: Accompanist[Any, Any],
    name: str,
    requests: list[StemRequest],
    settings: AccompanySettings,
    stream: Stream | None,
    *,
    json: bool,
) -> list[StageError]:
    """Write the stems of each context, and tell of them; returns what went wrong."""
    from stage_cli.core.files import display_name
    from stage_cli.core.stem_files import write_stems

    failures: list[StageError] = []
    rows = []
    for request in requests:
        if request.growing and not json:
            growing = ", ".join(map(display_name, request.growing_paths))
            console.print_note(f"Growing while it is generated: {growing}")
        try:
            with console.audio_progress(request.context.name, quiet=json) as on_progress:
                result = write_stems(model, request, settings, on_progress, stream=stream)
        except StageError as error:
            failures.append(error)
            report_failure(request, error, json=json)
            continue
        for stem in result.stems:
            if json:
                console.print_json(stem_as_json(request, result, stem, name))
            rows.append(table_row(result, stem))
            if stem.mix_path is not None:
                rows.append((str(stem.mix_path), f"{stem.seconds:.2f}", "–", "–", str(stem.seed), "–"))
        for note in notes_on(result):
            console.print_note(note)
    if rows and not json:
        columns = STEM_COLUMNS
        console.print_table(columns, rows, right=range(1, len(columns)), to_stderr=stream is not None)
    return failures
