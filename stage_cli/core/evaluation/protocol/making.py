"""Make what is missing: clips, then the outputs of each system; each is kept as soon as it is whole.

Whatever goes wrong with one clip or output is noted and ends nothing. What ends a run: a disk that cannot be written, a
device without memory, a model that cannot be loaded.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from stage_cli.core.evaluation.protocol.clips import Clip, ClipPlan, ClipSource
from stage_cli.core.evaluation.protocol.folder import digest_of
from stage_cli.core.evaluation.protocol.listening import Listener, mixed
from stage_cli.core.evaluation.protocol.records import Listened, Made, Records
from stage_cli.core.evaluation.protocol.settings import EvaluationConfig
from stage_cli.core.evaluation.protocol.systems import System
from stage_cli.core.evaluation.report.results import Failure
from stage_cli.errors import DeviceError, StageError

GENERATION_VERSION = 1
"""Of how clips and outputs are made: another one, and they are made again."""

Progress = Callable[[str, int, int], None]
"""Called with what is being done, and how many of how many are."""


@dataclass(frozen=True, eq=False)
class Evidence:
    """What was made and heard.

    Attributes:
        clips: by id, without their audio.
        made: by system name and clip id.
        listened: likewise.
        failures: what could not be made.
    """

    clips: dict[str, Clip] = field(default_factory=dict)
    made: dict[str, dict[str, Made]] = field(default_factory=dict)
    listened: dict[str, dict[str, Listened]] = field(default_factory=dict)
    failures: list[Failure] = field(default_factory=list)


class Maker:
    """Makes clips and outputs, or finds them where they are kept.

    Args:
        config: of the evaluation.
        source: of the clips.
        records: where everything is kept.
        listener: hears outputs.
        on_progress: told of every clip.
    """

    def __init__(
        self,
        config: EvaluationConfig,
        source: ClipSource,
        records: Records,
        listener: Listener,
        on_progress: Progress,
    ) -> None:
        self._config = config
        self._source = source
        self._records = records
        self._listener = listener
        self._on_progress = on_progress
        self._opened: list[System] = []
        self.evidence = Evidence()

    def make_clips(self) -> None:
        """Make all clips.

        Raises:
            StageError: one cannot be written.
        """
        total = len(self._source.plans)
        for index, plan in enumerate(self._source.plans):
            self._on_progress("clips", index, total)
            clip = self.clip(plan)
            if clip is None:
                try:
                    clip = self._source.clip(index, self._clip_digest(plan))
                    if not np.isfinite(clip.context).all():
                        raise StageError("the context holds samples that are no numbers")
                except (StageError, ValueError) as error:
                    self._fail(plan, "", error)
                    continue
                self._records.keep_clip(clip)
            self.evidence.clips[plan.id] = clip.without_audio()
        self._on_progress("clips", total, total)

    def clip(self, plan: ClipPlan) -> Clip | None:
        """Read a clip that was made; None if there is none."""
        return self._records.clip(plan, self._clip_digest(plan))

    def make_outputs(self, systems: Sequence[System], phase: str) -> None:
        """Make and hear the outputs of systems for all clips that there are.

        Args:
            systems: one after the other.
            phase: what progress calls them.

        Raises:
            StageError: a system cannot be used at all, or an output cannot be written.
        """
        plans = [plan for plan in self._source.plans if plan.id in self.evidence.clips]
        total, done = len(plans) * len(systems), 0
        for system in systems:
            self.evidence.made[system.name], self.evidence.listened[system.name] = {}, {}
            with contextlib.ExitStack() as stack:
                for plan in plans:
                    self._on_progress(phase, done, total)
                    if system.only is None or plan.id in system.only:
                        self._output(system, plan, stack)
                    done += 1
        self._on_progress(phase, total, total)

    def _output(self, system: System, plan: ClipPlan, stack: contextlib.ExitStack) -> None:
        """Make and hear one output, unless that is kept."""
        records, known = self._records, self.evidence.clips[plan.id]
        seed = plan.seed if system.draws else None
        digest = digest_of(GENERATION_VERSION, known.digest, system.name, system.content, system.contents.get(plan.id), seed)
        made = records.made(plan.id, system.part, digest)
        if made is not None and self._is_whole(system, plan):
            listened = records.listened(plan.id, system.part, self._listener.digest(system, known, made))
            if listened is not None:
                self._keep(system, plan, made, listened)
                return
        clip = self.clip(plan)
        if clip is None:
            self._fail(plan, system.name, StageError("the clip's files have disappeared"))
            return
        found = records.audio(plan.id, system.part, made) if made is not None and system.writes else None
        if made is None or found is None:
            if system not in self._opened:  # nothing before this one was missing
                stack.enter_context(system.opened())
                self._opened.append(system)
            try:
                take = system.take(clip)
                if not np.isfinite(take.audio).all():
                    raise StageError("it holds samples that are no numbers")
            except DeviceError:
                raise
            except (StageError, ValueError) as error:
                self._fail(plan, system.name, error)
                return
            made = Made(digest, seed, 1.0, take.compute_seconds, take.peak_memory)
            found = take.audio, take.sample_rate
            if system.writes:
                made = records.keep_made(plan.id, system.part, take.audio, take.sample_rate, made)
                # What is heard is what can be read back: a second run hears the same.
                found = records.audio(plan.id, system.part, made) or found
        audio, rate = found
        if system.writes:
            records.keep_mix(plan.id, system.part, mixed(clip, audio, rate), clip.sample_rate)
        self._listen(system, clip, made, audio, rate)

    def _listen(self, system: System, clip: Clip, made: Made, audio: np.ndarray, rate: int) -> None:
        digest = self._listener.digest(system, clip, made)
        try:
            listened = self._listener.listen(system, clip, audio, rate, digest)
        except (StageError, ValueError) as error:
            self._fail(clip.plan, system.name, error)
            return
        self._records.keep_listened(clip.plan.id, system.part, made, listened)
        kept = self._records.listened(clip.plan.id, system.part, digest)
        self._keep(system, clip.plan, made, listened if kept is None else kept)

    def _is_whole(self, system: System, plan: ClipPlan) -> bool:
        parts = (system.part, f"{system.part}.mix") if system.writes else ()
        return all(self._records.has_audio(plan.id, part) for part in parts)

    def _keep(self, system: System, plan: ClipPlan, made: Made, listened: Listened) -> None:
        self.evidence.made[system.name][plan.id] = made
        self.evidence.listened[system.name][plan.id] = listened

    def _fail(self, plan: ClipPlan, system: str, error: Exception) -> None:
        self.evidence.failures.append(Failure(plan.id, system, str(error)))

    def _clip_digest(self, plan: ClipPlan) -> str:
        kept = {
            name: self._config.decisive.get(name) for name in ("source", "stem", "seconds", "seed", "data", "split")
        }
        return digest_of(GENERATION_VERSION, kept, plan.recipe, plan.song, plan.context_kind)
