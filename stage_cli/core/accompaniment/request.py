"""What to write for one context, and the files that it becomes. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from stage_cli.core.accompaniment.context import Context
from stage_cli.core.audio.naming import AUDIO_SUFFIXES
from stage_cli.core.audio.writing import OUTPUT_FORMATS
from stage_cli.core.files import display_name
from stage_cli.errors import UsageError


@dataclass(frozen=True)
class Request:
    """What to write for one context.

    Attributes:
        context: what is accompanied.
        stem: which stem to write.
        stem_paths: one output for each variation; none if the stem is only streamed (`live.Stream`).
        mix_paths: as many, or none: context and stem together.
        description: text, or None.
        continuation: an audio file with the beginning of the stem, or None.
        format: "wav" or "flac".
        overwrite: replace files that exist.
        growing: each output can be heard while it is made, in the file that `growing_path` names.
    """

    context: Context
    stem: str
    stem_paths: tuple[Path, ...]
    mix_paths: tuple[Path, ...] = ()
    description: str | None = None
    continuation: Path | None = None
    format: str = "wav"
    overwrite: bool = False
    growing: bool = False

    @property
    def growing_paths(self) -> tuple[Path, ...]:
        """The files that are there only while the outputs are made."""
        return tuple(map(growing_path, (*self.stem_paths, *self.mix_paths))) if self.growing else ()


def growing_path(path: Path) -> Path:
    """Name the file in which an output can be heard while it is made: `mix.drums.wav` → `mix.drums.wav.part`."""
    return path.with_name(f"{path.name}.part")


def choose_format(output: Path | None, format: str | None, *, option: str = "--output") -> str:
    """Choose the format of the outputs: as asked for, or as the output's ending says, or wav.

    Args:
        output: a file, a folder, or None.
        format: as asked for.
        option: that named the output.

    Raises:
        UsageError: an unknown format, or one that contradicts the ending.
    """
    if format is not None and format not in OUTPUT_FORMATS:
        raise UsageError(f"--format {format} is unknown", why=f"allowed: {', '.join(OUTPUT_FORMATS)}")
    ending = "" if output is None or output.is_dir() else output.suffix.lower().removeprefix(".")
    if f".{ending}" not in AUDIO_SUFFIXES:
        return format or OUTPUT_FORMATS[0]
    if ending not in OUTPUT_FORMATS:
        raise UsageError(f"{option} {output}: .{ending} cannot be written", why=f"allowed: {', '.join(OUTPUT_FORMATS)}")
    if format not in (None, ending):
        raise UsageError(f"{option} {output} contradicts --format {format}")
    return ending


def plan_requests(
    contexts: Sequence[Context],
    template: Request,
    *,
    output: Path | None,
    variations: int,
    mix: bool,
    option: str = "--output",
) -> list[Request]:
    """Name the outputs of each context.

    Args:
        contexts: one or several.
        template: stem, description, continuation, format, overwrite and growing of all of them.
        output: None writes next to each context; a folder (one that exists, or has no audio ending) takes all files;
            a file is the one stem's name, or the first variation's.
        variations: stems for each context.
        mix: write context and stem together, too.
        option: that named the output.

    Raises:
        UsageError: one file for several contexts; two outputs of the same name; an output that is a context; an output
            that exists and `overwrite` is off.
    """
    is_file = output is not None and not output.is_dir() and output.suffix.lower() in AUDIO_SUFFIXES
    if is_file and len(contexts) > 1:
        raise UsageError(
            f"{option} {output} is one file, but there are {len(contexts)} contexts", next_step="name a folder"
        )
    requests = []
    for context in contexts:

        def named(variation: int, *, mixed: bool = False, context: Context = context) -> Path:
            if is_file and output is not None:
                number = "" if variation == 1 else f".{variation}"
                return output.with_name(f"{output.stem}{number}{'.mix' if mixed else ''}{output.suffix}")
            path = context.output_path(template.stem, variation, template.format, mixed=mixed)
            return path if output is None else output / path.name

        numbers = range(1, variations + 1)
        requests.append(
            replace(
                template,
                context=context,
                stem_paths=tuple(named(i) for i in numbers),
                mix_paths=tuple(named(i, mixed=True) for i in numbers) if mix else (),
            )
        )
    _check_outputs(requests)
    return requests


def _check_outputs(requests: Sequence[Request]) -> None:
    inputs = {path.resolve() for request in requests for path in _inputs(request)}
    seen: set[Path] = set()
    for request in requests:
        for path in (*request.stem_paths, *request.mix_paths, *request.growing_paths):
            real = path.resolve()
            if real in inputs:
                raise UsageError(
                    f"{display_name(path)} is read and cannot be written", next_step="give another --output"
                )
            if real in seen:
                raise UsageError(
                    f"Two contexts would both be written to {display_name(path)}",
                    next_step="write them to different folders",
                )
            if path.exists() and not request.overwrite:
                raise UsageError(
                    f"{display_name(path)} already exists",
                    next_step="use --overwrite to replace it, or another --output",
                )
            seen.add(real)


def _inputs(request: Request) -> list[Path]:
    path = getattr(request.context, "path", None)
    return [found for found in (path, request.continuation) if found is not None]
