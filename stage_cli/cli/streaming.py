"""`--stream` of `stage generate`: what goes together with it, and with stdout."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from stage_cli.errors import UsageError

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
