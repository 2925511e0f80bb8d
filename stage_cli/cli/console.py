"""The one sink of output: results to stdout, progress and notes to stderr."""

from __future__ import annotations

import json
import math
import re
import shutil
import sys
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import Any, BinaryIO

from typer.core import TyperCommand

from stage_cli.cli.help import OLD_SPELLINGS, without_old_spellings, write_examples, write_options
from stage_cli.cli.process import checked
from stage_cli.cli.values import at_home
from stage_cli.errors import StageError

_FIELD = re.compile(r"`([a-z][a-z_]*)`")
_PAGE = re.compile(r"\bdocs/([a-z-]+)\.md\b")
_PHASES = {"read": "reading", "generate": "writing"}

# What the commands call the fields that the core names: {"top_k": "--top-k"}; the running command's own come first.
_options: dict[str, str] = {}


class Command(TyperCommand):
    """A command whose options the messages name as they are typed."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        _options.update({**self._spelled(), **_options})

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the arguments; old spellings of options are taken, too."""
        return super().parse_args(ctx, without_old_spellings(self.name or "", args))

    def invoke(self, ctx: Any) -> Any:
        """Run it; `~` in a path is the user's home."""
        _options.update(self._spelled())
        ctx.params = {name: at_home(value) for name, value in ctx.params.items()}
        return super().invoke(ctx)

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the options in panels."""
        write_options(self, ctx, formatter)

    def format_epilog(self, ctx: Any, formatter: Any) -> None:  # noqa: ARG002 - the library's signature
        """Write the examples."""
        write_examples(self.name or "", formatter)

    def _spelled(self) -> dict[str, str]:
        spelled = {}
        for parameter in self.params:
            options = [name for name in parameter.opts if name.startswith("--")]
            for name in (parameter.name or "", *(option[2:].replace("-", "_") for option in options)):
                if options:
                    spelled[name] = options[0]
        for old, new in OLD_SPELLINGS.get(self.name or "", {}).items():
            spelled.setdefault(old.lstrip("-").replace("-", "_"), new)
        return spelled


def as_typed(text: str) -> str:
    """Turn what a message of the core names into what a user types.

    A field in backticks, such as `top_k`, becomes the command's option; a page becomes the command that prints it, for
    an installed package has no folder docs.
    """
    return _PAGE.sub(r"`stage docs \1`", _FIELD.sub(lambda match: _options.get(match[1], match[0]), text))


def print_error(error: StageError, *, subject: str = "") -> None:
    """Say what happened, why, and what to do next, each on its own line."""
    head = f"{subject}: " if subject else ""
    _stderr(f"Error: {head}{as_typed(error.what)}", style="bold red")
    if error.why:
        _stderr(f"  why:  {as_typed(error.why)}")
    if error.next_step:
        _stderr(f"  next: {as_typed(error.next_step)}")


def print_note(text: str) -> None:
    """Say something on stderr that is no result."""
    _stderr(as_typed(text), style="dim" if sys.stderr.isatty() else "")


def print_json(values: Any) -> None:
    """Write one JSON object on one line; numbers that JSON does not know (−inf LUFS) become null."""
    is_utf8 = sys.stdout.encoding.lower() == "utf-8"
    sys.stdout.write(json.dumps(_finite(values), ensure_ascii=not is_utf8) + "\n")
    sys.stdout.flush()


def audio_stdout() -> BinaryIO:
    """Return stdout for audio; nothing else may be written to it then."""
    return sys.stdout.buffer


def print_table(
    columns: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[int] = (), to_stderr: bool = False
) -> None:
    """Write a table on stdout: drawn in a terminal, tab-separated otherwise (without a head, if that is empty).

    `to_stderr` is for results of which stdout holds the audio.
    """
    stream = sys.stderr if to_stderr else sys.stdout
    if not stream.isatty():
        for row in (columns, *rows) if any(columns) else rows:
            stream.write("\t".join(cell if cell.isprintable() else repr(cell) for cell in row) + "\n")
        stream.flush()
        return
    if not fits(columns, rows):
        for row in rows:
            for column, cell in zip(columns, row, strict=True):
                stream.write(f"{column}: {cell}\n" if column else f"{cell}\n")
            stream.write("\n" if any(columns) else "")
        stream.flush()
        return
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for index, column in enumerate(columns):
        table.add_column(column, justify="right" if index in right else "left", no_wrap=True)
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    Console(stderr=to_stderr, width=max(width_of(columns, rows), terminal_width())).print(table)


def terminal_width() -> int:
    """Return how many columns the terminal has; 80 if it doesn't say."""
    return shutil.get_terminal_size((80, 24)).columns


def width_of(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> int:
    """Return how many columns of a terminal a table takes when no cell is folded."""
    from rich.cells import cell_len

    return sum(max(map(cell_len, cells)) for cells in zip(columns, *rows, strict=True)) + 3 * len(columns)


def fits(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> bool:
    """Return whether a table can be drawn in this terminal without folding a cell."""
    return width_of(columns, rows) <= terminal_width()


@contextmanager
def spinner(text: str, *, quiet: bool) -> Generator[None]:
    """Show that something takes a while; a plain line when stderr is no terminal."""
    if quiet:
        yield
    elif sys.stderr.isatty():
        from rich.console import Console
        from rich.text import Text

        with Console(stderr=True).status(Text(text)):
            yield
    else:
        _stderr(text)
        yield


@contextmanager
def audio_progress(name: str, *, quiet: bool) -> Generator[Callable[[str, float, float], None]]:
    """Yield a callback (phase, seconds of audio done, seconds in all) that draws a bar, or prints plain lines."""
    if quiet:
        yield checked(lambda *_: None)
    elif sys.stderr.isatty():
        with _bar(name) as update:
            yield checked(update)
    else:
        yield checked(_plain_lines(name))


@contextmanager
def count_progress(what: str, total: int, unit: str, *, quiet: bool) -> Generator[Callable[[], None]]:
    """Yield a callback for each of `total` things that is done; it draws a bar with things per second, or lines."""
    if quiet:
        yield checked(lambda: None)
    elif sys.stderr.isatty():
        with _count_bar(what, total, unit) as advance:
            yield checked(advance)
    else:
        yield checked(_count_lines(what, total, unit))


@contextmanager
def phase_progress(unit: str, *, quiet: bool) -> Generator[Callable[[str, int, int], None]]:
    """Yield a callback (phase, things done, things in all) that draws a bar for each phase, or prints plain lines."""
    if quiet:
        yield checked(lambda *_: None)
    elif sys.stderr.isatty():
        with _phase_bars() as update:
            yield checked(update)
    else:
        yield checked(_phase_lines(unit))


@contextmanager
def _bar(name: str) -> Generator[Callable[[str, float, float], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    progress = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:.1f} / {task.total:.1f} s"),
        TextColumn("{task.fields[speed]}"),
        TimeRemainingColumn(compact=True),
        console=Console(stderr=True),
        transient=True,
    )
    with progress:
        tasks: dict[str, Any] = {}
        began: dict[str, float] = {}
        before: dict[str, float] = {}

        def update(phase: str, done: float, total: float) -> None:
            if phase not in tasks:
                from rich.markup import escape

                label = f"{_PHASES.get(phase, phase)} {escape(name)}"
                tasks[phase], began[phase] = progress.add_task(label, total=total, speed=""), time.perf_counter()
            elif done < before[phase]:  # a second pass
                progress.reset(tasks[phase])
                began[phase] = time.perf_counter()
            before[phase] = done
            speed = done / max(time.perf_counter() - began[phase], 1e-9)
            progress.update(tasks[phase], completed=done, total=total, speed=f"{speed:.2f} × real time" if done else "")

        yield update


@contextmanager
def _count_bar(what: str, total: int, unit: str) -> Generator[Callable[[], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    progress = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:.0f} / {task.total:.0f}"),
        TextColumn("{task.fields[speed]}"),
        TimeRemainingColumn(compact=True),
        console=Console(stderr=True),
        transient=True,
    )
    began = time.perf_counter()
    with progress:
        task = progress.add_task(what, total=total, speed="")

        def advance() -> None:
            progress.advance(task)
            speed = progress.tasks[0].completed / (time.perf_counter() - began)
            progress.update(task, speed=f"{speed:.2f} {unit}/s")

        yield advance


@contextmanager
def _phase_bars() -> Generator[Callable[[str, int, int], None]]:
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed} / {task.total}"))
    left = TimeRemainingColumn(compact=True)
    with Progress(*columns, left, console=Console(stderr=True), transient=True) as progress:
        tasks: dict[str, Any] = {}

        def update(phase: str, done: int, total: int) -> None:
            if phase not in tasks:
                tasks[phase] = progress.add_task(escape(phase), total=total)
            progress.update(tasks[phase], completed=done, total=total)

        yield update


def _phase_lines(unit: str) -> Callable[[str, int, int], None]:
    began: dict[str, float] = {}
    printed = time.perf_counter()

    def update(phase: str, done: int, total: int) -> None:
        nonlocal printed
        now = time.perf_counter()
        began.setdefault(phase, now)
        if now - printed > 10 and 0 < done < total:
            left = (now - began[phase]) / done * (total - done)
            _stderr(f"{phase}: {done} of {total} {unit}, {left:.0f} s left")
            printed = now

    return update


def _count_lines(what: str, total: int, unit: str) -> Callable[[], None]:
    began = printed = time.perf_counter()
    done = 0

    def advance() -> None:
        nonlocal done, printed
        done += 1
        now = time.perf_counter()
        if now - printed > 10 and done < total:
            speed = done / (now - began)
            _stderr(f"{what}: {done} of {total} {unit}, {speed:.2f} {unit}/s, {(total - done) / speed:.0f} s left")
            printed = now

    return advance


def _plain_lines(name: str) -> Callable[[str, float, float], None]:
    began, printed = time.perf_counter(), time.perf_counter()

    def update(phase: str, done: float, total: float) -> None:
        nonlocal began, printed
        now = time.perf_counter()
        if phase == "generate" and done == 0:
            began = now
        # A log wants a line now and then, not each step.
        if phase == "generate" and now - printed > 10:
            if done:
                speed = done / (now - began)
                left = f"{(total - done) / speed:.0f} s left"
                _stderr(f"{name}: {done:.1f} of {total:.1f} s, {speed:.2f} × real time, {left}")
            printed = now

    return update


def _stderr(text: str, *, style: str = "") -> None:
    if style and sys.stderr.isatty():
        from rich.console import Console
        from rich.text import Text

        Console(stderr=True, soft_wrap=True).print(Text(text, style=style))
        return
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def _finite(values: Any) -> Any:
    if isinstance(values, dict):
        return {key: _finite(value) for key, value in values.items()}
    if isinstance(values, list | tuple):
        return [_finite(value) for value in values]
    return None if isinstance(values, float) and not math.isfinite(values) else values
