"""Beats of a stem against the beats of its song: Beat F1, CMLt and AMLt, by mir_eval.

- Beat F1: beats are matched one to one within ±70 ms; harmonic mean of the share of the stem's beats and of the song's
  beats that are matched. Half or double the tempo gives about 0.67.
- CMLt: share of beats that are right together with their interval to the beat before, both within 17.5 % of the song's
  interval (so not ±70 ms: ±88 ms at 120 bpm). Half or double the tempo gives 0.
- AMLt: likewise, but the stem may have its beats between the song's, or half or double the tempo.

The first argument is the truth: the annotated beats of the song, or the click grid. All are 0 to 1, and nan where there
is no truth: for F1 no beat in it, for the others fewer than two. Where the stem has too few beats they are 0. Nothing
is trimmed: mir_eval's own programs drop the first five seconds, which is half of a clip. Sources: Raffel et al.,
"mir_eval", ISMIR 2014; Davies, Degara and Plumbley, "Evaluation methods for musical audio beat tracking algorithms",
2009.
"""

from __future__ import annotations

import math
import warnings

from stage_cli.core.evaluation.metrics.times import Times, rising_times

BEAT_TOLERANCE = 0.07
"""Seconds, of Beat F1."""


def beat_f1(reference: Times, estimated: Times) -> float:
    """Return Beat F1; nan without beats in the reference.

    Args:
        reference: beats of the song in seconds.
        estimated: beats heard in the stem.

    Raises:
        ValueError: times are negative or not finite, or do not rise.
    """
    import mir_eval

    truth, heard = rising_times(reference, "reference beats"), rising_times(estimated, "estimated beats")
    if not len(truth):
        return math.nan
    if not len(heard):
        return 0.0
    return float(mir_eval.beat.f_measure(truth, heard, f_measure_threshold=BEAT_TOLERANCE))


def beat_cmlt(reference: Times, estimated: Times) -> float:
    """Return CMLt, the beats that are right at the correct metrical level; nan for fewer than two reference beats.

    Args:
        reference: beats of the song in seconds.
        estimated: beats heard in the stem.

    Raises:
        ValueError: times are negative or not finite, or do not rise.
    """
    return _continuity(reference, estimated)[0]


def beat_amlt(reference: Times, estimated: Times) -> float:
    """Return AMLt, the beats that are right at any allowed metrical level; nan for fewer than two reference beats.

    Args:
        reference: beats of the song in seconds.
        estimated: beats heard in the stem.

    Raises:
        ValueError: times are negative or not finite, or do not rise.
    """
    return _continuity(reference, estimated)[1]


def _continuity(reference: Times, estimated: Times) -> tuple[float, float]:
    """Return CMLt and AMLt."""
    import mir_eval

    truth, heard = rising_times(reference, "reference beats"), rising_times(estimated, "estimated beats")
    if len(truth) < 2:
        return math.nan, math.nan
    if len(heard) < 2:
        return 0.0, 0.0
    with warnings.catch_warnings():
        # Of two reference beats, some of the allowed levels have one beat or none: worth 0, and no warning.
        warnings.simplefilter("ignore", UserWarning)
        _, correct, _, allowed = mir_eval.beat.continuity(truth, heard)
    return float(correct), float(allowed)
