"""Mel filters and mel spectra, and triangular filters around notes.

Mel filters are torchaudio's. What it has not is laid out here: filters around notes, and the triangles that codecs are
trained with. torchaudio takes 0.3 s to import beside torch: only what uses its filters does.
"""

from __future__ import annotations

import functools
import math
from typing import Literal

import numpy as np

_MELS_A_DECADE, _KNEE_HZ = 2595.0, 700.0  # HTK's scale: logarithmic far above the knee, linear far below


def htk_mels(hertz: np.ndarray) -> np.ndarray:
    """Return frequencies in mels, 2595 · log10(1 + f / 700).

    Source: D. O'Shaughnessy, "Speech communication", 1987; the scale of the HTK toolkit.
    """
    return _MELS_A_DECADE * np.log10(1 + hertz / _KNEE_HZ)


def htk_hertz(mels: np.ndarray) -> np.ndarray:
    """Return frequencies in Hz, the inverse of `htk_mels`."""
    return _KNEE_HZ * (10 ** (mels / _MELS_A_DECADE) - 1)


def semitones(size: int, sample_rate: int, notes: range) -> np.ndarray:
    """Return triangular filters around MIDI notes, float32 `[size / 2 + 1, notes]`, each with sum 1.

    Equal temperament, A4 is 440 Hz. A filter reaches to the notes beside its own, and at least one bin to each side.

    Args:
        size: samples of the window whose spectrum is filtered.
        sample_rate: Hz.
        notes: MIDI numbers, one after the other.

    Raises:
        ValueError: one of them lies above half the sample rate.
    """
    hertz = 440 * 2 ** ((np.arange(notes.start - 1, notes.stop + 1) - 69) / 12)
    width = sample_rate / size
    low, centre, high = hertz[:-2], hertz[1:-1], hertz[2:]
    if centre[-1] >= sample_rate / 2:
        raise ValueError(f"{sample_rate} Hz hold no note of {centre[-1]:.0f} Hz")
    low, high = np.minimum(low, centre - width), np.maximum(high, centre + width)
    filters = triangles(np.fft.rfftfreq(size, 1 / sample_rate), low, centre, high)
    return (filters / filters.sum(axis=0)).astype(np.float32)


def notes_below(hertz: float, notes: range) -> range:
    """Return those of some MIDI notes that lie below a frequency."""
    return range(notes.start, min(notes.stop, math.ceil(69 + 12 * math.log2(hertz / 440))))


def triangles(axis: np.ndarray, low: np.ndarray, centre: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Return triangles of height 1, `[points, bands]`.

    Args:
        axis: `[points]`, where they are sampled; in Hz or mels, as the corners are.
        low: `[bands]`, where each begins.
        centre: `[bands]`, where each is 1; above `low`.
        high: `[bands]`, where each ends; above `centre`.
    """
    rising, falling = (axis[:, None] - low) / (centre - low), (high - axis[:, None]) / (high - centre)
    return np.maximum(0, np.minimum(rising, falling))


RATE = 16_000
"""Hz of the audio."""

FRAME = 512
HOP = 256
BANDS = 96

_FRAMES_AT_ONCE = 4096


def mel_bands(audio: np.ndarray) -> np.ndarray:
    """Return log10(1 + 10000 · power) of 96 mel bands: `[frames, 96]` float32.

    The front end of MusiCNN and Discogs-EffNet, equal to essentia's TensorflowInputMusiCNN within 1e-4. Source: Pons
    and Serra, "musicnn", ISMIR 2019 (frames, bands on Slaney's scale, compression).

    Frame f is centred on sample 256 · f; the audio is padded with zeros on both sides.

    Args:
        audio: `[samples]` at 16 kHz.
    """
    import scipy.fft

    count = -(-len(audio) // HOP) + 1
    padded = np.zeros((count - 1) * HOP + FRAME, dtype=np.float32)
    padded[FRAME // 2 :][: len(audio)] = audio[: len(padded) - FRAME // 2]
    frames = np.lib.stride_tricks.sliding_window_view(padded, FRAME)[::HOP]
    window = np.hanning(FRAME).astype(np.float32)
    filters = mel_filters(sample_rate=RATE, fft=FRAME, bands=BANDS, low=0.0, high=RATE / 2, scale="slaney")
    bands = np.empty((len(frames), BANDS), dtype=np.float32)
    for first in range(0, len(frames), _FRAMES_AT_ONCE):
        spectra = np.abs(scipy.fft.rfft(frames[first : first + _FRAMES_AT_ONCE] * window, axis=1))
        bands[first : first + len(spectra)] = (spectra**2) @ filters
    return np.log10(1 + 10_000 * bands)


MelScale = Literal["slaney", "htk", "vggish"]


def frames(audio: np.ndarray, length: int, hop: int) -> np.ndarray:
    """Return the whole overlapping frames of audio `[samples]`, `[frames, length]`, as a view."""
    return np.lib.stride_tricks.sliding_window_view(audio, length)[::hop]


def hann(length: int) -> np.ndarray:
    """Return the periodic Hann window, `[length]`."""
    return 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(length) / length)


@functools.cache
def mel_filters(*, sample_rate: int, fft: int, bands: int, low: float, high: float, scale: MelScale) -> np.ndarray:
    """Return triangular filters, `[fft // 2 + 1, bands]` float32, by torchaudio.

    `slaney` (librosa's default): triangles in Hz on Slaney's mel scale, each of area 1. `htk`: triangles in Hz on HTK's
    scale, each of height 1. `vggish` (Kaldi's): triangles in mels, on HTK's scale, each of height 1.

    Args:
        sample_rate: Hz.
        fft: length of the Fourier transform.
        bands: filters.
        low: Hz, where the first begins.
        high: Hz, where the last ends.
        scale: see above.
    """
    if scale == "vggish":
        from torchaudio.compliance.kaldi import get_mel_banks

        # Its bins end below half the sample rate, where nothing is let through.
        filters, _ = get_mel_banks(bands, fft, float(sample_rate), low, high, 0.0, 0.0, 1.0)
        return np.pad(filters.numpy().T, ((0, 1), (0, 0)))
    from torchaudio.functional import melscale_fbanks

    norm = "slaney" if scale == "slaney" else None
    return melscale_fbanks(fft // 2 + 1, low, high, bands, sample_rate, norm=norm, mel_scale=scale).numpy()


WINDOW_SECONDS = 0.064
HOP_SECONDS = 0.01
PICTURE_BANDS = 96
LOWEST_HZ = 30.0

_PICTURE_FRAMES = 2048


def mel_power(audio: np.ndarray, sample_rate: int) -> np.ndarray:
    """Return the power in mel bands: `[frames, PICTURE_BANDS]` float32, frame f centred on `HOP_SECONDS` · f seconds.

    Hann windows; triangular filters with a peak of 1 from `LOWEST_HZ` to half the sample rate.

    Args:
        audio: `[samples]`, mono.
        sample_rate: Hz.
    """
    import scipy.fft

    hop = max(1, round(HOP_SECONDS * sample_rate))
    window = 2 * round(WINDOW_SECONDS * sample_rate / 2)
    padded = np.pad(audio.astype(np.float32), window // 2)
    frames = np.lib.stride_tricks.sliding_window_view(padded, window)[::hop]
    # The periodic Hann window: its first sample is zero, its last is not.
    shape = np.hanning(window + 1)[:-1].astype(np.float32)
    bands = np.empty((len(frames), PICTURE_BANDS), dtype=np.float32)
    filters = mel_filters(
        sample_rate=sample_rate, fft=window, bands=PICTURE_BANDS, low=LOWEST_HZ, high=sample_rate / 2, scale="htk"
    )
    for first in range(0, len(frames), _PICTURE_FRAMES):
        spectra = np.abs(scipy.fft.rfft(frames[first : first + _PICTURE_FRAMES] * shape, axis=1))
        bands[first : first + len(spectra)] = (spectra**2) @ filters
    return bands


def band_corners(sample_rate: int) -> np.ndarray:
    """Return the corners of the triangles in Hz, `[PICTURE_BANDS + 2]`: band b rises from b to b + 1, ends at b + 2.

    They are evenly spaced on HTK's scale.
    """
    ends = htk_mels(np.array([LOWEST_HZ, sample_rate / 2]))
    return htk_hertz(np.linspace(*ends, PICTURE_BANDS + 2))
