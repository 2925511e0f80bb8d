"""The drummer: a groove for every kind of section, with fills and small changes; and hand percussion."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from stage_cli.core.band.grooves import GROOVES, Groove, Hit, Passage, invent_groove, lift
from stage_cli.core.band.instruments import (
    CABASA,
    CLAP,
    CLAVES,
    CLOSED_HAT,
    COWBELL,
    CRASH,
    HIGH_BONGO,
    HIGH_TOM,
    KICK,
    LOW_BONGO,
    LOW_CONGA,
    LOW_TOM,
    MIDDLE_TOM,
    MUTED_CONGA,
    OPEN_CONGA,
    OPEN_HAT,
    SECOND_CRASH,
    SHAKER,
    SIDE_STICK,
    SNARE,
    TAMBOURINE,
    WOODBLOCK,
)
from stage_cli.core.band.randomness import chance, generator, pick
from stage_cli.core.band.score import Event, ScoreMeter, Section
from stage_cli.core.band.styles import Style

_TOMS = (HIGH_TOM, MIDDLE_TOM, LOW_TOM)


def invent_fill(
    rng: np.random.Generator, meter: ScoreMeter, size: float, *, electronic: bool
) -> tuple[float, list[Hit]]:
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


_CYMBALS_HELD = 1.0  # beats that a cymbal or tom rings on paper; the sound itself decides


@dataclass(frozen=True)
class Drummer:
    """One song's drummer: the grooves of its sections, and habits."""

    meter: ScoreMeter
    grooves: dict[str, Groove]
    family: str
    electronic: bool
    fill_every: int
    variation: float
    crash: float

    def groove(self, kind: str) -> Groove:
        """The groove of a kind of section."""
        return self.grooves.get(kind, self.grooves["verse"])


def hire(key: tuple[int | str, ...], style: Style, meter: ScoreMeter, *, electronic: bool) -> Drummer:
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


def _on_paper(hits: list[Hit], section: Section, bar: int, meter: ScoreMeter, rng: np.random.Generator) -> list[Event]:
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


# X accented, x plain, o soft; two letters apart mean two drums: h high, l low, m muted.
_PATTERNS: dict[str, tuple[str, ...]] = {
    "shaker": ("XoxoXoxoXoxoXoxo", "X-o-X-o-X-o-X-o-", "oxXooxXooxXooxXo", "X-xoX-xoX-xoX-xo"),
    "tambourine": ("----X-------X---", "--X---X---X---X-", "xoXoxoXoxoXoxoXo", "X-x-X-x-X-x-X-x-"),
    "claps": ("----X-------X---", "----X-------X-X-", "------------X---", "---X--X-----X---"),
    "cowbell": ("X---X---X---X---", "X---X-X-X-X-X-X-", "X-x-X-X-x-X-X-x-", "X--x--X---x-X---"),
    "claves": ("X--X--X---X-X---", "--X-X---X--X--X-", "X--X---X--X-X---"),
    "woodblock": ("X-----X---------", "----x-------X-x-", "X--X--X-X--X--X-"),
    "congas": ("m-mhm-hhm-mhm-hl", "m--hm--hm--hm-hh", "mmhmmmhhmmhmllhh", "--h---hh--h---ll", "h-mh-mh-h-mh-mll"),
    "bongos": ("hmmlhmmlhmmlhmml", "h-l-h-l-h-lhh-l-", "hmhmlmhmhmhmlmll"),
}
_KEYS = {
    "shaker": (SHAKER, CABASA),
    "tambourine": (TAMBOURINE,),
    "claps": (CLAP,),
    "cowbell": (COWBELL,),
    "claves": (CLAVES,),
    "woodblock": (WOODBLOCK,),
}
_HANDS = {
    "congas": {"h": OPEN_CONGA, "l": LOW_CONGA, "m": MUTED_CONGA},
    "bongos": {"h": HIGH_BONGO, "l": LOW_BONGO, "m": HIGH_BONGO},
}
_VELOCITY = {"X": 0.85, "x": 0.65, "o": 0.4, "h": 0.8, "l": 0.85, "m": 0.35}


def play_percussion(manner: str, passage: Passage, taste: np.random.Generator, rng: np.random.Generator) -> list[Event]:
    """Return a section of one instrument: "shaker", "tambourine", "claps", "cowbell", "claves", "congas" or another."""
    pattern = pick(taste, _PATTERNS[manner])
    if passage.meter.beats_per_bar == 2:
        pattern = (
            "X-o-o-X-o-o-"
            if manner in ("shaker", "tambourine")
            else "X---m-X-h-m-"
            if manner in _HANDS
            else "------X-----"
        )
    else:
        pattern = pattern[: passage.meter.steps_per_bar]
    key = pick(taste, _KEYS.get(manner, (SHAKER,)))
    hands = _HANDS.get(manner, {})
    rest = float(taste.uniform(0, 0.1))
    events = []
    for beat, symbol in passage.grid(pattern):
        if symbol != "X" and chance(rng, rest):
            continue
        velocity = _VELOCITY[symbol] * passage.loudness * float(rng.normal(1, 0.07))
        pitch = hands.get(symbol, hands.get("h", key))
        events.append(Event(beat, 0.5, pitch, float(np.clip(velocity, 0.1, 1))))
    return events
