"""What the instruments are made of: wavetables, envelopes, noise. Sound is `[frames]` float32 at 44.1 kHz."""

from __future__ import annotations

import numpy as np

from stage_cli.core.data.band.instruments import SAMPLE_RATE

TABLE_FRAMES = 4096
_HIGHEST_HARMONIC = 17_000.0  # Hz


def frequency(pitch: float) -> float:
    """Return the Hz of a MIDI note number."""
    return 440.0 * 2 ** ((pitch - 69) / 12)


def seconds_to_frames(seconds: float) -> int:
    """Return a length in frames, at least one."""
    return max(1, round(seconds * SAMPLE_RATE))


def time_axis(frames: int) -> np.ndarray:
    """Return seconds of each frame, float32."""
    return np.arange(frames, dtype=np.float32) / np.float32(SAMPLE_RATE)


def harmonics_below_limit(hertz: float, most: int = 256) -> np.ndarray:
    """Return 1, 2, 3, … as far as harmonics of a tone can be heard without aliasing."""
    return np.arange(1, max(2, min(most, int(_HIGHEST_HARMONIC / hertz))) + 1)


def wavetables(spectra: np.ndarray, phases: np.ndarray | None = None) -> np.ndarray:
    """Return one period of a wave for each row of harmonic amplitudes.

    Args:
        spectra: `[tables, harmonics]`.
        phases: radians of each harmonic, `[harmonics]`; all sines if left out.

    Returns: `[tables, 4096]` float32.
    """
    tables, harmonics = spectra.shape
    half = np.zeros((tables, TABLE_FRAMES // 2 + 1), dtype=np.complex64)
    turn = -1j * np.exp(1j * phases) if phases is not None else np.full(harmonics, -1j)
    half[:, 1 : harmonics + 1] = spectra * turn
    return np.fft.irfft(half, axis=1).astype(np.float32) * (TABLE_FRAMES / 2)


def running_phase(hertz: float | np.ndarray, frames: int, start: float = 0.0) -> np.ndarray:
    """Return the phase in cycles of an oscillator, float64; `hertz` may be one number or `[frames]`."""
    if isinstance(hertz, np.ndarray):
        return start + np.cumsum(hertz) / SAMPLE_RATE
    return start + np.arange(frames) * (hertz / SAMPLE_RATE)


def read(tables: np.ndarray, phase: np.ndarray, place: np.ndarray | float = 0.0) -> np.ndarray:
    """Read wavetables at a phase (cycles), mixed between neighbouring tables at `place` (0 to tables − 1)."""
    column = (phase * TABLE_FRAMES).astype(np.int64) & (TABLE_FRAMES - 1)
    if isinstance(place, float):
        return tables[round(place)][column]
    place = np.clip(place, 0, len(tables) - 1)
    row = np.minimum(place.astype(np.int64), len(tables) - 2)
    share = (place - row).astype(np.float32)
    flat, at = tables.ravel(), row * TABLE_FRAMES + column
    below = flat[at]
    return below + share * (flat[at + TABLE_FRAMES] - below)


def low_pass_spectra(amplitudes: np.ndarray, hertz: float, cutoffs: np.ndarray, slope: float = 2.0) -> np.ndarray:
    """Return harmonic amplitudes behind low-pass filters, `[cutoffs, harmonics]`: `slope` 1 is 6 dB an octave."""
    ratio = hertz * np.arange(1, len(amplitudes) + 1)[None] / cutoffs[:, None]
    return amplitudes[None] / (1 + ratio**2) ** (slope / 2)


def decay(frames: int, seconds: float) -> np.ndarray:
    """Return an exponential that falls by 60 dB in `seconds`."""
    return np.exp(time_axis(frames) * np.float32(-6.9078 / max(seconds, 1e-4)))


def attack(frames: int, seconds: float) -> np.ndarray:
    """Return a rise from 0 to 1 that ends after `seconds`, smooth at both ends."""
    count = min(frames, seconds_to_frames(seconds))
    envelope = np.ones(frames, dtype=np.float32)
    envelope[:count] = 0.5 - 0.5 * np.cos(np.pi * np.arange(count, dtype=np.float32) / count)
    return envelope


def noise(rng: np.random.Generator, frames: int) -> np.ndarray:
    """Return white noise of unit power."""
    return rng.standard_normal(frames, dtype=np.float32)


def shaped_noise(
    rng: np.random.Generator, frames: int, low: float, high: float, *, steepness: float = 2.0
) -> np.ndarray:
    """Return noise between two frequencies (Hz), of unit power."""
    size = 1 << (frames - 1).bit_length()
    spectrum = np.fft.rfft(noise(rng, size)).astype(np.complex64)
    hertz = np.maximum(np.fft.rfftfreq(size, 1 / SAMPLE_RATE), 1.0)
    gain = 1 / np.sqrt((1 + (low / hertz) ** (2 * steepness)) * (1 + (hertz / high) ** (2 * steepness)))
    sound = np.fft.irfft(spectrum * gain)[:frames].astype(np.float32)
    return sound / max(float(np.sqrt(np.mean(sound**2))), 1e-9)


def fade_out(sound: np.ndarray, seconds: float) -> np.ndarray:
    """Return a sound whose end fades to nothing: no click where it stops."""
    count = min(len(sound), seconds_to_frames(seconds))
    sound = sound.copy()
    sound[len(sound) - count :] *= np.linspace(1, 0, count, dtype=np.float32) ** 2
    return sound
