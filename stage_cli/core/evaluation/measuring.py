"""What every number means: titles, units, directions, and one sentence each.

Listen to an output once: beats, onsets and levels, vectors of embeddings, of mixes, of COCOLA.

Make what is missing: clips, then the outputs of each system; each is kept as soon as it is whole.

Whatever goes wrong with one clip or output is noted and ends nothing. What ends a run: a disk that cannot be written, a
device without memory, a model that cannot be loaded.

Metrics of items: what was heard in an output against what is true of its clip, and of another song's.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch

from stage_cli.core.audio.chunks import resample
from stage_cli.core.evaluation.clips import Clip, ClipPlan, ClipSource, content_of
from stage_cli.core.evaluation.cocola import MODES, Cocola, CocolaVectors
from stage_cli.core.evaluation.embeddings import Embedding, load_embedding
from stage_cli.core.evaluation.intervals import Interval, mean_interval, paired_difference
from stage_cli.core.evaluation.models import codec_device
from stage_cli.core.evaluation.music import PERCUSSIVE_STEMS, Analysis, ItemTruth, analyse, compare
from stage_cli.core.evaluation.pretrained import ClapEmbedding, cosine
from stage_cli.core.evaluation.records import AnalysisRecord, Records, TakeRecord, digest_of
from stage_cli.core.evaluation.report.results import DIFFERENCE, Failure, Metric
from stage_cli.core.evaluation.settings import EvaluationConfig
from stage_cli.core.evaluation.systems import CLICK, CONTEXT, System
from stage_cli.core.music import key_finder, rhythm
from stage_cli.errors import DeviceError, StageError

_UNIT = (0.0, 1.0)

RHYTHM: tuple[str, ...] = (
    "beat_f1", "beat_cmlt", "beat_amlt", "onset_f", "onset_precision", "onset_recall", "tempo_error", "tempo_right",
)  # fmt: skip
HARMONY: tuple[str, ...] = ("chroma_similarity", "key_agreement")
COCOLA: tuple[str, ...] = ("cocola", "cocola_harmonic", "cocola_percussive")

FOLLOWING: tuple[str, ...] = (*RHYTHM, *HARMONY, *COCOLA, "clap_score")
"""What tells whether a stem follows its song: measured against another song, too."""

COMPARED: tuple[str, ...] = (
    "beat_f1", "beat_amlt", "onset_f", "tempo_right", *HARMONY, *COCOLA, "clap_score",
)  # fmt: skip
"""Those of which own − shuffled is given."""

COSTS: tuple[str, ...] = ("speed", "peak_memory_gb")
"""What has no anchor and needs none."""

ITEM_METRICS: dict[str, Metric] = {
    "beat_f1": Metric(
        "Beat F1", range=_UNIT, explanation="How many beats of stem and song are the same, within 70 ms."
    ),
    "beat_cmlt": Metric(
        "Beats in a row (CMLt)", range=_UNIT, explanation="Share of beats that are right at exactly the song's tempo."
    ),
    "beat_amlt": Metric(
        "Beats at any level (AMLt)",
        range=_UNIT,
        explanation="Share of beats that are right, half or double the tempo and off-beats allowed.",
    ),
    "onset_f": Metric(
        "Onset F",
        range=_UNIT,
        explanation="How well the stem's notes sit on the song's 8th notes, and cover its beats.",
    ),
    "onset_precision": Metric(
        "Onsets on the grid", range=_UNIT, explanation="Share of the stem's notes within 30 ms of the song's 8th notes."
    ),
    "onset_recall": Metric(
        "Beats with an onset", range=_UNIT, explanation="Share of the song's beats within 50 ms of which a note begins."
    ),
    "tempo_error": Metric(
        "Tempo error", better="lower", explanation="How far the tempo is off, half, double and triple tempo allowed."
    ),
    "tempo_right": Metric(
        "Tempo right", range=_UNIT, explanation="Share of clips whose tempo is within 4 %, octaves allowed."
    ),
    "chroma_similarity": Metric(
        "Chroma similarity",
        range=_UNIT,
        explanation="How much the stem's notes are those of the true stem at that time.",
    ),
    "key_agreement": Metric(
        "Key agreement", range=_UNIT, explanation="Whether the stem is in the song's key; near keys count in part."
    ),
    "cocola": Metric("COCOLA", explanation="How coherent stem and context sound to a network trained on true pairs."),
    "cocola_harmonic": Metric("COCOLA, harmonic", explanation="The same, of what has pitch."),
    "cocola_percussive": Metric("COCOLA, percussive", explanation="The same, of what is struck."),
    "clap_score": Metric(
        "CLAP text score", range=(-1.0, 1.0), explanation="How well the stem fits the song's description in words."
    ),
    "loudness": Metric("Loudness", "LUFS", "none", "Integrated loudness of the stem."),
    "loudness_difference": Metric(
        "Loudness difference", "dB", "lower", "How far the stem's loudness is from the true stem's."
    ),
    "silent": Metric("Silent", better="lower", range=_UNIT, explanation="Share of clips that nobody would hear."),
    "clipped": Metric("Clipped", better="lower", range=_UNIT, explanation="Share of samples at full scale."),
}
"""In the order of the tables, but for the metrics of sets."""

_SETS: dict[str, Metric] = {
    "fad": Metric("FAD", better="lower", scope="set", explanation="How unlike real stems the stems sound as a whole."),
    "fad_inf": Metric(
        "FAD∞", better="lower", scope="set", explanation="FAD, extrapolated to endlessly many clips."
    ),
    "kad": Metric(
        "KAD", better="lower", scope="set", explanation="As FAD, by a kernel: fair with few clips, no shape assumed."
    ),
    "apa": Metric(
        "APA", range=_UNIT, scope="set",
        explanation="Whether mixes with the stems are nearer to the true mixes (1) or to mixes with wrong stems (0).",
    ),
}  # fmt: skip

_COSTS: dict[str, Metric] = {
    "speed": Metric("Speed", "× real time", "higher", "Seconds of audio generated in a second.", "set"),
    "peak_memory_gb": Metric("Peak memory", "GB", "lower", "Most memory in use while generating.", "set"),
}


def set_metric(name: str, embedding: str) -> str:
    """Return the key of a metric of sets with an embedding: "fad_clap"."""
    return f"{name}_{embedding}"


def catalogue(embeddings: Iterable[str], used: set[str]) -> dict[str, Metric]:
    """Return what is known of the metrics that are used, in the order of the tables.

    Args:
        embeddings: names.
        used: keys of metrics.
    """
    known = dict(ITEM_METRICS)
    for name in COMPARED:
        metric = ITEM_METRICS[name]
        low, high = metric.range or (0.0, 0.0)
        known[f"{name}{DIFFERENCE}"] = Metric(
            f"{metric.title}: own − shuffled",
            metric.unit,
            metric.better,
            "How much better a stem fits its own song than another one: above 0 with all of its interval, it follows.",
            "set",
            None if metric.range is None else (low - high, high - low),
        )
    for embedding in embeddings:
        for name, metric in _SETS.items():
            known[set_metric(name, embedding)] = Metric(
                f"{metric.title} ({embedding})", metric.unit, metric.better, metric.explanation, "set", metric.range
            )
    known |= _COSTS
    return {name: metric for name, metric in _by_family(known).items() if name in used}


def _by_family(known: dict[str, Metric]) -> dict[str, Metric]:
    """Put each difference behind its metric."""
    ordered: dict[str, Metric] = {}
    for name, metric in known.items():
        if not name.endswith(DIFFERENCE):
            ordered[name] = metric
            if name + DIFFERENCE in known:
                ordered[name + DIFFERENCE] = known[name + DIFFERENCE]
    return ordered


MEASUREMENT_VERSION = 1
"""Of what is listened for: another one, and outputs are listened to again."""

_SOUNDS = "cocola_sounds"


class Listener:
    """Ears: trackers, embeddings, COCOLA; loaded when they are first needed.

    Args:
        config: of the evaluation.
        codec_content: hash of the model whose codec is the embedding `codec`; "" without one.
    """

    def __init__(self, config: EvaluationConfig, codec_content: str = "") -> None:
        self._config = config
        self._specs = [self._full(spec) for spec in config.embedding_specs]
        self.names = [spec.partition("=")[0] for spec in config.embedding_specs]
        keys = key_finder()
        heard_by = [config.tracker] if keys == "essentia" else [config.tracker, keys]
        self._settings: list[Any] = [MEASUREMENT_VERSION, *heard_by, self._specs]
        self._settings += [codec_content if "codec" in config.embedding_specs else ""]
        self._settings += [None if config.cocola is None else content_of(config.cocola)]

    @cached_property
    def embeddings(self) -> list[Embedding]:
        """The embeddings, in the order of `names`.

        Raises:
            StageError: one cannot be loaded.
        """
        device = codec_device(self._config.device)
        return [load_embedding(spec, device=device, offline=self._config.offline) for spec in self._specs]

    @cached_property
    def cocola(self) -> Cocola | None:
        """The COCOLA model, if there is one.

        Raises:
            WeightsError: its checkpoint cannot be used.
        """
        path = self._config.cocola
        return None if path is None else Cocola.load(path, device=codec_device(self._config.device))

    @property
    def clap(self) -> ClapEmbedding | None:
        """The CLAP among the embeddings, which reads text, too."""
        if "clap" not in self.names:
            return None
        return next(found for found in self.embeddings if isinstance(found, ClapEmbedding))

    def load(self) -> None:
        """Load everything now: what is missing is told before an hour's work, not after it.

        Raises:
            StageError: something cannot be loaded.
        """
        _ = self.embeddings, self.cocola
        rhythm.load_tracker(self._config.tracker)

    def digest(self, system: System, clip: Clip, take_record: TakeRecord) -> str:
        """Return what decides on what is heard in an output."""
        return digest_of(take_record.digest, self._stem(system, clip), system.embedded, system.mixed, self._settings)

    def listen(self, system: System, clip: Clip, audio: np.ndarray, sample_rate: int, digest: str) -> AnalysisRecord:
        """Listen to an output.

        Args:
            system: that made it.
            clip: that it was made for.
            audio: `[samples]`.
            sample_rate: Hz.
            digest: to be noted.

        Raises:
            StageError: a tracker is missing.
            ValueError: the audio is not finite, or too short for an embedding.
        """
        stem = self._stem(system, clip)
        analysis = analyse(audio, sample_rate, stem=stem, tracker=self._config.tracker)
        arrays: dict[str, np.ndarray] = {}
        if system.embedded:
            arrays |= self._rows("stem", audio, sample_rate)
            if self.cocola is not None:
                arrays |= _cocola_arrays(self.cocola.vectors(audio, sample_rate))
        if system.mixed and clip.plan.context_kind == "mix":
            arrays |= self._rows("mix", mixed(clip, audio, sample_rate), clip.sample_rate)
        return AnalysisRecord(digest, analysis, arrays)

    def _stem(self, system: System, clip: Clip) -> str:
        return system.hears.get(clip.plan.context_kind, self._config.stem)

    def _rows(self, what: str, audio: np.ndarray, sample_rate: int) -> dict[str, np.ndarray]:
        return {
            f"{what}_{name}": embedding.embed(audio, sample_rate)
            for name, embedding in zip(self.names, self.embeddings, strict=True)
        }

    def _full(self, spec: str) -> str:
        """Return `codec` as `codec=MODEL`: one codec for all systems, that of the first model."""
        return f"codec={self._config.models[0]}" if spec == "codec" and self._config.models else spec


def mixed(clip: Clip, audio: np.ndarray, sample_rate: int) -> np.ndarray:
    """Return context and stem together, `[samples]` at the clip's rate; as loud as both, which may be above ±1."""
    stem = resample(audio, sample_rate, clip.sample_rate)[: len(clip.context)]
    return clip.context + np.pad(stem, (0, len(clip.context) - len(stem)))


def cocola_vectors(arrays: dict[str, np.ndarray]) -> CocolaVectors | None:
    """Return the COCOLA vectors among the arrays of an output; None if there are none."""
    if _SOUNDS not in arrays:
        return None
    vectors = {mode: torch.from_numpy(arrays[f"cocola_{mode}"]) for mode in MODES}
    return CocolaVectors(vectors, arrays[_SOUNDS])


def _cocola_arrays(vectors: CocolaVectors) -> dict[str, np.ndarray]:
    found = {f"cocola_{mode}": rows.numpy() for mode, rows in vectors.vectors.items()}
    return found | {_SOUNDS: vectors.sounds}


GENERATION_VERSION = 2
"""Of how clips and outputs are made: another one, and they are made again."""

Progress = Callable[[str, int, int], None]
"""Called with what is being done, and how many of how many are."""


@dataclass(frozen=True, eq=False)
class Evidence:
    """What was made and heard.

    Attributes:
        clips: by id, without their audio.
        take_record: by system name and clip id.
        analysed: likewise.
        failures: what could not be made.
    """

    clips: dict[str, Clip] = field(default_factory=dict)
    take_record: dict[str, dict[str, TakeRecord]] = field(default_factory=dict)
    analysed: dict[str, dict[str, AnalysisRecord]] = field(default_factory=dict)
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

    def write_clips(self) -> None:
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

    def generate_takes(self, systems: Sequence[System], phase: str) -> None:
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
            self.evidence.take_record[system.name], self.evidence.analysed[system.name] = {}, {}
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
        digest = digest_of(
            GENERATION_VERSION, known.digest, system.name, system.content, system.contents.get(plan.id), seed
        )
        take_record = records.take_record(plan.id, system.part, digest)
        if take_record is not None and self._is_whole(system, plan):
            analysed = records.analysed(plan.id, system.part, self._listener.digest(system, known, take_record))
            if analysed is not None:
                self._keep(system, plan, take_record, analysed)
                return
        clip = self.clip(plan)
        if clip is None:
            self._fail(plan, system.name, StageError("the clip's files have disappeared"))
            return
        found = records.audio(plan.id, system.part, take_record) if take_record is not None and system.writes else None
        if take_record is None or found is None:
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
            take_record = TakeRecord(digest, seed, 1.0, take.compute_seconds, take.peak_memory)
            found = take.audio, take.sample_rate
            if system.writes:
                take_record = records.keep_take(plan.id, system.part, take.audio, take.sample_rate, take_record)
                # What is heard is what can be read back: a second run hears the same.
                found = records.audio(plan.id, system.part, take_record) or found
        audio, rate = found
        if system.writes:
            records.keep_mix(plan.id, system.part, mixed(clip, audio, rate), clip.sample_rate)
        self._analyse(system, clip, take_record, audio, rate)

    def _analyse(self, system: System, clip: Clip, take_record: TakeRecord, audio: np.ndarray, rate: int) -> None:
        digest = self._listener.digest(system, clip, take_record)
        try:
            analysed = self._listener.listen(system, clip, audio, rate, digest)
        except (StageError, ValueError) as error:
            self._fail(clip.plan, system.name, error)
            return
        self._records.keep_analysis(clip.plan.id, system.part, take_record, analysed)
        kept = self._records.analysed(clip.plan.id, system.part, digest)
        self._keep(system, clip.plan, take_record, analysed if kept is None else kept)

    def _is_whole(self, system: System, plan: ClipPlan) -> bool:
        parts = (system.part, f"{system.part}.mix") if system.writes else ()
        return all(self._records.has_audio(plan.id, part) for part in parts)

    def _keep(self, system: System, plan: ClipPlan, take_record: TakeRecord, analysed: AnalysisRecord) -> None:
        self.evidence.take_record[system.name][plan.id] = take_record
        self.evidence.analysed[system.name][plan.id] = analysed

    def _fail(self, plan: ClipPlan, system: str, error: Exception) -> None:
        self.evidence.failures.append(Failure(plan.id, system, str(error)))

    def _clip_digest(self, plan: ClipPlan) -> str:
        kept = {
            name: self._config.decisive.get(name) for name in ("source", "stem", "seconds", "seed", "data", "split")
        }
        return digest_of(GENERATION_VERSION, kept, plan.recipe, plan.song, plan.context_kind)


Values = dict[str, float]
"""Metrics of one output by name; nan where undefined."""


@dataclass(frozen=True, eq=False)
class AnalysedTruth(ItemTruth):
    """The truth of a clip whose true stem has been listened to already.

    Attributes:
        true: what was heard in the true stem; None where there is none.
    """

    true: Analysis | None = None

    @property
    def loudness(self) -> float:
        """LUFS of the true stem; nan where it is silent, or where there is none."""
        return math.nan if self.true is None else self.true.loudness

    @property
    def chroma(self) -> np.ndarray:
        """Pitch classes of the true stem, `[frames, 12]`; no frames where there is none."""
        return np.zeros((0, 12)) if self.true is None or self.true.chroma is None else self.true.chroma


@dataclass(frozen=True, eq=False)
class ClipAnalysis:
    """All that outputs of a clip are compared with.

    Attributes:
        clip: the clip, without its audio being used.
        truth: of it.
        context: what was heard in its context; None if that failed.
        text: CLAP's vector of its description `[1, width]`; None without one.
    """

    clip: Clip
    truth: ItemTruth
    context: AnalysisRecord | None = None
    text: np.ndarray | None = None


@dataclass(frozen=True, eq=False)
class Ranking:
    """Metrics of a system's outputs: against their own songs, and against others.

    Attributes:
        own: by clip id.
        shuffled: likewise; empty where there is no other song.
    """

    own: dict[str, Values] = field(default_factory=dict)
    shuffled: dict[str, Values] = field(default_factory=dict)


def measure_take(
    system: str, analysed: AnalysisRecord, known: ClipAnalysis, *, stem: str, cocola: Cocola | None
) -> Values:
    """Return the metrics of an output against one clip: its own, or another.

    Args:
        system: name of what made it; clicks and contexts have fewer metrics.
        analysed: what was heard in it.
        known: of the clip.
        stem: that is evaluated.
        cocola: compares vectors, if there is a COCOLA.
    """
    values = compare(analysed.analysis, known.truth)
    if stem in PERCUSSIVE_STEMS:
        values = {name: value for name, value in values.items() if name not in HARMONY}
    if system == CLICK:
        return {name: values[name] for name in RHYTHM}
    if cocola is not None:
        values |= _cocola(analysed, known, cocola) if system != CONTEXT else {}
    if known.text is not None and "stem_clap" in analysed.arrays and not analysed.analysis.silent:
        values["clap_score"] = cosine(analysed.arrays["stem_clap"], known.text)
    return values


def only_following(values: Values) -> Values:
    """Keep the metrics that mean something against another song."""
    return {name: value for name, value in values.items() if name in FOLLOWING}


def intervals(outputs: Mapping[str, Values], songs: Mapping[str, str], seed: int) -> dict[str, Interval]:
    """Return mean and bootstrap interval of each metric of a system's outputs; metrics without any value are left out.

    Args:
        outputs: by clip id.
        songs: of each clip.
        seed: of the bootstrap.
    """
    ids = sorted(outputs)
    names = dict.fromkeys(name for clip in ids for name in outputs[clip])
    found = {}
    for name in names:
        values = [outputs[clip].get(name, math.nan) for clip in ids]
        if not all(math.isnan(value) for value in values):
            found[name] = mean_interval(values, [songs[clip] for clip in ids], np.random.default_rng(seed))
    return found


def differences(ranking: Ranking, songs: Mapping[str, str], seed: int) -> dict[str, Interval]:
    """Return own − shuffled, clip by clip, with its interval, by the differences' names."""
    ids = sorted(ranking.own.keys() & ranking.shuffled.keys())
    found = {}
    for name in COMPARED:
        own = np.array([ranking.own[clip].get(name, math.nan) for clip in ids])
        other = np.array([ranking.shuffled[clip].get(name, math.nan) for clip in ids])
        if len(ids) and not np.isnan(own - other).all():
            of = [songs[clip] for clip in ids]
            found[name + DIFFERENCE] = paired_difference(own, other, of, np.random.default_rng(seed))
    return found


def local_tempo(beats: Sequence[float] | np.ndarray) -> float | None:
    """Return the beats a minute of a clip, from the median of its beat intervals; None for fewer than two beats."""
    return 60 / float(np.median(np.diff(beats))) if len(beats) > 1 else None


def _cocola(analysed: AnalysisRecord, known: ClipAnalysis, cocola: Cocola) -> Values:
    stem = cocola_vectors(analysed.arrays)
    context = None if known.context is None else cocola_vectors(known.context.arrays)
    if stem is None or context is None:
        return dict.fromkeys(COCOLA, math.nan)
    return cocola.compare(context, stem).metrics()
