"""The Typer app, and the one place that turns errors into text and an exit code."""

from __future__ import annotations

import atexit
import errno
import io
import os
import sys
import threading
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from stage_cli import __version__
from stage_cli.cli import bench, demo_data, evaluate, generate, models, prepare_data, signals, train
from stage_cli.cli.console import Command, print_error, print_note
from stage_cli.errors import StageError

INTERRUPTED = 130


class ErrorGroup(TyperGroup):
    """A group of commands whose errors are told to the user, not traced."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command; 0 is success, 1 a failure, 2 wrong use, 130 Ctrl-C."""
        try:
            return super().invoke(ctx)
        except StageError as error:
            print_error(error)
            raise typer.Exit(error.exit_code) from None
        except KeyboardInterrupt:
            print_note("Stopped. Nothing half-written is left.")
            raise typer.Exit(INTERRUPTED) from None
        except OSError as error:
            if error.errno == errno.EPIPE:  # whoever read stdout has gone: Typer leaves quietly
                raise
            print_error(_told_by_the_system(error))
            raise typer.Exit(StageError.exit_code) from None


def _told_by_the_system(error: OSError) -> StageError:
    """Make the error for a file that failed where no more is known than what the system says."""
    what = f"cannot use {error.filename}" if error.filename else "the system reports an error"
    return StageError(what, why=error.strerror or str(error), next_step="check the name and the disk")


app = typer.Typer(
    name="stage",
    cls=ErrorGroup,
    help="Write a fitting stem (drums, bass, …) for music that already exists.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    # Importing rich for a help page takes longer than all the rest of it.
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("generate", cls=Command)(generate.generate)
app.command("demo-data", cls=Command)(demo_data.demo_data)
app.command("prepare-data", cls=Command)(prepare_data.prepare_data)
app.command("prepare", cls=Command, hidden=True)(prepare_data.prepare_data)
app.command("train", cls=Command)(train.train)
app.command("evaluate", cls=Command)(evaluate.evaluate)
app.command("bench", cls=Command)(bench.bench)
app.add_typer(models.app, name="models")


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"stage {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run the command line, and end the process."""
    # Before torch is imported. Threads that spin for long while they wait for each other take the processor from what
    # they wait for as soon as anything else runs beside them; those that never spin are slower on an idle machine.
    os.environ.setdefault("GOMP_SPINCOUNT", "20000")
    signals.listen()
    # A name may hold what the terminal's encoding does not: better an escape than no answer.
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        app()
    except SystemExit as end:
        _leave_quickly(end.code)
        raise


def _leave_quickly(code: Any) -> None:
    """End the process, if that is safe, without taking torch down module by module: that takes half a second."""
    if "torch" not in sys.modules or not isinstance(code, int | None) or threading.active_count() > 1:
        return
    # What was registered to be done at the end is done; only then nothing is left but memory.
    atexit._run_exitfuncs()
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except (AttributeError, OSError, ValueError):
        return  # closed, or nobody reads it: Python says what there is to say
    os._exit(code or 0)
