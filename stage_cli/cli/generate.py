"""`stage generate`: write a stem for each context."""

from __future__ import annotations

import secrets
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stage_cli.cli import console
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
    chosen_sampling,
)
from stage_cli.cli.process import importing
from stage_cli.core.generation.config import GenerationConfig
from stage_cli.errors import StageError, UsageError

if TYPE_CHECKING:
    from stage_cli.core.accompany import AccompanySettings
    from stage_cli.core.model import StageModel
    from stage_cli.core.stem_files import NamedContext, StemFile, StemRequest, Stream, WrittenStems

STDOUT = Path("-")


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
    return (
        "stdout" if stem.path is None else str(stem.path),
        f"{stem.seconds:.2f}",
        f"{stem.peak:.1f}",
        f"{stem.loudness:.1f}",
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
        "notes": notes_on(result),
    }


_DEFAULTS = GenerationConfig()
_ANY_RATE = 48_000  # Hz: a context is looked at before the model's rate is known


def generate(
    more: Annotated[list[Path] | None, typer.Argument(metavar="[CONTEXT]…", help="More contexts.")] = None,
    context: Annotated[
        list[Path] | None,
        typer.Option("--context", "-c", help="Audio file to accompany, or a folder of them; may be repeated."),
    ] = None,
    stem: Annotated[str, typer.Option("--stem", "-s", help="Stem to write: drums, bass, guitar, piano, …")] = "",
    model: Annotated[
        str | None,
        typer.Option("--model", "-m", help="Directory, Hub id, or a name of `stage models list`; the bundled one."),
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
    start: Annotated[float, typer.Option("--start", help="Seconds of the context to skip.")] = 0.0,
    duration: Annotated[float | None, typer.Option("--duration", help="Seconds to write; all if left out.")] = None,
    continuation: Annotated[
        Path | None,
        typer.Option("--continue", help="Audio of the stem's beginning, to go on from."),
    ] = None,
    bpm: Annotated[float | None, typer.Option("--bpm", help="No context but a tempo: clicks.")] = None,
    beats_per_bar: Annotated[int | None, typer.Option("--beats-per-bar", help="With --bpm (4 if left out).")] = None,
    offset: Annotated[
        float | None,
        typer.Option("--offset", help="With --bpm: seconds of the first beat."),
    ] = None,
    guidance: GuidanceOption = None,
    temperature: TemperatureOption = None,
    top_k: TopKOption = None,
    top_p: TopPOption = None,
    advance: AdvanceOption = None,
    lookahead: LookaheadOption = None,
    device: DeviceOption = "auto",
    precision: PrecisionOption = "auto",
    offline: OfflineOption = False,
    format: Annotated[str | None, typer.Option("--format", help="wav or flac (24 bit).")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace files that exist.")] = False,
    json: JsonOption = False,
) -> None:
    """Write a stem that fits a mix, or a tempo, on the beat and exactly as long.

    stage generate --context mix.wav --stem drums
    """
    sampling = chosen_sampling(
        guidance=guidance, temperature=temperature, top_k=top_k, top_p=top_p, advance=advance, lookahead=lookahead
    )
    seed = secrets.randbelow(2**31) if seed is None else seed
    GenerationConfig.of_chosen(sampling, seed=seed, variations=variations)  # what is not possible is told at once
    # Imported here, for argument errors answer without audio libraries.
    from stage_cli.core.accompany import AccompanySettings
    from stage_cli.core.contexts import FileContext
    from stage_cli.core.stem_files import StemRequest, choose_format, plan_requests
    from stage_cli.core.stems import parse_stem

    if not stem:
        raise UsageError("--stem is missing", next_step="say which stem to write, for example: --stem drums")
    contexts = _contexts([*(context or []), *(more or [])], start, duration, bpm, beats_per_bar, offset)
    if continuation is not None and len(contexts) > 1:
        raise UsageError("--continue goes with one context")
    settings = AccompanySettings(
        description=description, continuation=None if continuation is None else FileContext(continuation)
    )
    to_stdout = goes_to_stdout(stream, contexts, variations, output, format, json=json)
    named, field = (output, "output") if stream is None or to_stdout else (stream, "stream")
    template = StemRequest(
        contexts[0],
        parse_stem(stem),
        (),
        format=choose_format(named, format, field=field),
        overwrite=overwrite,
        growing=stream is not None and not to_stdout,
    )
    requests = [template]
    if named is not None or not to_stdout:
        inputs = () if continuation is None else (continuation,)
        requests = plan_requests(
            contexts, template, output=named, variations=variations, mix=mix, inputs=inputs, field=field
        )
    name = _require_model(model, template.stem)
    requests, failures = _readable(requests, settings, json=json)
    if requests:
        stage_model, settings = _load(
            name, requests[0], settings, sampling, seed, variations, device, precision, offline=offline, json=json
        )
        failures += _write(stage_model, name, requests, settings, _stream(mix) if to_stdout else None, json=json)
    if failures:
        raise typer.Exit(min(error.exit_code for error in failures))


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
    """Return the model's name, or the bundled one's of that stem, or explain how to get one."""
    if name:
        return name
    from stage_cli.core.weights.hub import bundled_name, bundled_stems, local_models

    if (bundled := bundled_name(stem)) is not None:
        return bundled
    own = [path.name for path in local_models()]
    here = f"; your own are: {', '.join(own)} (use --model {own[0]})" if own else ""
    raise UsageError(
        f"No model for {stem} comes with stage-cli: --model is missing",
        why=f"bundled are models for: {', '.join(bundled_stems()) or 'no stem'}{here}",
        next_step=f"import a STAGE checkpoint (stage models import stage-{stem}.safetensors --stem {stem}) or train "
        "one (docs/train.md), then give --model; see docs/models.md",
    )


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


def _load(
    name: str,
    request: StemRequest,
    settings: AccompanySettings,
    sampling: dict[str, Any],
    seed: int,
    variations: int,
    device: str,
    precision: str,
    *,
    offline: bool,
    json: bool,
) -> tuple[StageModel, AccompanySettings]:
    """Load the model, and complete the settings by its own."""
    with console.spinner(f"Loading {name} …", quiet=json):
        with importing():
            from stage_cli.core.accompany import check_stem, generation_for
            from stage_cli.core.model import StageModel
            from stage_cli.core.weights.hub import bundled_directory

        model = StageModel.from_pretrained(name, device=device, precision=precision, offline=offline)
        check_stem(model, request.stem)
        # A run has files for contexts, or one metronome: one of them stands for all.
        generation = generation_for(model, request.context, sampling, seed=seed, variations=variations)
    if not json:
        console.print_note(f"Model: {name} on {model.runtime.device} in {model.runtime.precision}. Seed: {seed}.")
        if bundled_directory(name) is not None:
            console.print_note(
                "It is small and was trained on synthetic songs. For a full-size one see docs/models.md."
            )
        if model.config.note:
            console.print_note(model.config.note)
    return model, replace(settings, generation=generation)


def _stream(mix: bool) -> Stream:
    from stage_cli.core.stem_files import Stream

    return Stream(console.audio_stdout(), mixed=mix)


def _write(
    model: StageModel,
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
        for note in notes_on(result):
            console.print_note(note)
    if rows and not json:
        columns = STEM_COLUMNS
        console.print_table(columns, rows, right=range(1, len(columns)), to_stderr=stream is not None)
    return failures
