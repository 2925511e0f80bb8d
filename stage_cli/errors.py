"""The errors that users meet: what happened, why, and what to do next.

The core raises them and never prints; `cli/app.py` is the one place that turns them into text and an exit code.
"""

from __future__ import annotations


class StageError(Exception):
    """A failure that the user can understand and act on. Exit code 1.

    Args:
        what: what happened, one sentence without a full stop.
        why: the cause, if it is known.
        next_step: what the user can do about it.
    """

    exit_code = 1

    def __init__(self, what: str, *, why: str = "", next_step: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.why = why
        self.next_step = next_step

    def __str__(self) -> str:
        return " · ".join(part for part in (self.what, self.why, self.next_step) if part)


class UsageError(StageError):
    """Wrong use: an option, a value or a combination that cannot work. Exit code 2."""

    exit_code = 2


class AudioError(StageError):
    """An audio file that cannot be read or written."""


class MidiError(StageError):
    """A MIDI file that cannot be read or written."""


class WeightsError(StageError):
    """A checkpoint or model directory that cannot be used."""


class HubError(StageError):
    """A model that cannot be fetched from, or sent to, the Hugging Face Hub."""


class DeviceError(StageError):
    """A device that is absent, or has too little memory."""


class Cancelled(Exception):  # noqa: N818 - not an error: the user asked for it
    """Raised by a progress callback's owner to stop between two steps."""
