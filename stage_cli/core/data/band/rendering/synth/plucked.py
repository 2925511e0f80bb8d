"""Plucked strings after Karplus and Strong: guitars, basses, harps, banjos."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from stage_cli.core.data.band.instruments import SAMPLE_RATE
from stage_cli.core.data.band.rendering.synth.oscillators import (
    attack,
    decay,
    frequency,
    seconds_to_frames,
    shaped_noise,
    time_axis,
)


@dataclass(frozen=True)
class PluckedString:
    """How a string is made and plucked.

    Attributes:
        brightness: of the pluck, 0 (thumb) to 1 (plectrum).
        position: where it is plucked, as a share of its length.
        ring: seconds to −60 dB at 220 Hz; low strings ring longer.
        damping: of high frequencies in the string, 0 to 1.
        body: (Hz, level) of the resonances of a hollow body.
        click: level of the plectrum's noise.
        fundamental: level of a sine that strengthens the lowest harmonic (basses).
    """

    brightness: float
    position: float
    ring: float
    damping: float
    body: tuple[tuple[float, float], ...] = ()
    click: float = 0.05
    fundamental: float = 0.0


def pluck(string: PluckedString, pitch: int, velocity: float, seconds: float, rng: np.random.Generator) -> np.ndarray:
    """Return a plucked string, `[frames]` float32, for `seconds` at most.

    A burst of one period goes round a loop with a two-point low-pass filter (Karplus & Strong, CMJ 1983), a whole
    period at a time; the loop is a whole number of frames, and reading it at another speed tunes it.
    """
    hertz = frequency(pitch)
    blend = 0.5 * string.damping  # the filter's delay in frames, too
    period = max(8, int(SAMPLE_RATE / hertz - blend))
    speed = hertz * (period + blend) / SAMPLE_RATE
    ring = string.ring * (220 / hertz) ** 0.6
    frames = seconds_to_frames(min(seconds, ring * 1.1 + 0.1))
    loop_frames = int(frames * speed) + period + 2
    gain = 10 ** (-3 * period / SAMPLE_RATE / max(ring, 0.02))
    wave = np.empty(period + 1 + loop_frames, dtype=np.float32)
    wave[: period + 1] = _burst(string, period, velocity, rng)
    feed, other = np.float32(gain * (1 - blend)), np.float32(gain * blend)
    for start in range(period + 1, len(wave), period):
        stop = min(start + period, len(wave))
        count = stop - start
        now = wave[start - period : start - period + count]
        before = wave[start - period - 1 : start - period - 1 + count]
        np.multiply(now, feed, out=wave[start:stop])
        wave[start:stop] += other * before
    sound = np.interp(np.arange(frames) * speed, np.arange(len(wave) - 1), wave[1:]).astype(np.float32)
    if string.fundamental:
        tone = np.sin(2 * np.pi * hertz * time_axis(frames)) * decay(frames, ring * 0.9)
        sound = sound / max(float(np.abs(sound).max()), 1e-9) + string.fundamental * tone
    if string.body:
        sound = _through_body(sound, string.body)
    count = min(frames, seconds_to_frames(0.012))
    sound[:count] += string.click * velocity * shaped_noise(rng, count, 1200, 9000) * decay(count, 0.012)
    return sound * attack(frames, 0.001)


def _burst(string: PluckedString, period: int, velocity: float, rng: np.random.Generator) -> np.ndarray:
    """Return the first period: noise, dark if the pluck is soft, without harmonics that rest where it is plucked."""
    spectrum = np.fft.rfft(rng.standard_normal(period))
    harmonic = np.arange(len(spectrum))
    # Random phases, but the even level of an ideal pluck: no two notes have quite another timbre.
    spectrum = np.exp(1j * np.angle(spectrum))
    rolloff = 6 + 60 * (string.brightness * (0.5 + 0.5 * velocity)) ** 2
    spectrum *= np.abs(np.sin(np.pi * harmonic * string.position)) + 0.05
    spectrum /= (1 + (harmonic / rolloff) ** 2) * np.sqrt(np.maximum(harmonic, 1))
    spectrum[0] = 0
    burst = np.fft.irfft(spectrum, period)
    burst = burst / np.abs(burst).max()
    return np.concatenate([burst[-1:], burst]).astype(np.float32)


def _through_body(sound: np.ndarray, body: tuple[tuple[float, float], ...]) -> np.ndarray:
    """Return a sound with resonances added: each a broad peak in the spectrum."""
    size = 1 << (len(sound) - 1).bit_length()
    hertz = np.fft.rfftfreq(size, 1 / SAMPLE_RATE)
    gain = np.full(len(hertz), 0.6)
    for center, level in body:
        gain += level / (1 + ((hertz - center) / (0.25 * center)) ** 2)
    return np.fft.irfft(np.fft.rfft(sound, size) * gain)[: len(sound)].astype(np.float32)
