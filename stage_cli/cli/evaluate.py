"""`stage evaluate`: generate for known songs, measure against them, and write a report."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

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
from stage_cli.core.data.config import CONTEXTS
from stage_cli.core.evaluation.settings import CLIP_SECONDS, SPLITS, EvaluationConfig
from stage_cli.core.generation.config import GenerationConfig
from stage_cli.core.music import TRACKERS, default_tracker
from stage_cli.core.stems import STEMS, parse_stem
from stage_cli.errors import UsageError

if TYPE_CHECKING:
    from stage_cli.core.evaluation.report.results import Metric, Results, Summary, SystemResult

# A terminal of 80 columns shows so much; the report has all of it.
_MOST_SYSTEMS = 3
_MOST_METRICS = 6
_DRAW = GenerationConfig()
_DEFAULTS = EvaluationConfig(Path(), metronome_set=True, models=("none",))


def evaluate(
    out: Annotated[Path | None, typer.Option("--output", "-o", help="Folder of the report; goes on with one.")] = None,
    model: Annotated[
        list[str] | None,
        typer.Option("--model", "-m", help="Model to evaluate; repeat it to compare.", autocompletion=complete_model),
    ] = None,
    data: Annotated[list[Path] | None, typer.Option("--data", help="Folder of prepared songs.")] = None,
    stem: Annotated[
        str, typer.Option("--stem", "-s", help=f"Stem to evaluate: {', '.join(STEMS)}.", autocompletion=complete_stem)
    ] = _DEFAULTS.stem,
    context: Annotated[
        str | None,
        typer.Option("--context", "-c", help=f"Of songs: {', '.join(CONTEXTS)}. Or a folder of contexts."),
    ] = None,
    generated: Annotated[
        list[Path] | None,
        typer.Option("--generated", "-g", help="Folder of finished stems, of any system; repeat it to compare."),
    ] = None,
    reference: Annotated[
        Path | None, typer.Option("--reference", help="Folder of the true stems, with --context DIR.")
    ] = None,
    metronome_set: Annotated[
        bool, typer.Option("--metronome-set", help="Click tracks of 100 to 179 bpm; needs no songs.")
    ] = False,
    songs: Annotated[
        int | None,
        typer.Option(
            "--songs", help="Songs at most, the last by name (24; of --split all all); with --metronome-set: tempi."
        ),
    ] = None,
    chunks: Annotated[int, typer.Option("--chunks", help="Clips of each song.")] = _DEFAULTS.chunks,
    seconds: Annotated[
        float | None,
        typer.Option(
            "--duration",
            metavar="TIME",
            parser=values.seconds("--duration"),
            help=f"Length of the clips ({CLIP_SECONDS:g} s; files whole).",
        ),
    ] = None,
    split: Annotated[
        str, typer.Option("--split", help=f"Which songs: {', '.join(SPLITS)}.", autocompletion=choice(SPLITS))
    ] = SPLITS[0],
    validation_file: Annotated[
        Path | None, typer.Option("--validation-file", help="Text file of song ids, instead of --split.")
    ] = None,
    baselines: Annotated[
        bool, typer.Option("--baselines", help="Also measure the true stems after each model's codec.")
    ] = False,
    descriptions: Annotated[bool, typer.Option("--descriptions", help="Tell models the songs' genres and moods.")] = (
        False
    ),
    embedding: Annotated[
        list[str] | None,
        typer.Option("--embedding", help="For FAD, KAD, APA: codec, clap, mert, vggish; NAME=SOURCE. Repeatable."),
    ] = None,
    kad_compat: Annotated[bool, typer.Option("--kad-compat", help="KAD as the package kadtk has it.")] = False,
    cocola: Annotated[Path | None, typer.Option("--cocola", help="Checkpoint for the COCOLA score.")] = None,
    tracker: Annotated[str, typer.Option("--tracker", help=f"Of beats: {', '.join(TRACKERS)}.")] = default_tracker(),
    seed: Annotated[int, typer.Option("--seed", help="Fixes clips and stems.")] = _DRAW.seed,
    guidance: GuidanceOption = None,
    temperature: TemperatureOption = None,
    top_k: TopKOption = None,
    top_p: TopPOption = None,
    advance: AdvanceOption = None,
    lookahead: LookaheadOption = None,
    device: DeviceOption = "auto",
    precision: PrecisionOption = "auto",
    offline: OfflineOption = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Throw away a report of other settings.")] = False,
    json: JsonOption = False,
) -> None:
    """Measure how well stems fit their songs, with anchors, and write a report to look at and listen to."""
    if out is None:
        raise UsageError("--output is missing", next_step="name a folder for the report: --output report")
    sampling = given_sampling(
        guidance=guidance, temperature=temperature, top_k=top_k, top_p=top_p, advance=advance, lookahead=lookahead
    )
    kind, folder = _context(context, has_data=bool(data))
    config = EvaluationConfig(
        out=out,
        stem=parse_stem(stem),
        models=tuple(model or ()),
        data=tuple(map(str, data or ())),
        context=kind,
        chunks=chunks,
        songs=songs,
        seconds=None if seconds is None else float(seconds),
        split=split,
        validation_file=validation_file,
        metronome_set=metronome_set,
        generated=tuple(generated or ()),
        context_folder=folder,
        reference=reference,
        baselines=baselines,
        descriptions=descriptions,
        embeddings=None if embedding is None else tuple(embedding),
        kad_compatible=kad_compat,
        cocola=cocola,
        tracker=tracker,
        generation=GenerationConfig.from_options(sampling, seed=seed),
        given=tuple(sampling),
        device=device,
        precision=precision,
        offline=offline,
        overwrite=overwrite,
        command=("stage", *sys.argv[1:]),
    )
    from stage_cli.core.evaluation.finished import finished

    results = None if overwrite else finished(config)
    if results is not None and not json:
        console.print_note("This evaluation is finished already: nothing is made anew.")
    if results is None:
        with console.spinner("Getting ready …", quiet=json):
            from stage_cli.core.evaluation.run import evaluate as run_evaluation

        with console.phase_progress("clips", quiet=json) as on_progress:
            results = run_evaluation(config, on_progress=on_progress, on_note=console.print_note).results
    _print(results, config.out, json=json)
    if results.failures:
        raise typer.Exit(1)


def _context(context: str | None, *, has_data: bool) -> tuple[str, Path | None]:
    """Tell a kind of context from a folder of contexts."""
    default = _DEFAULTS.context
    if context is None:
        return default, None
    if has_data and context in CONTEXTS:
        return context, None
    folder = values.at_home(Path(context))
    if has_data and not folder.is_dir():
        raise UsageError(f"--context cannot be {context!r}", next_step=f"allowed with --data: {', '.join(CONTEXTS)}")
    return default, folder


def _print(results: Results, out: Path, *, json: bool) -> None:
    from stage_cli.core.evaluation.report.results import REPORT_FILE

    if json:
        for summary in results.summaries:
            console.print_json(vars(summary))
        for failure in results.failures:
            console.print_json(vars(failure))
        return
    for context in dict.fromkeys(summary.context for summary in results.summaries):
        _print_context(results, context)
    for failure in results.failures[:5]:
        console.print_note(f"{failure.item} {failure.system}: {failure.error}")
    if results.failures:
        console.print_note(f"{len(results.failures)} failed; the numbers are of what remained.")
    console.print_note(f"Report: {out / REPORT_FILE}")


def _print_context(results: Results, context: str) -> None:
    cells = {(entry.metric, entry.system): entry for entry in results.summaries if entry.context == context}
    systems = [system for system in results.systems if any(name == system.name for _, name in cells)]
    metrics = {name: metric for name, metric in results.metrics.items() if any(found == name for found, _ in cells)}
    shown, named = _first(systems), _headline(metrics)
    columns = (f"context: {context}", *(system.title for system in shown))
    for with_interval in (True, False):
        rows = [
            (
                f"{metric.title}{_arrow(metric)}",
                *(_cell(cells.get((name, system.name)), with_interval=with_interval) for system in shown),
            )
            for name, metric in named.items()
        ]
        if console.fits(columns, rows):
            break
    console.print_table(columns, rows)
    if len(shown) < len(systems) or len(named) < len(metrics):
        console.print_note(f"{len(systems)} systems and {len(metrics)} numbers are in the report.")


def _first(systems: Sequence[SystemResult]) -> list[SystemResult]:
    """Choose what is printed: systems first, then the true stems, then what the first is against other songs."""
    own = [system for system in systems if system.role == "system" and not system.title.endswith(", shuffled")]
    true = [system for system in systems if system.title == "true stems"]
    others = [system for system in systems if system not in own and system not in true]
    given = [*own[: _MOST_SYSTEMS - bool(true)], *true, *own[_MOST_SYSTEMS - bool(true) :], *others][:_MOST_SYSTEMS]
    return [system for system in systems if system in given]


def _headline(metrics: Mapping[str, Metric]) -> dict[str, Metric]:
    """Choose the numbers that are printed: how a stem fits its song before what it sounds like and what it costs."""
    from stage_cli.core.evaluation.report.results import DIFFERENCE

    differences = [name for name in metrics if name.endswith(DIFFERENCE)]
    names = [*differences, *(name for name in metrics if name not in differences)][:_MOST_METRICS]
    return {name: metric for name, metric in metrics.items() if name in names}


def _arrow(metric: Metric) -> str:
    return {"higher": " ↑", "lower": " ↓"}.get(metric.better, "")


def _cell(summary: Summary | None, *, with_interval: bool) -> str:
    if summary is None or summary.value is None:
        return "–"
    text = f"{summary.value:.3g}"
    return text if summary.low is None or not with_interval else f"{text} ({summary.low:.3g} – {summary.high:.3g})"
