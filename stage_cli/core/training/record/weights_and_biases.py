"""Weights & Biases, where the user asks for it."""

from __future__ import annotations

import inspect
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from stage_cli.core.training.engine.events import Event, Logged, Started, Validated
from stage_cli.core.training.record.demo_files import UNCHANGING_PARTS, demo_files
from stage_cli.core.training.record.whole_files import write_text
from stage_cli.errors import StageError, UsageError

WANDB_ID_FILE = "wandb_id"

_INSTALL = "pip install 'stage-cli[wandb]'"


class WeightsAndBiases:
    """Send numbers and demos to Weights & Biases; with WANDB_MODE=offline they are kept in RUN/wandb.

    A resumed run goes on under the id that RUN/wandb_id holds. The steps are a number of their own, "step", for a run
    that was resumed goes back to that of its checkpoint, and W&B's own steps cannot.

    Args:
        run: the run's directory.
        project: the project's name.
        name: the run's.
        config: all settings of the run.

    Raises:
        UsageError: the package is not installed.
    """

    def __init__(self, run: Path, project: str, name: str, config: Mapping[str, Any]) -> None:
        try:
            import wandb
        except ImportError as error:
            raise UsageError(
                "log.wandb = true needs the package wandb", why=str(error), next_step=f"{_INSTALL}, or set it to false"
            ) from None
        self.directory = run
        self.project = project
        self.name = name
        self.config = dict(config)
        self._wandb: Any = wandb
        self._run: Any = None
        self._shown: set[str] = set()

    def on_event(self, event: Event) -> None:
        """Take an event.

        Raises:
            StageError: W&B refuses.
        """
        with self._as_ours():
            if isinstance(event, Started):
                self._open(event)
            elif isinstance(event, Logged | Validated) and self._run is not None:
                self._run.log({"step": event.step, **event.metrics, **self._demos(event)})

    def close(self) -> None:
        """Wait until everything is sent, or written.

        Raises:
            StageError: W&B fails.
        """
        if self._run is not None:
            with self._as_ours():
                self._run.finish()
            self._run = None

    @contextmanager
    def _as_ours(self) -> Generator[None]:
        """Turn W&B's errors into ours."""
        try:
            yield
        # ValueError: a WANDB_… variable that is not allowed.
        except (self._wandb.Error, ValueError) as error:
            raise _unusable(str(error).strip() or type(error).__name__) from None

    def _open(self, event: Started) -> None:
        """Begin a run, or go on with one."""
        id_file = self.directory / WANDB_ID_FILE
        known = id_file.read_text(encoding="utf-8").strip() if id_file.exists() else ""
        self.directory.mkdir(parents=True, exist_ok=True)
        # It neither speaks nor listens: the terminal is the command line's.
        settings = self._wandb.Settings(silent=True, console="off")
        self._check_login(settings)
        self._run = self._wandb.init(
            project=self.project,
            name=self.name,
            id=(known or None) if event.resumed_from is not None else None,
            resume="allow",
            dir=str(self.directory),
            config={**self.config, "summary": dict(event.summary)},
            settings=settings,
        )
        write_text(id_file, f"{self._run.id}\n")
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")

    def _check_login(self, settings: Any) -> None:
        """Refuse to go online without a login, for which W&B would ask in the terminal."""
        online = self._wandb.setup(settings).settings.mode not in ("offline", "disabled", "dryrun")
        can_tell = "prompt" in inspect.signature(self._wandb.login).parameters
        if online and can_tell and not self._wandb.login(prompt=False):
            raise _unusable("you are not logged in")

    def _demos(self, event: Logged | Validated) -> dict[str, Any]:
        """Demos as W&B shows them; what never changes is sent once."""
        if not isinstance(event, Validated):
            return {}
        shown = {}
        for file in demo_files(event.demos):
            if file.part in UNCHANGING_PARTS and file.name in self._shown:
                continue
            self._shown.add(file.name)
            kind = self._wandb.Image if file.part == "picture" else self._wandb.Audio
            shown[file.name] = kind(str(file.path))
        return shown


def _unusable(why: str) -> StageError:
    return StageError(
        "Weights & Biases cannot be used",
        why=why,
        next_step="log in with `wandb login`, set WANDB_MODE=offline, or set log.wandb to false",
    )
