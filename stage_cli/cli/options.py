"""Option types that several commands share."""

from __future__ import annotations

from typing import Annotated

import typer

DeviceOption = Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:N or mps.")]
PrecisionOption = Annotated[
    str,
    typer.Option("--precision", help="auto, float32, bfloat16, float16 or int8 (CPU)."),
]
OfflineOption = Annotated[bool, typer.Option("--offline", help="Use only files that are already on this machine.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object per result on stdout.")]
