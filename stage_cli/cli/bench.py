"""`stage bench`: how fast a model runs on this machine, and in how much memory."""

from __future__ import annotations

import shlex
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stage_cli.cli import console, values
from stage_cli.cli.help import complete_model
from stage_cli.cli.options import DeviceOption, JsonOption, OfflineOption
from stage_cli.core.bench.settings import SIZES, BenchConfig, parse_lengths, split_names

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stage_cli.core.bench.results import BenchResult, Figures

_DEFAULTS = BenchConfig()
_Columns = list[tuple[str, str, float]]
"""Of a table: title, name of the figure, and by what it is multiplied to be shown."""


def bench(
    model: Annotated[
        str | None,
        typer.Option(
            "--model", "-m", help="Directory, Hub id, or a name of the model list.", autocompletion=complete_model
        ),
    ] = None,
    random: Annotated[
        str | None,
        typer.Option("--random", metavar="SIZE", help=f"Random weights instead: {', '.join(SIZES)}."),
    ] = None,
    device: DeviceOption = _DEFAULTS.device,
    precision: Annotated[
        list[str] | None,
        typer.Option("--precision", help="auto, float32, bfloat16, float16 or int8 (CPU); several: float32,int8."),
    ] = None,
    duration: Annotated[
        float,
        typer.Option(
            "--duration", metavar="TIME", parser=values.seconds("--duration"), help="How much audio to write."
        ),
    ] = _DEFAULTS.duration,
    variations: Annotated[
        int, typer.Option("--variations", "-n", help="Also measure as many stems at once.")
    ] = _DEFAULTS.variations,
    lengths: Annotated[
        str | None,
        typer.Option("--lengths", metavar="30,60,…", help="Also measure songs of these lengths, in seconds."),
    ] = None,
    repeats: Annotated[int, typer.Option("--repeats", help="Rounds; each measures everything once.")] = (
        _DEFAULTS.repeats
    ),
    plot: Annotated[Path | None, typer.Option("--plot", help="Draw the cost of --lengths as a PNG file.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the --plot if it exists.")] = False,
    offline: OfflineOption = False,
    json: JsonOption = False,
) -> None:
    """Measure how fast this machine is: loading, each part of a window, whole stems, memory."""
    config = BenchConfig(
        model=model,
        random=random,
        device=device,
        precisions=_DEFAULTS.precisions if precision is None else split_names(precision),
        duration=duration,
        variations=variations,
        lengths=() if lengths is None else parse_lengths(lengths),
        repeats=repeats,
        plot=plot,
        overwrite=overwrite,
        offline=offline,
        command=("stage", *sys.argv[1:]),
    )
    with console.spinner("Getting ready …", quiet=json):
        from stage_cli.core.bench.run import bench as run_bench

    with console.phase_progress("measurements", quiet=json) as on_progress:
        result = run_bench(config, on_progress)
    if json:
        _print_json(result)
    else:
        _print_tables(result)
    if result.environment.busy and result.environment.load is not None:
        console.print_note(
            f"Before the start the load average was {result.environment.load[0]:.2f}: other programs are, or were, "
            "at work. Measure again when nothing else runs."
        )
    if plot is not None:
        console.print_note(f"Plot: {plot}")


def _print_json(result: BenchResult) -> None:
    environment = asdict(result.environment)
    console.print_json({
        "kind": "run",
        **environment,
        "command": shlex.join(environment["command"]),
        "busy": result.environment.busy,
        "model": result.model,
        "parameters": result.parameters,
        "window_seconds": result.window_seconds,
        "guidance": result.guidance,
        "duration": result.duration,
        "variations": result.variations,
        "repeats": result.repeats,
    })  # fmt: skip
    for found in result.precisions:
        console.print_json({"kind": "precision", "precision": found.precision, **_as_json(found.figures)})
    for found in result.lengths:
        values = {"kind": "length", "precision": found.precision, "length": found.length}
        console.print_json({**values, **_as_json(found.figures)})


def _as_json(figures: Figures) -> dict[str, Any]:
    return {name: figure.to_dict() for name, figure in figures.items()}


def _print_tables(result: BenchResult) -> None:
    window = f"{result.window_seconds:g} s"
    parts: _Columns = [
        ("loading, s", "loading_seconds", 1),
        (f"encode {window}, s", "encode_seconds", 1),
        ("prefill, ms", "prefill_seconds", 1e3),
        ("decode step, ms", "step_seconds", 1e3),
        (f"decode {window}, s", "decode_seconds", 1),
    ]
    whole: _Columns = [(f"{result.duration:g} s of audio, s", "total_seconds", 1), ("× real time", "real_time", 1)]
    if len(result.precisions) > 1:
        whole.append((f"× {result.precisions[0].precision}", "speed_ratio", 1))
    whole += _memory("peak")
    if result.variations > 1:
        whole += [
            (f"{result.variations} variations, s", "variations_seconds", 1),
            ("× one", "variations_ratio", 1),
            *_memory("their peak", "variations_"),
        ]
    console.print_table(("", ""), _about(result))
    for columns in (parts, whole):
        _print_figures(columns, ("precision",), [((found.precision,), found.figures) for found in result.precisions])
    if result.lengths:
        shortest = f"× {result.lengths[0].length:g} s"
        columns: _Columns = [
            ("compute, s", "total_seconds", 1),
            ("× real time", "real_time", 1),
            (f"time a second, {shortest}", "time_ratio", 1),
            *_memory("peak"),
            (f"peak, {shortest}", "memory_ratio", 1),
        ]
        rows = [((found.precision, f"{found.length:g}"), found.figures) for found in result.lengths]
        _print_figures(columns, ("precision", "song, s"), rows)


def _memory(title: str, prefix: str = "") -> _Columns:
    return [(f"{title}, GB", f"{prefix}resident_bytes", 1e-9), (f"{title} on GPU, GB", f"{prefix}cuda_bytes", 1e-9)]


def _about(result: BenchResult) -> list[tuple[str, str]]:
    """Say on what it was measured, and how."""
    environment = result.environment
    load = "not known" if environment.load is None else ", ".join(f"{mean:.2f}" for mean in environment.load)
    rows = [
        ("date", environment.date),
        ("processor", f"{environment.processor}, {environment.cores} cores, {environment.threads} threads"),
        ("device", environment.device if environment.gpu is None else f"{environment.device}, {environment.gpu}"),
        ("system", environment.system),
        ("load before (1, 5, 15 min)", load),
        ("versions", ", ".join(f"{name} {number}" for name, number in environment.versions.items())),
        ("command", shlex.join(environment.command)),
        ("model", f"{result.model}, {result.parameters / 1e6:.0f} M parameters, guidance {result.guidance:g}"),
    ]
    if result.repeats > 1:
        rows.append(("figures", f"median (lowest–highest) of {result.repeats} rounds"))
    return rows


def _print_figures(columns: _Columns, heads: tuple[str, ...], rows: Sequence[tuple[tuple[str, ...], Figures]]) -> None:
    """Print a table of those columns that any row has a figure for."""
    known = [column for column in columns if any(column[1] in figures for _, figures in rows)]
    cells = [(*head, *(_cell(figures, name, unit) for _, name, unit in known)) for head, figures in rows]
    titles = (*heads, *(title for title, _, _ in known))
    console.print_table(titles, cells, right=range(len(heads), len(titles)))


def _cell(figures: Figures, name: str, unit: float) -> str:
    if name not in figures:
        return "–"
    figure = figures[name]
    text = _number(unit * figure.median)
    if figure.low == figure.high:
        return text
    # Without a space in the brackets: where a column is narrow, they stand below the median.
    return f"{text} ({_number(unit * figure.low)}–{_number(unit * figure.high)})"


def _number(value: float) -> str:
    """Round to three digits that count."""
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.3g}"
