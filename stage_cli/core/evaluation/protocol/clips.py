"""The clips that systems write for: what is true of them, and where they come from."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from stage_cli.core.data.features.annotations import Key


@dataclass(frozen=True)
class ClipPlan:
    """A clip before anything of it is read.

    Attributes:
        id: "0001", …; unique in the report.
        song: that it comes from; clips of one song are not independent.
        title: of the song.
        context_kind: "mix" or "metronome".
        recipe: what it is made from, as one text; another recipe, another clip.
        seed: of what is drawn for it, the same for all systems.
    """

    id: str
    song: str
    title: str
    context_kind: str
    recipe: str
    seed: int = 0


def numbered(plans: Sequence[ClipPlan], seed: int) -> list[ClipPlan]:
    """Return plans with ids from "0001" on, and with seeds, which depend on `seed` and the number alone."""
    return [
        dataclasses.replace(
            plan, id=f"{number:04d}", seed=int(np.random.SeedSequence((seed, number)).generate_state(1)[0])
        )
        for number, plan in enumerate(plans, 1)
    ]


@dataclass(frozen=True, eq=False)
class Clip:
    """A clip to write a stem for.

    Attributes:
        plan: of the clip.
        digest: of all that decides on it.
        start: seconds in the song.
        context_stems: that are heard in the context.
        beats: `[beats]` seconds from the start, rising, before its end.
        downbeats: likewise; a subset of the beats.
        bpm: beats a minute; None takes it from the beats.
        key: of the song, or None.
        description: genres and moods, or "".
        context: `[samples]` float32, within ±1.
        target: the true stem, `[samples]`, as long as the context; None where there is none.
        sample_rate: Hz of both.
        target_error: why there is no true stem, where there should be one.
    """

    plan: ClipPlan
    digest: str
    start: float
    context_stems: tuple[str, ...]
    beats: np.ndarray
    downbeats: np.ndarray
    bpm: float | None
    key: Key | None
    description: str
    context: np.ndarray
    target: np.ndarray | None
    sample_rate: int
    target_error: str = ""

    @property
    def seconds(self) -> float:
        """Length."""
        return len(self.context) / self.sample_rate

    def without_audio(self) -> Clip:
        """Return the same clip with nothing but zeros in it, which take no memory: all else is small."""
        zeros = np.broadcast_to(np.zeros(1, dtype=np.float32), self.context.shape)
        return dataclasses.replace(self, context=zeros, target=None if self.target is None else zeros)


class ClipSource(ABC):
    """Where clips come from.

    Attributes:
        plans: of all clips, in order.
        has_targets: whether there are true stems.
        notes: what the user should know.
    """

    plans: Sequence[ClipPlan]
    has_targets: bool
    notes: tuple[str, ...] = ()

    @abstractmethod
    def clip(self, index: int, digest: str) -> Clip:
        """Make a clip.

        Args:
            index: in `plans`.
            digest: to be noted in the clip.

        Raises:
            StageError: it cannot be made, and why.
        """
