"""Voices, winds and bowed strings: tones with vibrato, breath and a spectrum that moves."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from stage_cli.core.data.band.rendering.synth.oscillators import (
    attack,
    decay,
    frequency,
    harmonics_below_limit,
    read,
    running_phase,
    seconds_to_frames,
    shaped_noise,
    time_axis,
    wavetables,
)

# Hz and levels (dB) of the first formants; after Peterson & Barney (JASA 1952) and tables of sung vowels.
VOWELS: dict[str, tuple[tuple[float, float], ...]] = {
    "a": ((750, 0), (1200, -4), (2600, -18), (3300, -20)),
    "e": ((480, 0), (1900, -10), (2500, -15), (3400, -20)),
    "i": ((300, 0), (2250, -14), (3000, -16), (3500, -20)),
    "o": ((450, 0), (850, -7), (2600, -24), (3200, -24)),
    "u": ((330, 0), (720, -14), (2500, -30), (3200, -30)),
    "ae": ((680, 0), (1700, -7), (2500, -15), (3400, -20)),
}


@dataclass(frozen=True)
class Tone:
    """A sustained instrument.

    Attributes:
        formants: (Hz, dB, width relative to Hz) of its body, for each of two colours that notes move between.
        slope: of its source's spectrum: amplitudes fall as harmonic ** −slope.
        odd: level of even harmonics (a clarinet's is low).
        rise: seconds of the attack.
        vibrato: cents.
        vibrato_rate: Hz.
        vibrato_delay: seconds.
        scoop: cents below the note at which it begins.
        breath: level of noise.
        ensemble: players; more than one are slightly apart in pitch and time.
        consonants: probability that a note begins with a noise, as sung syllables do.
    """

    formants: tuple[tuple[tuple[float, float, float], ...], ...]
    slope: float
    odd: float = 1.0
    rise: float = 0.04
    vibrato: float = 20.0
    vibrato_rate: float = 5.3
    vibrato_delay: float = 0.25
    scoop: float = 0.0
    breath: float = 0.02
    ensemble: int = 1
    consonants: float = 0.0


def sustain(
    tone: Tone, pitch: int, velocity: float, seconds: float, rng: np.random.Generator, colors: tuple[int, int] = (0, 1)
) -> np.ndarray:
    """Return a held note, `[frames]` float32.

    Args:
        tone: the instrument.
        pitch: MIDI note.
        velocity: 0 to 1; brighter when louder.
        seconds: length.
        rng: of its small irregularities.
        colors: rows of `formants` that it begins and ends with.
    """
    hertz = frequency(pitch)
    frames = seconds_to_frames(seconds)
    harmonic = harmonics_below_limit(hertz, 80)
    source = harmonic ** -(tone.slope + 0.5 * (1 - velocity))
    source = np.where(harmonic % 2 == 0, source * tone.odd, source)
    rows = [source * _body(tone.formants[color % len(tone.formants)], hertz * harmonic) for color in colors]
    dull = rows[0] / (1 + (hertz * harmonic / 1200) ** 2)
    phases = rng.uniform(0, 6.28, len(harmonic)) if tone.ensemble > 1 else 0.3 * rng.normal(size=len(harmonic))
    tables = wavetables(np.stack([dull, *rows]), phases)
    time = time_axis(frames)
    move = np.minimum(time / max(seconds * 0.8, 0.1), 1.0)
    place = attack(frames, tone.rise * 1.5) * (1 + move)
    sound = np.zeros(frames, dtype=np.float32)
    for _ in range(tone.ensemble):
        off = float(rng.normal(0, 7)) if tone.ensemble > 1 else float(rng.normal(0, 4))
        rate = tone.vibrato_rate * float(rng.uniform(0.92, 1.08))
        depth = tone.vibrato * float(rng.uniform(0.6, 1.3)) * np.clip((time - tone.vibrato_delay) / 0.3, 0, 1)
        bend = depth * np.sin(2 * np.pi * rate * time + rng.uniform(0, 6.28) * (tone.ensemble > 1))
        bend += off - tone.scoop * np.exp(-time / 0.035)
        phase = running_phase((hertz * 2 ** (bend / 1200)).astype(np.float64), frames, float(rng.random()))
        sound += read(tables, phase, place)
    sound /= max(float(np.abs(sound).max()), 1e-9)
    if tone.breath:
        sound += tone.breath * shaped_noise(rng, frames, 800, 7000) * (0.4 + decay(frames, 0.3))
    swell = 1 - 0.25 * np.exp(-time / 0.3) if seconds > 0.5 else 1.0
    sound *= attack(frames, tone.rise) * swell
    if tone.consonants and rng.random() < tone.consonants:
        count = min(frames, seconds_to_frames(float(rng.uniform(0.03, 0.08))))
        low = float(rng.choice([1500, 2500, 4000]))
        sound[:count] += 0.12 * shaped_noise(rng, count, low, low * 2.5) * np.hanning(count).astype(np.float32)
    return sound


def vowels(names: tuple[str, ...], size: float) -> tuple[tuple[tuple[float, float, float], ...], ...]:
    """Return formants of vowels for `Tone`; `size` scales them (1 a man, 1.17 a woman)."""
    return tuple(tuple((hertz * size, level, 0.09) for hertz, level in VOWELS[name]) for name in names)


def _body(formants: tuple[tuple[float, float, float], ...], hertz: np.ndarray) -> np.ndarray:
    """Return the gain of a body at some frequencies: resonances on a low floor."""
    gain = np.full(len(hertz), 0.03)
    for center, level, width in formants:
        gain += 10 ** (level / 20) / (1 + ((hertz - center) / (center * width)) ** 2)
    return gain
