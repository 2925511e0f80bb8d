"""TensorBoard: the numbers of a run, and its demos to be heard and seen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from stage_cli.core.training.engine.events import Event, Logged, Started, Validated
from stage_cli.core.training.record.demo_files import UNCHANGING_PARTS, DemoFile, demo_files

TENSORBOARD_FOLDER = "tensorboard"


class TensorBoard:
    """Write TensorBoard's event files.

    What a run that was stopped wrote after its last checkpoint is marked as void when it is resumed, so that no curve
    runs twice over the same steps.

    Args:
        folder: of the event files.
        recipe: the run's TOML, shown as text.
    """

    def __init__(self, folder: Path, recipe: str = "") -> None:
        self.folder = folder
        self.recipe = recipe
        self._writer: Any = None
        self._shown: set[str] = set()

    def on_event(self, event: Event) -> None:
        """Take an event.

        Raises:
            OSError: the files cannot be written.
        """
        if isinstance(event, Started):
            self._open(event.resumed_from)
        elif isinstance(event, Logged | Validated) and self._writer is not None:
            for name, value in event.metrics.items():
                self._writer.add_scalar(name, value, event.step)
            if isinstance(event, Validated):
                for file in demo_files(event.demos):
                    self._show(file, event.step)
                self._writer.flush()

    def close(self) -> None:
        """Write what is left, and close the files."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _open(self, resumed_from: int | None) -> None:
        from torch.utils.tensorboard import SummaryWriter

        first = 0 if resumed_from is None else resumed_from + 1
        self._writer = SummaryWriter(str(self.folder), purge_step=first)
        if self.recipe:
            self._writer.add_text("recipe", "\n".join(f"    {line}" for line in self.recipe.splitlines()), first)

    def _show(self, file: DemoFile, step: int) -> None:
        if file.part in UNCHANGING_PARTS:
            if file.name in self._shown:
                return
            self._shown.add(file.name)
        if file.part == "picture":
            from matplotlib.image import imread

            self._writer.add_image(file.name, imread(file.path)[..., :3], step, dataformats="HWC")
        else:
            import soundfile

            audio, sample_rate = soundfile.read(file.path, dtype="float32")
            self._writer.add_audio(file.name, audio, step, sample_rate=sample_rate)
