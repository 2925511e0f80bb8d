"""`stage evaluate`: generate for known songs, measure against them, and write a report."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

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
    given_sampling,
)
from stage_cli.core.data.config import CONTEXTS
from stage_cli.core.evaluation.settings import CLIP_SECONDS, SPLITS, EvaluationConfig
from stage_cli.core.generation.config import GenerationConfig
from stage_cli.core.music import TRACKERS, default_tracker
from stage_cli.core.stems import parse_stem
from stage_cli.errors import UsageError

if TYPE_CHECKING:
    from stage_cli.core.evaluation.report.results import Metric, Results, Summary
    from stage_cli.core.evaluation.run import Evaluation

_DRAW = GenerationConfig()
_DEFAULTS = EvaluationConfig(Path(), metronome_set=True, models=("none",))


def evaluate(
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Folder of the report; goes on with one.")] = None,
    model: Annotated[
        list[str] | None, typer.Option("--model", "-m", help="Model to evaluate; repeat it to compare.")
    ] = None,
    data: Annotated[list[Path] | None, typer.Option("--data", help="Folder of prepared songs.")] = None,
    stem: Annotated[str, typer.Option("--stem", "-s", help="Stem to evaluate.")] = _DEFAULTS.stem,
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
        int | None, typer.Option("--songs", help="Songs at most, the last by name (24; of --split all all).")
    ] = None,
    chunks: Annotated[int, typer.Option("--chunks", help="Clips of each song.")] = _DEFAULTS.chunks,
    seconds: Annotated[
        float | None,
        typer.Option("--seconds", help=f"Length of the clips ({CLIP_SECONDS:g}; files whole)."),
    ] = None,
    split: Annotated[str, typer.Option("--split", help=f"Which songs: {', '.join(SPLITS)}.")] = SPLITS[0],
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
    """Measure how well stems fit their songs, with anchors, and write a report to look at and listen to.

    stage evaluate --model stage-drums --data prepared/moisesdb --stem drums --out report
    """
    if out is None:
        raise UsageError("--out is missing", next_step="name a folder for the report: --out report")
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
    with console.spinner("Getting ready …", quiet=json):
        from stage_cli.core.evaluation.run import evaluate as run_evaluation

    with console.phase_progress("clips", quiet=json) as on_progress:
        found = run_evaluation(config, on_progress=on_progress, on_note=console.print_note)
    _print(found, json=json)
    if found.results.failures:
        raise typer.Exit(1)


def _context(context: str | None, *, has_data: bool) -> tuple[str, Path | None]:
    """Tell a kind of context from a folder of contexts."""
    default = _DEFAULTS.context
    if context is None:
        return default, None
    if has_data and context in CONTEXTS:
        return context, None
    if has_data and not Path(context).is_dir():
        raise UsageError(f"--context cannot be {context!r}", next_step=f"allowed with --data: {', '.join(CONTEXTS)}")
    return default, Path(context)


def _print(found: Evaluation, *, json: bool) -> None:
    results = found.results
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
    console.print_note(f"Report: {found.report}")


def _print_context(results: Results, context: str) -> None:
    cells = {(entry.metric, entry.system): entry for entry in results.summaries if entry.context == context}
    shown = [system for system in results.systems if any(name == system.name for _, name in cells)]
    rows = [
        (
            f"{metric.title}{_arrow(metric)}",
            *(_cell(cells.get((name, system.name))) for system in shown),
        )
        for name, metric in results.metrics.items()
        if any(found == name for found, _ in cells)
    ]
    console.print_table((f"context: {context}", *(system.title for system in shown)), rows)


def _arrow(metric: Metric) -> str:
    return {"higher": " ↑", "lower": " ↓"}.get(metric.better, "")


def _cell(summary: Summary | None) -> str:
    if summary is None or summary.value is None:
        return "–"
    text = f"{summary.value:.3g}"
    return text if summary.low is None else f"{text} ({summary.low:.3g} – {summary.high:.3g})"
