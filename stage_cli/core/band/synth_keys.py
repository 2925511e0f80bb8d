"""Strings that are plucked, and keyboards: piano, electric piano, organ, accordion, mallets."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from stage_cli.core.band.instruments import SAMPLE_RATE
from stage_cli.core.band.synth import (
    attack,
    decay,
    frequency,
    harmonics_below_limit,
    low_pass_spectra,
    read,
    running_phase,
    seconds_to_frames,
    shaped_noise,
    time_axis,
    wavetables,
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


@dataclass(frozen=True)
class Piano:
    """Brightness (Hz of its hammers' low pass), seconds of ring at middle C, cents between a note's strings."""

    brightness: float
    ring: float
    detune: float
    hammer: float


def strike_piano(piano: Piano, pitch: int, velocity: float, seconds: float, rng: np.random.Generator) -> np.ndarray:
    """Return a piano's note: two strings slightly apart, high harmonics gone first, a hammer's knock."""
    hertz = frequency(pitch)
    ring = piano.ring * 2 ** ((60 - pitch) / 18)
    frames = seconds_to_frames(min(seconds, ring))
    harmonic = harmonics_below_limit(hertz, 40)
    amplitudes = np.abs(np.sin(np.pi * harmonic / 8.3)) / harmonic**1.1
    cutoffs = piano.brightness * (0.35 + velocity) * np.array([0.25, 0.5, 1.0, 2.0])
    tables = wavetables(low_pass_spectra(amplitudes, hertz, cutoffs), rng.uniform(0, 6.28, len(harmonic)))
    place = 3 * decay(frames, ring * 0.7)
    apart = 2 ** (piano.detune / 2400)
    sound = read(tables, running_phase(hertz * apart, frames), place)
    sound += read(tables, running_phase(hertz / apart, frames, 0.13), place)
    envelope = 0.65 * decay(frames, ring * 0.35) + 0.35 * decay(frames, ring * 1.4)
    count = min(frames, seconds_to_frames(0.03))
    sound *= envelope * attack(frames, 0.0015)
    sound[:count] += piano.hammer * velocity * shaped_noise(rng, count, 150, 2500) * decay(count, 0.03)
    return sound


@dataclass(frozen=True)
class ElectricPiano:
    """Tines after Chowning: index of the bell and of the growl, ratio of the bell's modulator, seconds of ring."""

    bell: float
    growl: float
    ratio: float
    ring: float


def strike_electric_piano(piano: ElectricPiano, pitch: int, velocity: float, seconds: float) -> np.ndarray:
    """Return an FM electric piano's note: two pairs of carrier and modulator."""
    hertz = frequency(pitch)
    ring = piano.ring * 2 ** ((60 - pitch) / 24)
    frames = seconds_to_frames(min(seconds, ring))
    turn = (2 * np.pi * running_phase(hertz, frames)).astype(np.float32)
    ratio = piano.ratio if hertz * piano.ratio < 9000 else 4.0
    bell = np.sin(turn + piano.bell * velocity * decay(frames, ring * 0.15) * np.sin(turn * ratio))
    body = np.sin(turn + piano.growl * velocity * decay(frames, ring * 0.6) * np.sin(turn))
    return (0.35 * bell + 0.65 * body) * decay(frames, ring) * attack(frames, 0.002)


@dataclass(frozen=True)
class Organ:
    """Drawbars (level of each of nine), vibrato or Leslie in Hz and its depth (relative), level of the key's click."""

    drawbars: tuple[float, ...]
    rotation: float
    depth: float
    click: float


_DRAWBAR_HARMONICS = (0.5, 1.5, 1, 2, 3, 4, 5, 6, 8)


def press_organ(organ: Organ, pitch: int, seconds: float, rng: np.random.Generator) -> np.ndarray:
    """Return a tonewheel organ's note: sines at the drawbars' harmonics, turned by a rotating speaker."""
    hertz = frequency(pitch)
    frames = seconds_to_frames(seconds)
    spectrum = np.zeros((1, 16))
    for level, harmonic in zip(organ.drawbars, _DRAWBAR_HARMONICS, strict=True):
        while hertz * harmonic > 6000:  # wheels end there, and the drawbar folds back
            harmonic /= 2
        spectrum[0, max(0, round(2 * harmonic) - 1)] += level
    time = time_axis(frames)
    wobble = np.sin(2 * np.pi * organ.rotation * time)
    phase = running_phase(hertz / 2, frames) - organ.depth * 0.002 * hertz / 2 * wobble
    sound = read(wavetables(spectrum), phase) * (1 + 0.25 * organ.depth * wobble)
    count = min(frames, seconds_to_frames(0.006))
    sound[:count] += organ.click * shaped_noise(rng, count, 1000, 6000) * decay(count, 0.006)
    return sound * attack(frames, 0.004)


@dataclass(frozen=True)
class Reeds:
    """An accordion: cents between its two ranks, and its brightness (Hz)."""

    detune: float
    brightness: float


def press_accordion(reeds: Reeds, pitch: int, seconds: float) -> np.ndarray:
    """Return an accordion's note: two rich reeds that beat."""
    hertz = frequency(pitch)
    frames = seconds_to_frames(seconds)
    harmonic = harmonics_below_limit(hertz, 50)
    table = wavetables(low_pass_spectra(1 / harmonic**0.8, hertz, np.array([reeds.brightness])))
    apart = 2 ** (reeds.detune / 1200)
    sound = read(table, running_phase(hertz, frames)) + read(table, running_phase(hertz * apart, frames, 0.4))
    return sound * attack(frames, 0.03)


@dataclass(frozen=True)
class StruckBars:
    """Struck bars: ratio and level of each mode, seconds of ring at middle C, Hz of a vibraphone's motor."""

    modes: tuple[tuple[float, float], ...]
    ring: float
    motor: float


def strike_bars(bars: StruckBars, pitch: int, velocity: float, seconds: float, rng: np.random.Generator) -> np.ndarray:
    """Return a note of a vibraphone, marimba, glockenspiel or bell."""
    hertz = frequency(pitch)
    ring = bars.ring * 2 ** ((60 - pitch) / 20)
    frames = seconds_to_frames(min(seconds, ring))
    time = time_axis(frames)
    sound = np.zeros(frames, dtype=np.float32)
    for ratio, level in bars.modes:
        if hertz * ratio < 16_000:
            sound += (
                level
                * (0.5 + 0.5 * velocity) ** ratio**0.5
                * np.sin(2 * np.pi * hertz * ratio * time)
                * decay(frames, ring / ratio**0.7)
            )
    if bars.motor:
        sound *= 1 + 0.3 * np.sin(2 * np.pi * bars.motor * time)
    count = min(frames, seconds_to_frames(0.01))
    sound[:count] += 0.1 * velocity * shaped_noise(rng, count, 800, 7000) * decay(count, 0.01)
    return sound * attack(frames, 0.001)
