"""Drum fills: what leads from one phrase to the next."""

from __future__ import annotations

import numpy as np

from stage_cli.core.data.band.composition.grooves import Hit
from stage_cli.core.data.band.composition.score import Meter
from stage_cli.core.data.band.instruments import CLAP, HIGH_TOM, KICK, LOW_TOM, MIDDLE_TOM, OPEN_HAT, SNARE
from stage_cli.core.data.band.randomness import chance, pick

_TOMS = (HIGH_TOM, MIDDLE_TOM, LOW_TOM)


def invent_fill(rng: np.random.Generator, meter: Meter, size: float, *, electronic: bool) -> tuple[float, list[Hit]]:
    """Return a fill for the end of a bar: the step at which it begins, and its strokes up to the bar line.

    Args:
        rng: where its choices come from.
        meter: of the bar.
        size: 0 (a beat, seldom more) to 1 (often the whole bar).
        electronic: machines roll and stop; drummers go round the toms.
    """
    beat = meter.steps_per_beat
    beats = min(meter.beats_per_bar, 1 + int(rng.binomial(3, min(0.9, 0.15 + 0.6 * size))))
    start = float(meter.steps_per_bar - beats * beat)
    span = beats * beat
    if electronic:
        kind = pick(rng, ("roll", "stop", "claps", "syncopation"))
    else:
        kind = pick(rng, ("snare", "toms", "toms", "syncopation", "linear", "flams", "triplets", "accents"))
    hits: list[Hit] = []
    steps = [start + step for step in range(span)]
    if kind == "roll":
        every = pick(rng, (0.5, 1.0))
        places = np.arange(start, start + span, every)
        hits = [Hit(float(p), SNARE, 0.35 + 0.5 * (p - start) / span) for p in places]
    elif kind == "stop":
        hits = [Hit(start, KICK, 0.9)] if chance(rng, 0.5) else []
    elif kind == "claps":
        hits = [Hit(step, CLAP, 0.8) for step in steps if chance(rng, 0.4) or step == steps[-1]]
    elif kind == "snare":
        hits = [
            Hit(step, SNARE, 0.5 + 0.4 * i / span) for i, step in enumerate(steps) if i % 4 == 0 or chance(rng, 0.8)
        ]
    elif kind == "toms":
        order = (SNARE, *_TOMS) if chance(rng, 0.6) else _TOMS
        for i, step in enumerate(steps):
            if i % 2 == 0 or chance(rng, 0.7):
                drum = order[min(len(order) - 1, i * len(order) // span)]
                hits.append(Hit(step, drum, 0.9 if i % 4 == 0 else 0.7))
    elif kind == "linear":
        figure = pick(
            rng,
            ((SNARE, SNARE, KICK), (SNARE, HIGH_TOM, LOW_TOM, KICK), (SNARE, KICK, KICK), (HIGH_TOM, LOW_TOM, KICK)),
        )
        hits = [
            Hit(step, figure[i % len(figure)], 0.85 if i % len(figure) == 0 else 0.7) for i, step in enumerate(steps)
        ]
    elif kind == "flams":
        for step in steps[::2]:
            drum = pick(rng, (SNARE, LOW_TOM))
            hits += [Hit(step - 0.15, drum, 0.4), Hit(step, drum, 0.9)]
    elif kind == "triplets":
        count = span * 3 // 4 if beat == 4 else span // 2
        drums = (SNARE, *_TOMS)
        hits = [Hit(start + i * span / count, drums[(i // 3) % 4], 0.9 if i % 3 == 0 else 0.65) for i in range(count)]
    elif kind == "accents":
        hits = [Hit(step, SNARE, 0.9 if i in (0, 3, 6, 10, 12) else 0.35) for i, step in enumerate(steps)]
    else:  # syncopation
        hits = [Hit(step, pick(rng, (SNARE, SNARE, LOW_TOM)), 0.85) for step in steps if chance(rng, 0.45)]
        hits += [Hit(step, KICK, 0.8) for step in steps if chance(rng, 0.25)]
    if beats > 1 and chance(rng, 0.3):
        hits += [Hit(step, KICK, 0.75) for step in steps[::beat]]
    if chance(rng, 0.15):
        hits.append(Hit(start + span - 1, OPEN_HAT, 0.7))
    return start, hits
