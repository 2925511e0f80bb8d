"""Synthetic drums: membranes as falling sines, wires and metal as shaped noise."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from stage_cli.core.data.band.instruments import SAMPLE_RATE
from stage_cli.core.data.band.rendering.synth.oscillators import (
    attack,
    decay,
    noise,
    seconds_to_frames,
    shaped_noise,
    time_axis,
)


@dataclass(frozen=True)
class Membrane:
    """A struck skin.

    Attributes:
        low: Hz at which it settles.
        high: Hz at which it begins.
        glide: seconds in which it falls (time constant).
        ring: seconds to −60 dB.
        click: level of the beater.
        drive: of a soft saturation; 0 is none.
        skin: level of noise.
    """

    low: float
    high: float
    glide: float
    ring: float
    click: float = 0.3
    drive: float = 0.0
    skin: float = 0.0


def membrane(skin: Membrane, velocity: float, rng: np.random.Generator) -> np.ndarray:
    """Return a kick, tom, conga or bongo."""
    frames = seconds_to_frames(min(skin.ring * 1.1 + 0.05, 2.5))
    time = time_axis(frames)
    high = skin.low + (skin.high - skin.low) * (0.6 + 0.4 * velocity)
    phase = skin.low * time + (high - skin.low) * skin.glide * (1 - np.exp(-time / skin.glide))
    body = np.sin(2 * np.pi * phase) * decay(frames, skin.ring) * attack(frames, 0.0008)
    if skin.skin:
        body += skin.skin * shaped_noise(rng, frames, 200, 3000) * decay(frames, skin.ring * 0.3) * 0.4
    count = min(frames, seconds_to_frames(0.02))
    click = shaped_noise(rng, count, 900, 3000 + 5000 * velocity) * decay(count, 0.02)
    body[:count] += skin.click * (0.3 + 0.7 * velocity) * click
    if skin.drive:
        body = np.tanh(body * (1 + skin.drive)) / np.tanh(1 + skin.drive)
    return body


@dataclass(frozen=True)
class Snare:
    """A snare drum: two modes of the skin, and wires.

    Attributes:
        tone: Hz of the lower mode.
        ratio: of the upper mode to it.
        ring: seconds to −60 dB of the skin.
        wires: level of the noise.
        wire_ring: seconds to −60 dB of the noise.
        low: Hz where the noise begins.
        high: Hz where it ends.
        gate: seconds after which the sound is cut, as in the eighties; 0 for none.
    """

    tone: float
    ratio: float
    ring: float
    wires: float
    wire_ring: float
    low: float
    high: float
    gate: float = 0.0


def snare(drum: Snare, velocity: float, rng: np.random.Generator) -> np.ndarray:
    """Return a snare stroke; a soft one has less of the skin's attack and darker wires."""
    frames = seconds_to_frames(max(drum.ring, drum.wire_ring, drum.gate) + 0.05)
    time = time_axis(frames)
    bend = 1 + 0.25 * velocity * np.exp(-time / 0.012)
    phase = np.cumsum(bend) / SAMPLE_RATE * drum.tone
    skin = np.sin(2 * np.pi * phase) + 0.6 * np.sin(2 * np.pi * phase * drum.ratio)
    skin *= decay(frames, drum.ring) * attack(frames, 0.0006)
    high = drum.high * (0.45 + 0.55 * velocity)
    wires = shaped_noise(rng, frames, drum.low, high)
    if drum.gate:
        shape = np.where(time < drum.gate, 1.0, np.exp(-(time - drum.gate) / 0.008)).astype(np.float32)
        wires *= shape * (0.4 + 0.6 * decay(frames, 0.08))
    else:
        wires *= 0.75 * decay(frames, drum.wire_ring) + 0.45 * decay(frames, drum.wire_ring * 0.25)
    count = min(frames, seconds_to_frames(0.006))
    sound = skin * (0.5 + 0.5 * velocity) + drum.wires * 0.45 * wires
    sound[:count] += 0.5 * velocity * shaped_noise(rng, count, 1500, 12_000) * decay(count, 0.006)
    return sound


def side_stick(tone: float, rng: np.random.Generator) -> np.ndarray:
    """Return a stroke of the stick on the rim."""
    frames = seconds_to_frames(0.12)
    time = time_axis(frames)
    sound = np.zeros(frames, dtype=np.float32)
    for ratio, level, ring in ((1.0, 0.6, 0.06), (3.4, 1.0, 0.045), (5.1, 0.4, 0.03)):
        sound += level * np.sin(2 * np.pi * tone * ratio * time) * decay(frames, ring)
    return sound + 0.4 * shaped_noise(rng, frames, 1500, 8000) * decay(frames, 0.015)


def clap(rng: np.random.Generator, center: float, spread: float, ring: float) -> np.ndarray:
    """Return hands that clap not quite together: bursts of band-limited noise."""
    frames = seconds_to_frames(ring + 0.1)
    sound = shaped_noise(rng, frames, center * 0.7, center * 2.2)
    envelope = np.zeros(frames, dtype=np.float32)
    for place in (0.0, spread, 2.1 * spread):
        start = seconds_to_frames(place) - 1
        envelope[start:] = np.maximum(envelope[start:], decay(frames - start, 0.035))
    start = seconds_to_frames(2.9 * spread)
    envelope[start:] = np.maximum(envelope[start:], 0.8 * decay(frames - start, ring))
    return sound * envelope


@dataclass(frozen=True)
class Metal:
    """A cymbal or hi-hat.

    Attributes:
        low: Hz where its sound begins.
        ring: seconds to −60 dB of the middle of its spectrum.
        roughness: how much single modes stand out, 0 to 2.
        bell: level of a few clear modes.
        strike: level of the stick.
        swell: seconds in which the high frequencies rise, as in a crash.
    """

    low: float
    ring: float
    roughness: float
    bell: float = 0.0
    strike: float = 0.5
    swell: float = 0.0


def metal(cymbal: Metal, velocity: float, rng: np.random.Generator) -> np.ndarray:
    """Return a cymbal: noise with many inharmonic modes, whose bands die away one after the other."""
    frames = seconds_to_frames(min(cymbal.ring * 1.05 + 0.02, 2.6))
    size = 1 << (frames - 1).bit_length()
    spectrum = np.fft.rfft(noise(rng, size)).astype(np.complex64)
    hertz = np.maximum(np.fft.rfftfreq(size, 1 / SAMPLE_RATE), 1.0)
    # Modes: a random gain for every few Hz.
    modes = rng.normal(0, cymbal.roughness, size=int(SAMPLE_RATE / 2 / 40) + 2)
    spectrum *= np.exp(modes[(hertz / 40).astype(int)])
    spectrum /= np.sqrt((1 + (cymbal.low / hertz) ** 6) * (1 + (hertz / (9000 + 6000 * velocity)) ** 4))
    below_2500, below_6000 = 1 / (1 + (hertz / 2500) ** 3), 1 / (1 + (hertz / 6000) ** 3)
    bands = ((below_2500, 1.3), (below_6000 - below_2500, 1.0), (1 - below_6000, 0.6))
    sound = np.zeros(frames, dtype=np.float32)
    for number, (share, length) in enumerate(bands):
        part = np.fft.irfft(spectrum * share)[:frames].astype(np.float32)
        envelope = decay(frames, cymbal.ring * length)
        if cymbal.swell and number > 0:
            envelope = envelope * (0.4 + 0.6 * attack(frames, cymbal.swell))
        sound += part * envelope
    sound /= max(float(np.abs(sound).max()), 1e-9)
    if cymbal.bell:
        time = time_axis(frames)
        for ratio in (1.0, 1.51, 2.37, 3.16):
            tone = cymbal.low * 0.8 * ratio * float(rng.uniform(0.99, 1.01))
            sound += cymbal.bell * 0.25 * np.sin(2 * np.pi * tone * time) * decay(frames, cymbal.ring * 0.6)
    count = min(frames, seconds_to_frames(0.01))
    sound[:count] += cymbal.strike * velocity * 0.4 * shaped_noise(rng, count, 3000, 14_000) * decay(count, 0.01)
    return sound * attack(frames, 0.0007)


def square_hat(scale: float, ring: float, low: float, rng: np.random.Generator) -> np.ndarray:
    """Return the hi-hat of a drum machine: six square waves behind a high-pass filter, some noise."""
    frames = seconds_to_frames(min(ring + 0.02, 1.2))
    time = time_axis(frames)
    sound = np.zeros(frames, dtype=np.float32)
    for hertz in (205.3, 304.4, 369.6, 522.7, 540.0, 800.0):
        sound += np.sign(np.sin(2 * np.pi * hertz * scale * time))
    size = 1 << (frames - 1).bit_length()
    spectrum = np.fft.rfft(sound + 1.5 * noise(rng, frames), size)
    axis = np.maximum(np.fft.rfftfreq(size, 1 / SAMPLE_RATE), 1.0)
    spectrum /= np.sqrt(1 + (low / axis) ** 8)
    return np.fft.irfft(spectrum)[:frames].astype(np.float32) * decay(frames, ring) * attack(frames, 0.0005)


def shaker(rng: np.random.Generator, low: float, rise: float, ring: float) -> np.ndarray:
    """Return a shaker's stroke: grains that rise and fall."""
    frames = seconds_to_frames(rise + ring)
    return shaped_noise(rng, frames, low, 13_000) * attack(frames, rise) * decay(frames, rise + ring)


def resonances(tones: tuple[tuple[float, float, float], ...], click: float, rng: np.random.Generator) -> np.ndarray:
    """Return struck wood or metal: (Hz, level, seconds to −60 dB) of each mode, and a click."""
    frames = seconds_to_frames(max(ring for _, _, ring in tones) + 0.02)
    time = time_axis(frames)
    sound = np.zeros(frames, dtype=np.float32)
    for hertz, level, ring in tones:
        sound += level * np.sin(2 * np.pi * hertz * time) * decay(frames, ring)
    return sound * attack(frames, 0.0006) + click * shaped_noise(rng, frames, 1500, 10_000) * decay(frames, 0.012)
