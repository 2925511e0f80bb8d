"""Hand percussion: shakers, tambourines, congas and others around the drums."""

from __future__ import annotations

import numpy as np

from stage_cli.core.data.band.composition.passage import Passage
from stage_cli.core.data.band.composition.score import Event
from stage_cli.core.data.band.instruments import (
    CABASA,
    CLAP,
    CLAVES,
    COWBELL,
    HIGH_BONGO,
    LOW_BONGO,
    LOW_CONGA,
    MUTED_CONGA,
    OPEN_CONGA,
    SHAKER,
    TAMBOURINE,
    WOODBLOCK,
)
from stage_cli.core.data.band.randomness import chance, pick

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
