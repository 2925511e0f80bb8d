"""The timbre of every instrument in a song: a family of sounds, with numbers drawn anew for each song."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from stage_cli.core.band import synth, synth_keys
from stage_cli.core.band.randomness import pick
from stage_cli.core.band.synth_keys import PluckedString, pluck

Voice = Callable[[int, float, float, np.random.Generator], np.ndarray]
"""(pitch, velocity, seconds, generator) → `[frames]` float32, any level."""


def build_voice(instrument: str, rng: np.random.Generator) -> Voice:
    """Return what plays an instrument's notes in one song.

    Args:
        instrument: a name of `INSTRUMENTS`, drums and percussion excepted.
        rng: where the song's own timbre comes from.
    """
    for build in (_string, _keyboard, _synth, _tone):
        voice = build(instrument, rng)
        if voice is not None:
            return voice
    raise ValueError(f"no timbre for {instrument!r}")


# Of each string: lowest and highest brightness, position, ring, damping, click and fundamental (see `PluckedString`).
_STRINGS: dict[str, tuple[tuple[float, float], ...]] = {
    "finger bass": ((0.2, 0.4), (0.15, 0.3), (1.2, 2.2), (0.6, 0.95), (0.02, 0.02), (0.4, 0.9)),
    "pick bass": ((0.5, 0.85), (0.08, 0.18), (1.2, 2.2), (0.35, 0.7), (0.06, 0.06), (0.2, 0.6)),
    "fretless bass": ((0.2, 0.35), (0.2, 0.3), (1.6, 2.6), (0.8, 0.8), (0.01, 0.01), (0.7, 1.2)),
    "upright bass": ((0.15, 0.3), (0.2, 0.35), (0.5, 1.0), (0.95, 0.95), (0.08, 0.08), (0.6, 1.1)),
    "acoustic guitar": ((0.5, 0.9), (0.1, 0.25), (1.5, 2.8), (0.25, 0.55), (0.08, 0.08), (0, 0)),
    "clean guitar": ((0.4, 0.75), (0.08, 0.3), (1.8, 3.2), (0.3, 0.7), (0.03, 0.03), (0, 0)),
    "muted guitar": ((0.4, 0.7), (0.1, 0.2), (0.25, 0.5), (0.5, 0.8), (0.05, 0.05), (0, 0)),
    "crunch guitar": ((0.6, 0.9), (0.08, 0.2), (2.5, 4.0), (0.3, 0.6), (0.05, 0.05), (0, 0)),
    "distorted guitar": ((0.7, 1.0), (0.06, 0.16), (3.0, 5.0), (0.3, 0.6), (0.06, 0.06), (0, 0)),
    "banjo": ((0.8, 1.0), (0.06, 0.12), (0.6, 0.9), (0.25, 0.25), (0.1, 0.1), (0, 0)),
    "mandolin": ((0.7, 0.95), (0.08, 0.15), (0.7, 1.1), (0.35, 0.35), (0.08, 0.08), (0, 0)),
    "harp": ((0.3, 0.55), (0.3, 0.5), (2.0, 3.5), (0.4, 0.4), (0.02, 0.02), (0, 0)),
    "clavinet": ((0.85, 1.0), (0.04, 0.1), (0.8, 1.4), (0.25, 0.25), (0.08, 0.08), (0, 0)),
}
# Hz (lowest and highest) and level of the resonances of hollow bodies.
_WOOD: dict[str, tuple[tuple[float, float, float], ...]] = {
    "upright bass": ((80, 110, 1.2), (180, 220, 0.5)),
    "acoustic guitar": ((95, 125, 1.0), (190, 240, 0.8), (380, 480, 0.4)),
    "banjo": ((500, 700, 1.0),),
    "mandolin": ((250, 350, 0.8),),
    "harp": ((180, 220, 0.6),),
}


def _string(instrument: str, rng: np.random.Generator) -> Voice | None:
    if instrument not in _STRINGS:
        return None
    drawn = [float(rng.uniform(low, high)) for low, high in _STRINGS[instrument]]
    brightness, position, ring, damping, click, fundamental = drawn
    body = tuple((float(rng.uniform(low, high)), level) for low, high, level in _WOOD.get(instrument, ()))
    string = PluckedString(brightness, position, ring, damping, body, click, fundamental)
    return lambda pitch, velocity, seconds, own: pluck(string, pitch, velocity, seconds, own)


def _keyboard(instrument: str, rng: np.random.Generator) -> Voice | None:
    def between(low: float, high: float) -> float:
        return float(rng.uniform(low, high))

    if instrument == "grand piano":
        piano = synth_keys.Piano(between(1200, 3200), between(3.5, 7.0), between(0.8, 4.0), between(0.05, 0.3))
        return lambda pitch, velocity, seconds, own: synth_keys.strike_piano(piano, pitch, velocity, seconds, own)
    if instrument == "electric piano":
        tines = synth_keys.ElectricPiano(
            between(0.6, 2.2), between(0.4, 2.5), float(pick(rng, (7.0, 10.0, 14.0, 3.0))), between(2.5, 5.0)
        )
        return lambda pitch, velocity, seconds, _: synth_keys.strike_electric_piano(tines, pitch, velocity, seconds)
    if instrument == "organ":
        drawbars = pick(
            rng,
            (
                (8, 8, 8, 0, 0, 0, 0, 0, 0),
                (8, 0, 8, 8, 0, 0, 0, 0, 4),
                (8, 3, 8, 0, 0, 0, 0, 0, 6),
                (8, 8, 8, 8, 4, 4, 2, 2, 4),
                (0, 0, 8, 6, 4, 2, 0, 0, 0),
            ),
        )
        organ = synth_keys.Organ(
            tuple(level / 8 * between(0.7, 1) for level in drawbars),
            float(pick(rng, (0.8, 6.2, 6.8))),
            between(0.1, 0.8),
            between(0, 0.2),
        )
        return lambda pitch, _, seconds, own: synth_keys.press_organ(organ, pitch, seconds, own)
    if instrument == "accordion":
        reeds = synth_keys.Reeds(between(6, 22), between(2000, 5000))
        return lambda pitch, _, seconds, __: synth_keys.press_accordion(reeds, pitch, seconds)
    if instrument == "mallets":
        modes = pick(
            rng,
            (
                ((1, 1), (4, 0.4), (10, 0.1)),
                ((1, 1), (3.9, 0.25), (9.2, 0.06)),
                ((1, 1), (2.76, 0.5), (5.4, 0.3)),
                ((1, 1), (2, 0.6), (3, 0.3), (4.2, 0.3)),
            ),
        )
        bars = synth_keys.StruckBars(modes, between(1.0, 4.5), float(pick(rng, (0, 0, 4.5, 6))))
        return lambda pitch, velocity, seconds, own: synth_keys.strike_bars(bars, pitch, velocity, seconds, own)
    return None


def _synth(instrument: str, rng: np.random.Generator) -> Voice | None:
    def between(low: float, high: float) -> float:
        return float(rng.uniform(low, high))

    wave = pick(rng, ("saw", "saw", "square", "pulse"))
    if instrument == "sub bass":
        bass = synth.SubBass(between(0.9, 2.5), between(0, 8), between(0.01, 0.05), between(0.2, 3.0))
        return lambda pitch, _, seconds, __: synth.boom(bass, pitch, seconds)
    if instrument == "synth bass":
        patch = synth.Patch(
            wave,
            int(pick(rng, (1, 1, 2, 3))),
            between(5, 25),
            between(120, 500),
            between(1, 4),
            between(0.15, 0.8),
            0.003,
            float(pick(rng, (0, 0, 0.8))),
            between(0, 0.7),
        )
    elif instrument == "synth pluck":
        patch = synth.Patch(
            wave,
            int(pick(rng, (1, 2, 3))),
            between(5, 20),
            between(200, 700),
            between(2, 5),
            between(0.15, 0.6),
            0.003,
            between(0.4, 1.6),
        )
    elif instrument == "synth stab":
        patch = synth.Patch(
            "saw",
            int(pick(rng, (2, 3, 5))),
            between(10, 35),
            between(400, 1500),
            between(1, 3),
            between(0.3, 1.0),
            0.005,
            0,
        )
    elif instrument == "synth lead":
        patch = synth.Patch(
            wave,
            int(pick(rng, (1, 2, 3))),
            between(4, 25),
            between(500, 2000),
            between(0.5, 2.5),
            between(0.3, 1.5),
            between(0.005, 0.03),
            0,
            between(0, 0.3),
        )
    elif instrument == "pad":
        patch = synth.Patch(
            wave,
            3,
            between(10, 30),
            between(200, 900),
            between(1, 2.5),
            0,
            between(0.15, 0.8),
            0,
            0,
            between(0.05, 0.4),
        )
    else:
        return None
    return lambda pitch, velocity, seconds, own: synth.play_patch(patch, pitch, velocity, seconds, own)


_BODIES: dict[str, tuple[tuple[tuple[float, float, float], ...], ...]] = {
    "strings": (((300, 0, 0.4), (550, -2, 0.4), (1100, -6, 0.5), (2800, -12, 0.5)),),
    "violin": (((280, 0, 0.2), (480, 2, 0.25), (1100, -4, 0.3), (2600, -4, 0.4)),),
    "cello": (((110, 0, 0.3), (220, 2, 0.3), (500, -3, 0.4), (1500, -8, 0.5)),),
    "saxophone": (
        ((520, 0, 0.5), (1150, -4, 0.4), (2300, -10, 0.4)),
        ((620, 0, 0.5), (1400, -3, 0.4), (2600, -8, 0.4)),
    ),
    "clarinet": (((500, 0, 0.7), (1500, -6, 0.5), (3400, -12, 0.4)),),
    "flute": (((700, 0, 0.8), (1500, -12, 0.6)),),
    "trumpet": (((1100, 0, 0.6), (2300, -6, 0.5)), ((1400, 2, 0.6), (3000, -3, 0.5))),
    "brass section": (
        ((500, 0, 0.7), (1200, -2, 0.6), (2400, -8, 0.5)),
        ((700, 0, 0.7), (1500, 0, 0.6), (2800, -5, 0.5)),
    ),
    "harmonica": (((700, 0, 0.5), (1800, 0, 0.4), (3200, -6, 0.4)), ((1000, 0, 0.5), (2100, -2, 0.4))),
}


def _tone(instrument: str, rng: np.random.Generator) -> Voice | None:
    def between(low: float, high: float) -> float:
        return float(rng.uniform(low, high))

    rate, delay = between(4.6, 6.4), between(0.1, 0.4)
    if instrument in ("male voice", "female voice", "choir"):
        size = between(0.94, 1.06) * (1.17 if instrument == "female voice" else 1.08 if instrument == "choir" else 1.0)
        sung = tuple(pick(rng, tuple(synth.VOWELS)) for _ in range(2)) if instrument == "choir" else tuple(synth.VOWELS)
        tone = synth.Tone(
            synth.vowels(sung, size),
            between(0.9, 1.5),
            1.0,
            between(0.03, 0.06),
            between(12, 55),
            rate,
            delay,
            between(0, 160),
            between(0.01, 0.06),
            4 if instrument == "choir" else 1,
            0.0 if instrument == "choir" else 0.5,
        )

        def sing(pitch: int, velocity: float, seconds: float, own: np.random.Generator) -> np.ndarray:
            colors = (int(own.integers(len(sung))), int(own.integers(len(sung))))
            return synth.sustain(tone, pitch, velocity, seconds, own, colors)

        return sing
    if instrument not in _BODIES:
        return None
    # slope, even harmonics, rise, vibrato, scoop, breath, players
    slope, odd, rise, vibrato, scoop, breath, players = {
        "strings": (1.0, 1.0, between(0.06, 0.25), 18, 0, 0.0, 4),
        "violin": (0.9, 1.0, between(0.04, 0.09), between(15, 40), between(0, 40), 0.0, 1),
        "cello": (1.0, 1.0, between(0.05, 0.1), between(12, 30), between(0, 40), 0.0, 1),
        "saxophone": (0.7, 0.9, between(0.02, 0.05), between(8, 30), between(20, 120), 0.05, 1),
        "clarinet": (0.8, 0.15, between(0.02, 0.05), between(0, 10), 0, 0.02, 1),
        "flute": (1.8, 0.7, between(0.03, 0.07), between(10, 30), 0, 0.1, 1),
        "trumpet": (0.6, 1.0, between(0.02, 0.04), between(5, 25), between(0, 40), 0.0, 1),
        "brass section": (0.6, 1.0, between(0.02, 0.05), 8, between(0, 50), 0.0, 3),
        "harmonica": (0.4, 0.8, between(0.03, 0.05), between(5, 30), between(20, 100), 0.04, 1),
    }[instrument]
    tone = synth.Tone(
        _BODIES[instrument], slope + between(-0.1, 0.2), odd, rise, vibrato, rate, delay, scoop, breath, players
    )
    return lambda pitch, velocity, seconds, own: synth.sustain(tone, pitch, velocity, seconds, own)
