"""Metrics of items: what was heard in an output against what is true of its clip, and of another song's."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from stage_cli.core.evaluation.cocola.score import Cocola
from stage_cli.core.evaluation.embeddings.clap import cosine
from stage_cli.core.evaluation.metrics.bootstrap import Interval, mean_interval, paired_difference
from stage_cli.core.evaluation.music import PERCUSSIVE_STEMS, Heard, ItemTruth, compare
from stage_cli.core.evaluation.protocol.catalogue import COCOLA, COMPARED, DIFFERENCE, FOLLOWING, HARMONY, RHYTHM
from stage_cli.core.evaluation.protocol.clips import Clip
from stage_cli.core.evaluation.protocol.listening import cocola_vectors
from stage_cli.core.evaluation.protocol.records import Listened
from stage_cli.core.evaluation.protocol.systems import CLICK, CONTEXT

Values = dict[str, float]
"""Metrics of one output by name; nan where undefined."""


class HeardTruth(ItemTruth):
    """The truth of a clip whose true stem has been listened to already."""

    def __init__(self, clip: Clip, true: Heard | None) -> None:
        super().__init__(clip.seconds, clip.beats, bpm=clip.bpm, key=clip.key)
        object.__setattr__(self, "_true", true)

    @property
    def loudness(self) -> float:
        """LUFS of the true stem; nan where it is silent, or where there is none."""
        true: Heard | None = self.__dict__["_true"]
        return math.nan if true is None else true.loudness

    @property
    def chroma(self) -> np.ndarray:
        """Pitch classes of the true stem, `[frames, 12]`; no frames where there is none."""
        true: Heard | None = self.__dict__["_true"]
        return np.zeros((0, 12)) if true is None or true.chroma is None else true.chroma


@dataclass(frozen=True, eq=False)
class Known:
    """All that outputs of a clip are compared with.

    Attributes:
        clip: the clip, without its audio being used.
        truth: of it.
        context: what was heard in its context; None if that failed.
        text: CLAP's vector of its description `[1, width]`; None without one.
    """

    clip: Clip
    truth: ItemTruth
    context: Listened | None = None
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


def measure_output(system: str, listened: Listened, known: Known, *, stem: str, cocola: Cocola | None) -> Values:
    """Return the metrics of an output against one clip: its own, or another.

    Args:
        system: name of what made it; clicks and contexts have fewer metrics.
        listened: what was heard in it.
        known: of the clip.
        stem: that is evaluated.
        cocola: compares vectors, if there is a COCOLA.
    """
    values = compare(listened.heard, known.truth)
    if stem in PERCUSSIVE_STEMS:
        values = {name: value for name, value in values.items() if name not in HARMONY}
    if system == CLICK:
        return {name: values[name] for name in RHYTHM}
    if cocola is not None:
        values |= _cocola(listened, known, cocola) if system != CONTEXT else {}
    if known.text is not None and "stem_clap" in listened.arrays and not listened.heard.silent:
        values["clap_score"] = cosine(listened.arrays["stem_clap"], known.text)
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


def _cocola(listened: Listened, known: Known, cocola: Cocola) -> Values:
    stem = cocola_vectors(listened.arrays)
    context = None if known.context is None else cocola_vectors(known.context.arrays)
    if stem is None or context is None:
        return dict.fromkeys(COCOLA, math.nan)
    return cocola.compare(context, stem).metrics()
