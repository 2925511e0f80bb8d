"""`stage train`: train a model as a TOML file says."""

from __future__ import annotations

import os
import shlex
from typing import TYPE_CHECKING, Annotated

import typer

from stage_cli.cli import console
from stage_cli.cli.help import complete_recipe
from stage_cli.cli.options import OfflineOption
from stage_cli.errors import UsageError

if TYPE_CHECKING:
    from stage_cli.core.training.events import Event
    from stage_cli.core.training.run import TrainingResult
    from stage_cli.core.training.settings import TrainingConfig

INTERRUPTED = 130


def train(
    config: Annotated[
        str | None,
        typer.Option(
            "--config",
            metavar="TOML",
            help="A run's TOML file, or a shipped recipe: drums, tiny, …",
            autocompletion=complete_recipe,
        ),
    ] = None,
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change a value of it: train.steps=100. Repeatable."),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the run's last checkpoint.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only print the whole configuration and what the run would be.")
    ] = False,
    offline: OfflineOption = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object per event on stdout.")] = False,
) -> None:
    """Train or fine-tune a model as a TOML file says."""
    # One of several processes (torchrun) speaks; wrong use is the same for all of them.
    speaks = os.environ.get("RANK", "0") == "0"
    again = ["stage", "train", "--config", str(config), *(part for text in changes or [] for part in ("--set", text))]
    try:
        loaded = _load(config, changes or [])
        if not dry_run:
            result = _train(
                loaded,
                shlex.join([*again, "--resume"]),
                resume=resume,
                offline=offline,
                json=json,
                quiet=json or not speaks,
            )
            if speaks and not json:
                _print_result(loaded, result)
        elif speaks:
            _dry_run(loaded, json=json)
    except UsageError as error:
        if speaks:
            raise
        raise typer.Exit(error.exit_code) from None


def _load(config: str | None, changes: list[str]) -> TrainingConfig:
    # Imported here: a help page needs none of it.
    from stage_cli.core.training.toml import load_config, recipes

    if config is None:
        raise UsageError(
            "--config is missing", next_step=f"give a TOML file, or one of the shipped recipes: {', '.join(recipes())}"
        )
    return load_config(config, changes)


def _train(
    config: TrainingConfig, resume_command: str, *, resume: bool, offline: bool, json: bool, quiet: bool
) -> TrainingResult:
    from stage_cli.cli.training_display import TrainingDisplay, event_as_json

    if not quiet:
        console.print_note("Getting ready …")
    from stage_cli.core.training.events import Stepped
    from stage_cli.core.training.run import train as run_training

    with TrainingDisplay(config.name, resume_command, quiet=quiet) as display:

        def on_event(event: Event) -> None:
            display.on_event(event)
            if json and not isinstance(event, Stepped):
                console.print_json(event_as_json(event))

        try:
            return run_training(config, resume=resume, offline=offline, on_event=on_event)
        except KeyboardInterrupt:
            if display.interrupted:  # and told so already
                raise typer.Exit(INTERRUPTED) from None
            raise


def _print_result(config: TrainingConfig, result: TrainingResult) -> None:
    from stage_cli.core.data.config import ANY_STEM

    rows = [("model", str(result.model)), ("steps", f"{result.step:,}")]
    if result.best is not None:
        rows.append(("validation loss", f"{result.best:.4f} (the best, at step {result.best_step:,})"))
    gap = result.metrics.get("validation/context_gap")
    if gap is not None:
        rows.append(("context gap", f"{gap:.4f}"))
    if config.codec is not None:
        command = shlex.join(["stage", "train", "--config", "tiny", "--set", f"model.codec={result.model}"])
        console.print_table(("", ""), [("codec", str(result.model)), *rows[1:], ("use it", command)])
        return
    stem = "drums" if config.data.stem == ANY_STEM else config.data.stem
    command = shlex.join(["stage", "generate", "mix.wav", "--stem", stem, "--model", str(result.model)])
    console.print_table(("", ""), [*rows, ("try it", command)])


def _dry_run(config: TrainingConfig, *, json: bool) -> None:
    from stage_cli.cli.training_display import estimate_as_json, print_estimate
    from stage_cli.core.training.toml import to_dict, to_toml

    with console.spinner("Counting songs and parameters …", quiet=json):
        from stage_cli.core.training.estimate import estimate

        found = estimate(config, processes=int(os.environ.get("WORLD_SIZE", "1")))
    if json:
        console.print_json({"config": to_dict(config), "estimate": estimate_as_json(found)})
    else:
        typer.echo(to_toml(config))
        print_estimate(found)
