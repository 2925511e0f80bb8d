"""Drum kits: which sound each General MIDI key has in a song."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from stage_cli.core.data.band import instruments as gm
from stage_cli.core.data.band.randomness import chance, pick
from stage_cli.core.data.band.rendering.synth.drums import (
    Membrane,
    Metal,
    Snare,
    clap,
    membrane,
    metal,
    resonances,
    shaker,
    side_stick,
    snare,
    square_hat,
)

Stroke = Callable[[float, np.random.Generator], np.ndarray]
"""(velocity 0 to 1, generator of its noise) → `[frames]` float32."""

LEVELS: dict[int, float] = {
    gm.KICK: 0.0,
    gm.SNARE: -0.5,
    gm.SIDE_STICK: -6.0,
    gm.CLAP: -3.0,
    gm.CLOSED_HAT: -11.5,
    gm.PEDAL_HAT: -15.5,
    gm.OPEN_HAT: -10.0,
    gm.LOW_TOM: -1.5,
    gm.MIDDLE_TOM: -2.0,
    gm.HIGH_TOM: -2.5,
    gm.CRASH: -7.0,
    gm.SECOND_CRASH: -7.0,
    gm.RIDE: -14.0,
    gm.RIDE_BELL: -12.0,
    gm.CHINA: -9.0,
    gm.SPLASH: -11.0,
    gm.SHAKER: -6.0,
    gm.CABASA: -6.0,
    gm.TAMBOURINE: -5.0,
    gm.COWBELL: -5.0,
    gm.CLAVES: -5.0,
    gm.WOODBLOCK: -5.0,
}
"""dB of a full stroke's loudest 50 ms relative to the kick; keys that are not here have −3."""


def build_kit(kit: str, rng: np.random.Generator) -> dict[int, Stroke]:
    """Return the sounds of a kit, its sizes, tunings and dampings drawn anew.

    Args:
        kit: "rock", "studio", "dry", "garage", "jazz", "electronic" or "eighties".
        rng: where the song's own timbre comes from.
    """
    build = _electronic if kit in ("electronic", "eighties") else _acoustic
    return build(kit, rng)


def build_hand_percussion(rng: np.random.Generator) -> dict[int, Stroke]:
    """Return shakers, tambourine, cowbell, claves, woodblock, congas, bongos and claps."""
    low, rise, ring = rng.uniform(3500, 7000), rng.uniform(0.008, 0.03), rng.uniform(0.05, 0.14)
    jingle = Metal(float(rng.uniform(5000, 7500)), float(rng.uniform(0.12, 0.3)), 1.4, strike=0.3)
    bell = float(rng.uniform(480, 620))
    wood = float(rng.uniform(700, 1000))
    claves = float(rng.uniform(2100, 2800))
    conga = float(rng.uniform(170, 215))
    bongo = float(rng.uniform(300, 400))
    center, spread = float(rng.uniform(900, 1500)), float(rng.uniform(0.008, 0.014))

    def skin(hertz: float, ring: float, click: float) -> Stroke:
        drum = Membrane(hertz, hertz * 1.25, 0.02, ring, click, 0.0, 0.15)
        return lambda velocity, own: membrane(drum, velocity, own)

    return {
        gm.SHAKER: lambda _, own: shaker(own, low, rise, ring),
        gm.CABASA: lambda _, own: shaker(own, low * 1.2, rise * 0.5, ring * 0.7),
        gm.TAMBOURINE: lambda velocity, own: metal(jingle, velocity, own),
        gm.COWBELL: lambda _, own: resonances(
            ((bell, 1, 0.25), (bell * 1.48, 0.8, 0.2), (bell * 3.1, 0.2, 0.08)), 0.2, own
        ),
        gm.CLAVES: lambda _, own: resonances(((claves, 1, 0.09), (claves * 2.7, 0.15, 0.03)), 0.15, own),
        gm.WOODBLOCK: lambda _, own: resonances(((wood, 1, 0.1), (wood * 2.4, 0.4, 0.05)), 0.3, own),
        gm.MUTED_CONGA: skin(conga * 1.1, 0.09, 0.5),
        gm.OPEN_CONGA: skin(conga, 0.35, 0.3),
        gm.LOW_CONGA: skin(conga * 0.75, 0.45, 0.25),
        gm.HIGH_BONGO: skin(bongo, 0.2, 0.4),
        gm.LOW_BONGO: skin(bongo * 0.72, 0.28, 0.35),
        gm.CLAP: lambda _, own: clap(own, center, spread, 0.2),
    }


def _acoustic(kit: str, rng: np.random.Generator) -> dict[int, Stroke]:
    big = {"rock": 1.0, "garage": 0.7, "studio": 0.6, "dry": 0.25, "jazz": 0.1}[kit]
    kick_ring = float(rng.uniform(0.18, 0.3) + 0.2 * big)
    low = float(rng.uniform(46, 62)) + (12 if kit == "jazz" else 0)
    kick = Membrane(
        low,
        low * float(rng.uniform(2.0, 4.5)),
        float(rng.uniform(0.012, 0.03)),
        kick_ring,
        float(rng.uniform(0.15, 0.5) * (0.4 if kit == "jazz" else 1)),
        float(rng.uniform(0, 1.5) * big),
        0.05,
    )
    head = Snare(
        tone=float(rng.uniform(165, 255)),
        ratio=float(rng.uniform(1.5, 1.9)),
        ring=float(rng.uniform(0.08, 0.16) + 0.12 * big),
        wires=float(rng.uniform(0.7, 1.5)),
        wire_ring=float(rng.uniform(0.16, 0.26) + 0.18 * big),
        low=float(rng.uniform(700, 1800)),
        high=float(rng.uniform(6500, 12_000)),
    )
    hat_low, rough = float(rng.uniform(3200, 5800)), float(rng.uniform(0.6, 1.2))
    closed = Metal(hat_low, float(rng.uniform(0.07, 0.16)), rough, strike=0.6)
    opened = Metal(hat_low, float(rng.uniform(0.5, 1.1)), rough, strike=0.5)
    pedal = Metal(hat_low * 0.9, 0.07, rough, strike=0.1)
    crash = Metal(float(rng.uniform(900, 2200)), float(rng.uniform(1.6, 2.4)), 0.8, strike=0.4, swell=0.02)
    other = Metal(float(rng.uniform(1400, 2800)), float(rng.uniform(1.3, 2.2)), 0.8, strike=0.4, swell=0.02)
    ride = Metal(float(rng.uniform(2200, 3800)), float(rng.uniform(0.9, 1.8)), 1.2, float(rng.uniform(0.05, 0.25)), 1.2)
    bell = Metal(float(rng.uniform(800, 1100)), 1.4, 1.0, 1.2, 0.8)
    china = Metal(float(rng.uniform(700, 1400)), 1.2, 1.4, strike=0.5)
    tom, tom_ring = float(rng.uniform(75, 100)), float(rng.uniform(0.3, 0.5) + 0.3 * big)
    rim, center = float(rng.uniform(380, 520)), float(rng.uniform(950, 1300))

    def skin(drum: Membrane) -> Stroke:
        return lambda velocity, own: membrane(drum, velocity, own)

    def cymbal(plate: Metal) -> Stroke:
        return lambda velocity, own: metal(plate, velocity, own)

    def tuned(ratio: float) -> Stroke:
        return skin(Membrane(tom * ratio, tom * ratio * 1.6, 0.04, tom_ring / ratio**0.5, 0.3, 0.3 * big, 0.2))

    return {
        gm.KICK: skin(kick),
        gm.SNARE: lambda velocity, own: snare(head, velocity, own),
        gm.SIDE_STICK: lambda _, own: side_stick(rim, own),
        gm.CLAP: lambda _, own: clap(own, center, 0.011, 0.2),
        gm.CLOSED_HAT: cymbal(closed),
        gm.PEDAL_HAT: cymbal(pedal),
        gm.OPEN_HAT: cymbal(opened),
        gm.LOW_TOM: tuned(1.0),
        gm.MIDDLE_TOM: tuned(1.4),
        gm.HIGH_TOM: tuned(1.9),
        gm.CRASH: cymbal(crash),
        gm.SECOND_CRASH: cymbal(other),
        gm.SPLASH: cymbal(Metal(3000, 0.6, 0.8, strike=0.4)),
        gm.RIDE: cymbal(ride),
        gm.RIDE_BELL: cymbal(bell),
        gm.CHINA: cymbal(china),
    }


def _electronic(kit: str, rng: np.random.Generator) -> dict[int, Stroke]:
    sounds = _acoustic("studio" if kit == "eighties" else "dry", rng)
    low = float(rng.uniform(42, 58))
    boom = float(pick(rng, (0.22, 0.32, 0.5, 0.9)))
    kick = Membrane(
        low,
        low * float(rng.uniform(3, 7)),
        float(rng.uniform(0.015, 0.05)),
        boom,
        float(rng.uniform(0.05, 0.4)),
        float(rng.uniform(0, 3)),
    )
    gate = float(rng.uniform(0.13, 0.22)) if kit == "eighties" and chance(rng, 0.6) else 0.0
    head = Snare(
        float(rng.uniform(170, 240)),
        1.8,
        float(rng.uniform(0.08, 0.2)),
        float(rng.uniform(0.8, 1.8)),
        float(rng.uniform(0.12, 0.3)),
        float(rng.uniform(600, 2500)),
        12_000,
        gate,
    )
    scale, high = float(rng.uniform(0.8, 1.5)), float(rng.uniform(6000, 8500))
    closed, opened = float(rng.uniform(0.05, 0.11)), float(rng.uniform(0.3, 0.6))
    center, spread, tail = (
        float(rng.uniform(850, 1500)),
        float(rng.uniform(0.007, 0.013)),
        float(rng.uniform(0.12, 0.35)),
    )
    tom = float(rng.uniform(70, 110))

    def tuned(ratio: float) -> Stroke:
        drum = Membrane(tom * ratio, tom * ratio * 1.8, 0.08, 0.5, 0.1)
        return lambda velocity, own: membrane(drum, velocity, own)

    sounds |= {
        gm.KICK: lambda velocity, own: membrane(kick, velocity, own),
        gm.SNARE: lambda velocity, own: snare(head, velocity, own),
        gm.CLAP: lambda _, own: clap(own, center, spread, tail),
        gm.LOW_TOM: tuned(1.0),
        gm.MIDDLE_TOM: tuned(1.4),
        gm.HIGH_TOM: tuned(1.9),
    }
    if chance(rng, 0.7):
        sounds |= {
            gm.CLOSED_HAT: lambda _, own: square_hat(scale, closed, high, own),
            gm.PEDAL_HAT: lambda _, own: square_hat(scale, closed * 0.7, high, own),
            gm.OPEN_HAT: lambda _, own: square_hat(scale, opened, high, own),
        }
    return sounds
