"""Option types that several commands share."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from stage_cli.cli.values import complete_stem
from stage_cli.core.generation.config import GenerationConfig
from stage_cli.core.stems import STEMS

_DEFAULTS = GenerationConfig()

SAMPLING_PANEL = "Sampling"
MACHINE_PANEL = "Machine"

StemOption = Annotated[
    str,
    typer.Option(
        "--stem",
        "-s",
        metavar="STEM",
        help=f"{', '.join(STEMS)}; or what musicians call it.",
        autocompletion=complete_stem,
    ),
]
DeviceOption = Annotated[
    str,
    typer.Option(
        "--device",
        metavar="auto|cpu|cuda|cuda:N|mps",
        help="Where the model runs.",
        rich_help_panel=MACHINE_PANEL,
    ),
]
PrecisionOption = Annotated[
    str,
    typer.Option(
        "--precision",
        metavar="auto|float32|bfloat16|float16|int8",
        help="Of the model; int8 on a CPU.",
        rich_help_panel=MACHINE_PANEL,
    ),
]
OfflineOption = Annotated[
    bool,
    typer.Option("--offline", help="Use only files that are already on this machine.", rich_help_panel=MACHINE_PANEL),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object per result on stdout.")]


def _sampling_option(name: str, help: str, default: float) -> Any:
    return typer.Option(f"--{name}", help=f"{help} The model's own, or {default:g}.", rich_help_panel=SAMPLING_PANEL)


GuidanceOption = Annotated[
    float | None, _sampling_option("guidance", "How closely to follow; 1 is off.", _DEFAULTS.guidance)
]
TemperatureOption = Annotated[
    float | None, _sampling_option("temperature", "0 takes the likeliest token.", _DEFAULTS.temperature)
]
TopKOption = Annotated[
    int | None, _sampling_option("top-k", "Sample from the likeliest tokens, so many; 0 is all.", _DEFAULTS.top_k)
]
TopPOption = Annotated[
    float | None,
    _sampling_option("top-p", "Sample from the likeliest tokens, of this probability; 1 is all.", _DEFAULTS.top_p),
]
AdvanceOption = Annotated[
    float | None,
    _sampling_option("advance", "Share of a window that is new; the rest is remembered.", _DEFAULTS.advance),
]
LookaheadOption = Annotated[
    float | None,
    _sampling_option(
        "lookahead", "Share of a window, at its end, that is seen and left to the next window.", _DEFAULTS.lookahead
    ),
]


def given_sampling(**options: float | None) -> dict[str, Any]:
    """Return the options that were given: they go before the model's own defaults."""
    return {name: value for name, value in options.items() if value is not None}
