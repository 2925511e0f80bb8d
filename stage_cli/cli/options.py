"""Option types that several commands share."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from stage_cli.cli.help import choice
from stage_cli.core.generation.config import GenerationConfig

_DRAW = GenerationConfig()

DeviceOption = Annotated[
    str,
    typer.Option(
        "--device", help="auto, cpu, cuda, cuda:N or mps.", autocompletion=choice(("auto", "cpu", "cuda", "mps"))
    ),
]
PrecisionOption = Annotated[
    str,
    typer.Option("--precision", help="auto, float32, bfloat16, float16 or int8 (CPU)."),
]
OfflineOption = Annotated[bool, typer.Option("--offline", help="Use only files that are already on this machine.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object per result on stdout.")]
GuidanceOption = Annotated[
    float | None,
    typer.Option("--guidance", help=f"How closely to follow; 1 is off. The model's own, or {_DRAW.guidance:g}."),
]
TemperatureOption = Annotated[
    float | None,
    typer.Option("--temperature", help=f"0 takes the likeliest token. The model's own, or {_DRAW.temperature:g}."),
]
TopKOption = Annotated[
    int | None,
    typer.Option("--top-k", help=f"Tokens to draw from; 0 is all. The model's own, or {_DRAW.top_k}."),
]
TopPOption = Annotated[
    float | None,
    typer.Option("--top-p", help=f"Probability to draw from; 1 is all. The model's own, or {_DRAW.top_p:g}."),
]

AdvanceOption = Annotated[
    float | None,
    typer.Option(
        "--advance",
        help=f"Share of a window that is new; the rest is remembered. The model's own, or {_DRAW.advance:g}.",
    ),
]
LookaheadOption = Annotated[
    float | None,
    typer.Option(
        "--lookahead",
        help=f"Share of a window that is heard and played in the next. The model's own, or {_DRAW.lookahead:g}.",
    ),
]


def given_sampling(**options: float | None) -> dict[str, Any]:
    """Return the options that were given: they go before the model's own defaults."""
    return {name: value for name, value in options.items() if value is not None}
