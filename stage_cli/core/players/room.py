"""The room that a kit stands in, and the bus that it is mixed on: both over a stream, in blocks of one size."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

BLOCK = 4096
"""Frames that the sampler makes at a time."""

_CONTROL = 64  # frames for which the compressor has one gain
_KNEE = 0.7  # full scale; below it the limiter changes nothing


@dataclass(frozen=True)
class RoomConfig:
    """A small room.

    Attributes:
        seconds: in which its sound falls by 60 dB.
        size: metres between its walls; decides when the first reflections arrive.
        brightness: Hz above which walls and air swallow the sound.
        level: dB of all that the room adds, beside what each voice sends to it.
    """

    seconds: float = 0.35
    size: float = 5.0
    brightness: float = 6000.0
    level: float = 0.0

    def __post_init__(self) -> None:
        if not (0.05 <= self.seconds <= 3 and 1 <= self.size <= 40 and 200 <= self.brightness <= 20_000):
            raise ValueError(
                f"a room has 0.05 to 3 seconds, a size of 1 to 40 m, a brightness of 200 to 20000 Hz: {self}"
            )
        if not -60 <= self.level <= 20:
            raise ValueError(f"a room's level lies between -60 and 20 dB: {self}")


@dataclass(frozen=True)
class BusConfig:
    """A gentle compressor for the whole kit.

    Attributes:
        threshold: dBFS of the mean square over the attack, above which it works.
        ratio: of decibels in to decibels out above the threshold; 1 switches it off.
        attack: seconds.
        release: seconds.
        makeup: dB added afterwards.
    """

    threshold: float = -20.0
    ratio: float = 2.0
    attack: float = 0.012
    release: float = 0.16
    makeup: float = 0.0

    def __post_init__(self) -> None:
        if not (-60 <= self.threshold <= 0 and 1 <= self.ratio <= 20 and -40 <= self.makeup <= 40):
            raise ValueError(
                f"a bus has a threshold of -60 to 0 dB, a ratio of 1 to 20, a makeup of -40 to 40 dB: {self}"
            )
        if not (0.001 <= self.attack <= 0.5 and 0.01 <= self.release <= 5):
            raise ValueError(f"a bus has an attack of 0.001 to 0.5 s and a release of 0.01 to 5 s: {self}")


def impulse_response(room: RoomConfig, sample_rate: int) -> np.ndarray:
    """Return what a click in the middle of the room sounds like from two microphones: `[frames, 2]` float32, energy 1.

    The six walls' first reflections and those that meet two or three walls come as single taps; the rest is noise that
    dies away, its high frequencies sooner. The same room always has the same noise.
    """
    rng = np.random.default_rng(5)
    frames = round(room.seconds * sample_rate)
    time = np.arange(frames) / sample_rate
    response = np.zeros((frames, 2))
    # Paths grow from the distance to the nearest wall on; energy falls with their square.
    first = room.size / 2 / 343
    for order, count in ((1, 6), (2, 12), (3, 16)):
        for _ in range(count):
            path = first * (order * 2 - 1 + rng.uniform(-0.6, 0.9))
            side = rng.uniform(-0.8, 0.8)
            level = 0.75**order * first / path * rng.choice((-1, 1))
            for channel, gain in enumerate((math.sqrt((1 - side) / 2), math.sqrt((1 + side) / 2))):
                place = round((path + channel * side * 3e-4) * sample_rate)
                if place < frames:
                    response[place, channel] += level * gain
    noise = rng.standard_normal((frames, 2)) * (1 - np.exp(-time / (2 * first)))[:, None]
    hertz = np.fft.rfftfreq(2 * frames, 1 / sample_rate)
    tail = np.zeros((frames, 2))
    edges = (0.0, room.brightness / 8, room.brightness / 2, math.inf)
    for band, share in enumerate((1.0, 0.8, 0.5)):
        inside = ((hertz >= edges[band]) & (hertz < edges[band + 1])).astype(float)
        part = np.fft.irfft(np.fft.rfft(noise, 2 * frames, axis=0) * inside[:, None], axis=0)[:frames]
        tail += part * np.exp(-6.9 * time / (room.seconds * share))[:, None]
    response += 0.5 * tail * np.sqrt((response**2).sum() / max((tail**2).sum(), 1e-12))
    # Walls swallow highs and a close microphone's rumble is no room.
    spectrum = np.fft.rfft(response, 2 * frames, axis=0)
    spectrum *= (1 / np.sqrt(1 + (hertz / room.brightness) ** 2) * (hertz / np.hypot(hertz, 90)))[:, None]
    response = np.fft.irfft(spectrum, axis=0)[:frames]
    response *= np.minimum(1, (frames - np.arange(frames)) / (0.2 * frames))[:, None]
    response /= math.sqrt((response**2).sum() / 2)
    response *= 10 ** (room.level / 20)
    response[np.abs(response) < 1e-7] = 0
    return response.astype(np.float32)


class Room:
    """Convolve a mono stream with a room, block by block, in spectra of two blocks (uniform partitions).

    Args:
        response: `[frames, 2]` as `impulse_response` returns it.
    """

    def __init__(self, response: np.ndarray) -> None:
        parts = -(-len(response) // BLOCK)
        padded = np.zeros((parts * BLOCK, 2), dtype=np.float32)
        padded[: len(response)] = response
        blocks = padded.reshape(parts, BLOCK, 2).transpose(2, 0, 1)
        self._response = np.fft.rfft(blocks, 2 * BLOCK).astype(np.complex64)  # [2, parts, bins]
        self._spectra = np.zeros((parts, BLOCK + 1), dtype=np.complex64)  # of the last blocks, a ring
        self._newest = 0
        self._pair = np.zeros(2 * BLOCK, dtype=np.float32)  # the block before, and this one
        self._product = np.empty(BLOCK + 1, dtype=np.complex64)
        self._sums = np.empty((2, BLOCK + 1), dtype=np.complex64)
        self._silent = parts + 1  # blocks since the last sound

    def process(self, block: np.ndarray) -> np.ndarray | None:
        """Take a block `[BLOCK]` float32, return the room's answer `[2, BLOCK]`; None where it is silent."""
        parts = len(self._spectra)
        self._silent = 0 if block.any() else self._silent + 1
        if self._silent > parts:
            return None
        self._pair[:BLOCK] = self._pair[BLOCK:]
        self._pair[BLOCK:] = block
        self._newest = (self._newest - 1) % parts
        self._spectra[self._newest] = np.fft.rfft(self._pair)
        for sums, response in zip(self._sums, self._response, strict=True):
            np.multiply(self._spectra[self._newest], response[0], out=sums)
            for part in range(1, parts):
                np.multiply(self._spectra[(self._newest + part) % parts], response[part], out=self._product)
                sums += self._product
        return np.fft.irfft(self._sums)[:, BLOCK:]


class Bus:
    """Compress a stereo stream gently and round off what comes near full scale, block by block.

    Args:
        config: the compressor's settings.
        sample_rate: Hz.
    """

    def __init__(self, config: BusConfig, sample_rate: int) -> None:
        self._config = config
        self._attack = 1 - math.exp(-_CONTROL / (config.attack * sample_rate))
        self._release = 1 - math.exp(-_CONTROL / (config.release * sample_rate))
        self._power = 0.0
        self._gain = 10 ** (config.makeup / 20)
        self._ramp = np.arange(1, _CONTROL + 1, dtype=np.float32) / _CONTROL

    def process(self, block: np.ndarray) -> np.ndarray:
        """Return a block `[2, BLOCK]` float32, compressed; its absolute values stay below 1."""
        config = self._config
        powers = np.square(block).sum(axis=0).reshape(-1, _CONTROL).mean(axis=1)
        gains = np.empty(len(powers) + 1, dtype=np.float32)
        gains[0] = self._gain
        limit = 10 ** (config.threshold / 10)
        slope = (1 / config.ratio - 1) / 2
        makeup = 10 ** (config.makeup / 20)
        power = self._power
        for number, now in enumerate(powers.tolist()):
            power += (self._attack if now > power else self._release) * (now - power)
            if power < 1e-15:
                power = 0.0
            # A soft knee: the curve of (1 + power / limit) bends over some 10 dB around the threshold.
            gains[number + 1] = makeup * (1 + power / limit) ** slope
        self._power, self._gain = power, float(gains[-1])
        shaped = gains[:-1, None] + np.diff(gains)[:, None] * self._ramp
        out = block * shaped.reshape(-1)
        if np.abs(out).max() > _KNEE:
            size = np.abs(out)
            rounded = _KNEE + (1 - _KNEE) * np.tanh((size - _KNEE) / (1 - _KNEE))
            out = np.where(size > _KNEE, np.copysign(rounded, out), out)
        return out
