"""Drums by synthesis: skins, plates, wires and noise; and kits, which give each General MIDI key a sound."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from stage_cli.core.band import instruments as gm
from stage_cli.core.band.instruments import SAMPLE_RATE
from stage_cli.core.band.randomness import chance, pick
from stage_cli.core.band.synth import attack, decay, noise, seconds_to_frames, shaped_noise, time_axis


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
