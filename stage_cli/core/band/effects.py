"""What stands between an instrument and the loudspeakers: amplifiers, equalizers, rooms, echoes."""

from __future__ import annotations

import numpy as np
import scipy.fft

from stage_cli.core.band.instruments import SAMPLE_RATE
from stage_cli.core.band.randomness import chance

_EQUALIZER_FRAMES = 512


def room(rng: np.random.Generator, seconds: float, brightness: float) -> np.ndarray:
    """Return the reverberation of a room, `[2, frames]`, of unit energy in each channel; no direct sound.

    Noise that dies away exponentially, high frequencies sooner, after a few early reflections.

    Args:
        rng: of the reflections.
        seconds: to −60 dB.
        brightness: Hz above which it dies away twice as fast.
    """
    frames = round(min(seconds, 1.6) * SAMPLE_RATE)
    time = np.arange(frames) / SAMPLE_RATE
    size = scipy.fft.next_fast_len(frames)
    spectrum = np.fft.rfft(rng.standard_normal((2, frames)), size)
    hertz = np.fft.rfftfreq(size, 1 / SAMPLE_RATE)
    share = 1 / (1 + (hertz / brightness) ** 4)  # of what dies away slowly
    cut = hertz**2 / (hertz**2 + 180.0**2)
    low = np.fft.irfft(spectrum * share * cut, size)[:, :frames]
    high = np.fft.irfft(spectrum * (1 - share) / (1 + (hertz / 11_000) ** 4), size)[:, :frames]
    tail = low * np.exp(-6.91 * time / seconds) + 0.5 * high * np.exp(-13.8 * time / seconds)
    begin = round(float(rng.uniform(0.005, 0.025)) * SAMPLE_RATE)
    tail[:, :begin] = 0
    for channel in range(2):
        for place in rng.uniform(0.004, 0.05, size=6):
            tail[channel, min(frames - 1, round(place * SAMPLE_RATE))] += float(rng.normal(0, 6))
    tail[:, -frames // 10 :] *= np.linspace(1, 0, len(tail[0, -frames // 10 :]))
    return (tail / np.sqrt(np.square(tail).sum(axis=1, keepdims=True))).astype(np.float32)


def equalizer(points: list[tuple[float, float]]) -> np.ndarray:
    """Return an equalizer's impulse response, `[512]` float32, with the least delay that its curve allows.

    Args:
        points: (Hz, dB), rising; straight lines between them over log frequency.
    """
    size = 4 * _EQUALIZER_FRAMES
    hertz = np.maximum(np.fft.rfftfreq(size, 1 / SAMPLE_RATE), 10.0)
    decibels = np.interp(np.log(hertz), np.log([f for f, _ in points]), [gain for _, gain in points])
    # Minimum phase from the folded cepstrum (Oppenheim & Schafer, ch. 13).
    cepstrum = np.fft.irfft(decibels * np.log(10) / 20)
    cepstrum[1 : size // 2] *= 2
    cepstrum[size // 2 + 1 :] = 0
    response = np.fft.irfft(np.exp(np.fft.rfft(cepstrum)))[:_EQUALIZER_FRAMES]
    response[-64:] *= np.linspace(1, 0, 64)
    return response.astype(np.float32)


def strip(
    equalizer: np.ndarray, reverb: np.ndarray, send: float, pan: float, echo: tuple[float, float] | None = None
) -> np.ndarray:
    """Return a mixer's channel as one impulse response, `[2, frames]`: equalizer, pan, reverb and echo.

    Args:
        equalizer: impulse response.
        reverb: `[2, frames]` of unit energy.
        send: level of the reverb relative to the direct sound.
        pan: −1 (left) to 1; constant power.
        echo: (seconds, level) of a repeat that repeats, from one side to the other.
    """
    angle = (pan + 1) * np.pi / 4
    sides = np.array([np.cos(angle), np.sin(angle)]) * np.sqrt(2)
    extra = round(3 * echo[0] * SAMPLE_RATE) if echo else 0
    frames = max(reverb.shape[1], extra + 1, 1) + len(equalizer)
    response = np.zeros((2, frames), dtype=np.float64)
    response[:, 0] = sides
    if echo:
        for repeat in range(1, 4):
            response[repeat % 2, round(repeat * echo[0] * SAMPLE_RATE)] += echo[1] ** repeat
    response[:, : reverb.shape[1]] += send * reverb
    size = scipy.fft.next_fast_len(frames + len(equalizer), real=True)
    full = scipy.fft.irfft(scipy.fft.rfft(response, size) * scipy.fft.rfft(equalizer, size), size)
    return full[:, :frames].astype(np.float32)


def convolve(sound: np.ndarray, response: np.ndarray) -> np.ndarray:
    """Return a mono sound `[frames]` through a stereo response `[2, taps]`, cut to its length: `[2, frames]` float32.

    Overlap-add in blocks; those of silence cost nothing.
    """
    taps = response.shape[1]
    size = 1 << max(15, (2 * taps - 1).bit_length())
    hop = size - taps + 1
    filters = scipy.fft.rfft(response, size, axis=1)
    output = np.zeros((2, len(sound)), dtype=np.float32)
    # One at a time: memory that was just used is in the cache.
    for first in range(0, len(sound), hop):
        block = sound[first : first + hop]
        if max(block.max(), -block.min()) > 1e-7:
            room = output[:, first : first + size]
            room += scipy.fft.irfft(scipy.fft.rfft(block, size) * filters, size, axis=1)[:, : room.shape[1]]
    return output


def amplifier(sound: np.ndarray, level: float, drive: float) -> np.ndarray:
    """Return a guitar through a valve amplifier and a closed cabinet, about as loud as before.

    Args:
        sound: `[frames]`.
        level: RMS of one loud note.
        drive: gain in front of the valves; 1 is clean, 10 and more distorts.
    """
    driven = np.tanh(sound * np.float32(drive / level * 0.3) + np.float32(0.1)) - np.float32(np.tanh(0.1))
    return driven * np.float32(level * 2.2 / (1 + 0.05 * drive))


def cabinet(rng: np.random.Generator) -> list[tuple[float, float]]:
    """Return the curve of a guitar loudspeaker: little below 80 Hz, a peak near 3 kHz, nothing above 6."""
    peak = float(rng.uniform(1800, 3200))
    end = float(rng.uniform(4500, 6500))
    return [
        (40, -24),
        (90, -2),
        (400, float(rng.uniform(-5, 0))),
        (peak, float(rng.uniform(0, 5))),
        (end, -4),
        (end * 1.7, -32),
        (20_000, -60),
    ]


def curve(rng: np.random.Generator, low_cut: float = 30.0) -> list[tuple[float, float]]:
    """Return the curve of a mixing engineer's hand: some dB up and down, nothing below `low_cut` Hz."""
    gains = rng.normal(0, 2.2, size=4)
    tilt = float(rng.normal(0, 1.5))
    air = float(rng.uniform(-14, 1)) if chance(rng, 0.35) else float(gains[3] + tilt)
    return [
        (low_cut / 2, -18),
        (low_cut, -3),
        (low_cut * 2, 0 - tilt),
        (300, float(gains[0])),
        (1000, float(gains[1])),
        (3500, float(gains[2] + tilt)),
        (12_000, air),
        (20_000, air - 2),
    ]


def chorus(stereo: np.ndarray, rate: float, depth: float) -> np.ndarray:
    """Return a stereo sound with a copy of itself whose delay moves, to each side at another time.

    Args:
        stereo: `[2, frames]`.
        rate: Hz.
        depth: seconds.
    """
    frames = stereo.shape[1]
    turn = np.arange(frames, dtype=np.float32) * np.float32(2 * np.pi * rate / SAMPLE_RATE)
    now = np.arange(frames, dtype=np.int32)
    output = np.empty_like(stereo)
    for channel in range(2):
        swing = np.sin(turn + np.float32(channel * np.pi / 2))
        delay = np.float32(0.009 * SAMPLE_RATE) + np.float32(depth * SAMPLE_RATE) * swing
        whole = np.ceil(delay)
        share = whole - delay
        place = now - whole.astype(np.int32)
        before, after = stereo[channel][np.maximum(place, 0)], stereo[channel][np.maximum(place + 1, 0)]
        moved = before + share * (after - before)
        output[channel] = 0.75 * stereo[channel] + 0.6 * moved
    return output


def ducking(frames: int, onsets: list[float], depth: float, release: float) -> np.ndarray:
    """Return the gain of a compressor that the kick drum drives, `[frames]`: down at each onset, up after it.

    Args:
        frames: length.
        onsets: seconds of the kicks.
        depth: share that is taken away.
        release: seconds.
    """
    gain = np.ones(frames, dtype=np.float32)
    dip = 1 - depth * np.cos(np.linspace(0, np.pi / 2, round(release * SAMPLE_RATE), dtype=np.float32)) ** 2
    lead = 1 - depth * np.linspace(0, 1, 220, dtype=np.float32)  # 5 ms: no click
    for onset in onsets:
        at = round(onset * SAMPLE_RATE)
        for start, shape in ((at - len(lead), lead), (at, dip)):
            begin = max(start, 0)
            part = shape[begin - start : max(begin - start, frames - start)]
            gain[begin : begin + len(part)] = np.minimum(gain[begin : begin + len(part)], part)
    return gain
