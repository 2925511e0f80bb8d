"""The Typer app, and the one place that turns errors into text and an exit code."""

from __future__ import annotations

import errno
from typing import Annotated, Any

import typer

from stage_cli import __version__
from stage_cli.cli import bench, demo_data, docs, evaluate, generate, models, prepare_data, process, train
from stage_cli.cli.console import Command, print_error, print_note
from stage_cli.cli.help import Group
from stage_cli.errors import StageError

INTERRUPTED = 130


class ErrorGroup(Group):
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
app.command("prepare", cls=Command, short_help="The same as prepare-data.")(prepare_data.prepare_data)
app.command("train", cls=Command)(train.train)
app.command("evaluate", cls=Command)(evaluate.evaluate)
app.command("bench", cls=Command)(bench.bench)
app.add_typer(models.app, name="models")
app.command("docs", cls=Command)(docs.docs)


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
    process.begin()
    try:
        app()
    except SystemExit as end:
        process.leave_quickly(end.code)
        raise
