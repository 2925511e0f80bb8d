"""The Typer app, and the one place that turns errors into text and an exit code."""

from __future__ import annotations

import errno
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from stage_cli import __version__
from stage_cli.cli import bench, demo_data, docs, evaluate, generate, models, prepare_data, process, train
from stage_cli.cli.console import Command, print_error, print_note
from stage_cli.errors import StageError

INTERRUPTED = 130


class ErrorGroup(TyperGroup):
    """A group of commands whose errors are told to the user, not traced."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """List the commands with their whole first sentences."""
        commands = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        with formatter.section("Commands"):
            formatter.write_dl(
                [
                    (name, command.get_short_help_str(limit=1000))
                    for name, command in commands
                    if command is not None and not command.hidden
                ]
            )

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


def _examples(*lines: str) -> str:
    return "\n".join(lines)


app.command(
    "generate",
    cls=Command,
    epilog=_examples(
        "stage generate --context mix.wav --stem drums",
        "stage generate --context songs/ --stem bass --variations 3 --mix",
        "stage generate --bpm 120 --duration 20 --stem drums --stream - | aplay",
    ),
)(generate.generate)
app.command(
    "demo-data",
    cls=Command,
    epilog=_examples(
        "stage demo-data songs --songs 20 --duration 30 --seed 1",
        "stage demo-data songs --sounds synth --jobs 4",
        "stage demo-data songs --drummers groove --arrangements midi",
    ),
)(demo_data.demo_data)
_PREPARE_EXAMPLES = _examples(
    "stage prepare-data moisesdb/",
    "stage prepare-data musdb18hq/ --output prepared --jobs 4",
    "stage prepare-data prepared --shards shards",
)
app.command("prepare-data", cls=Command, epilog=_PREPARE_EXAMPLES)(prepare_data.prepare_data)
app.command("prepare", cls=Command, epilog=_PREPARE_EXAMPLES, short_help="The same as prepare-data.")(
    prepare_data.prepare_data
)
app.command(
    "train",
    cls=Command,
    epilog=_examples(
        "stage train --config tiny --set data.root=prepared",
        "stage train --config drums.toml --resume",
        "stage train --config drums.toml --dry-run",
    ),
)(train.train)
app.command(
    "evaluate",
    cls=Command,
    epilog=_examples(
        "stage evaluate --model stage-drums --data prepared --stem drums --output report",
        "stage evaluate --model bundled-drums --metronome-set --output report",
        "stage evaluate --generated stems --context songs --reference true --output report",
    ),
)(evaluate.evaluate)
app.command(
    "bench",
    cls=Command,
    epilog=_examples(
        "stage bench",
        "stage bench --model stage-drums --precision int8,bfloat16",
        "stage bench --random musicgen-small --lengths 30,60,120 --plot lengths.png",
    ),
)(bench.bench)
app.add_typer(models.app, name="models")
app.command("docs", cls=Command, epilog=_examples("stage docs", "stage docs generate", "stage docs train | less"))(
    docs.docs
)


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
