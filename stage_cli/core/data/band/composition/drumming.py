"""The drummer: a groove for every kind of section, played bar by bar with fills, crashes and small changes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from stage_cli.core.data.band.composition.fills import invent_fill
from stage_cli.core.data.band.composition.groove_patterns import GROOVES
from stage_cli.core.data.band.composition.grooves import Groove, Hit, invent_groove, lift
from stage_cli.core.data.band.composition.score import Event, Meter, Section
from stage_cli.core.data.band.composition.styles import Style
from stage_cli.core.data.band.instruments import CLOSED_HAT, CRASH, KICK, OPEN_HAT, SECOND_CRASH, SIDE_STICK, SNARE
from stage_cli.core.data.band.randomness import chance, generator, pick

_CYMBALS_HELD = 1.0  # beats that a cymbal or tom rings on paper; the sound itself decides


@dataclass(frozen=True)
class Drummer:
    """One song's drummer: the grooves of its sections, and habits."""

    meter: Meter
    grooves: dict[str, Groove]
    family: str
    electronic: bool
    fill_every: int
    variation: float
    crash: float

    def groove(self, kind: str) -> Groove:
        """The groove of a kind of section."""
        return self.grooves.get(kind, self.grooves["verse"])


def hire(key: tuple[int | str, ...], style: Style, meter: Meter, *, electronic: bool) -> Drummer:
    """Return a song's drummer."""
    rng = generator(*key, "drummer")
    family = pick(rng, style.grooves)
    verse = invent_groove(rng, family, meter)
    chorus = lift(rng, verse, meter)
    if chance(rng, 0.35):
        chorus = invent_groove(rng, family, meter)
    grooves = {"verse": verse, "chorus": chorus, "drop": verse if chance(rng, 0.5) else chorus}
    grooves["solo"] = chorus if chance(rng, 0.5) else lift(rng, verse, meter)
    others = [name for name in style.grooves if name != family] or [family]
    bridge = pick(rng, others)
    if len(GROOVES[bridge].kicks[0]) == meter.steps_per_bar:
        grooves["bridge"] = invent_groove(rng, bridge, meter)
    return Drummer(
        meter,
        grooves,
        family,
        electronic,
        fill_every=pick(rng, (4, 4, 8, 8, 2)),
        variation=float(rng.uniform(0.0, 0.35)),
        crash=float(rng.uniform(0.4, 1.0)),
    )


def play_drums(
    drummer: Drummer, section: Section, manner: str, following: Section | None, rng: np.random.Generator
) -> list[Event]:
    """Return a section's strokes.

    Args:
        drummer: who plays.
        section: what is played.
        manner: "full", "hats" (leading hand only), "no kick", "kick", "rim", "build" or "out".
        following: the next section, which a fill leads to; None at the end.
        rng: for what differs from bar to bar.
    """
    groove = drummer.groove(section.kind)
    events: list[Event] = []
    for bar in range(section.bars):
        hits = _thinned(groove.bars[bar % 2], manner, bar / section.bars)
        hits = _varied(hits, drummer, rng)
        last = bar == section.bars - 1
        phrase_end = (bar + 1) % drummer.fill_every == 0
        enters = last and following is not None and following.intensity >= 0.4
        if (enters and manner != "build" and chance(rng, 0.85)) or (
            phrase_end and not last and manner == "full" and chance(rng, 0.5)
        ):
            size = 0.35 + 0.65 * section.intensity if last else 0.1
            start, fill = invent_fill(rng, drummer.meter, size, electronic=drummer.electronic)
            hits = [hit for hit in hits if hit.step < start - 0.5] + fill
        if bar == 0 and manner == "full" and section.intensity >= 0.4 and chance(rng, drummer.crash):
            hits = [hit for hit in hits if not (hit.step == 0 and hit.key in (CLOSED_HAT, OPEN_HAT))]
            hits += [Hit(0.0, pick(rng, (CRASH, SECOND_CRASH)), 0.9), Hit(0.0, KICK, 0.9)]
        events += _on_paper(hits, section, bar, drummer.meter, rng)
    return _choked(events)


def _thinned(bar: tuple[Hit, ...], manner: str, progress: float) -> list[Hit]:
    if manner == "out":
        return []
    if manner == "hats":
        return [hit for hit in bar if hit.key not in (KICK, SNARE, SIDE_STICK)]
    if manner == "no kick":
        return [hit for hit in bar if hit.key != KICK]
    if manner == "kick":
        return [hit for hit in bar if hit.key == KICK]
    if manner == "rim":
        return [
            replace(hit, key=SIDE_STICK, velocity=0.7) if hit.key == SNARE else hit for hit in bar if hit.velocity > 0.4
        ]
    if manner == "build":  # a snare roll that doubles on its way
        every = 4.0 if progress < 0.5 else 2.0 if progress < 0.75 else 1.0
        steps = np.arange(0, 16 if any(hit.step >= 12 for hit in bar) else 12, every)
        return [Hit(float(step), SNARE, 0.35 + 0.45 * progress) for step in steps]
    return list(bar)


def _varied(hits: list[Hit], drummer: Drummer, rng: np.random.Generator) -> list[Hit]:
    """Leave out or add a stroke now and then, as people do and machines do not."""
    amount = drummer.variation * (0.25 if drummer.electronic else 1.0)
    if not hits or not chance(rng, amount):
        return hits
    if chance(rng, 0.5):
        loose = [hit for hit in hits if hit.velocity < 0.9]
        if loose:
            gone = pick(rng, loose)
            return [hit for hit in hits if hit is not gone]
        return hits
    step = float(rng.integers(drummer.meter.steps_per_bar))
    key, velocity = pick(rng, ((KICK, 0.75), (SNARE, 0.3), (SNARE, 0.3), (OPEN_HAT, 0.7)))
    return [*hits, Hit(step, key, velocity)]


def _on_paper(hits: list[Hit], section: Section, bar: int, meter: Meter, rng: np.random.Generator) -> list[Event]:
    first = float((section.first_bar + bar) * meter.beats_per_bar)
    loudness = 0.78 + 0.22 * section.intensity
    jitter = rng.normal(1.0, 0.06, size=len(hits))
    return [
        Event(
            max(first + hit.step / meter.steps_per_beat, 0.0),
            _CYMBALS_HELD,
            hit.key,
            float(np.clip(hit.velocity * loudness * factor, 0.08, 1.0)),
        )
        for hit, factor in zip(hits, jitter, strict=True)
    ]


def _choked(events: list[Event]) -> list[Event]:
    """Let an open hi-hat ring until the hi-hat is struck again, and drop strokes written twice."""
    events = sorted({(e.beat, e.pitch): e for e in events}.values(), key=lambda e: (e.beat, e.pitch))
    hats = [event for event in events if event.pitch in (CLOSED_HAT, OPEN_HAT, 44)]
    until = {id(now): after.beat - now.beat for now, after in pairwise(hats)}
    return [replace(e, beats=until.get(id(e), 2.0)) if e.pitch == OPEN_HAT else e for e in events]
