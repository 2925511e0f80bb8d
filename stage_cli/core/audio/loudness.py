"""A recursive filter over a stream, in numpy: importing `scipy.signal` takes longer than filtering a minute of music.

Second-order sections, one after the other, are one linear system with two states a section. Over a stretch of samples
its outputs are linear in the stretch's inputs and in the states before it, and so are the states behind it: a stretch
is two products of matrices, and only the states go from stretch to stretch.

Integrated loudness of a stream, as ITU-R BS.1770-4 defines it.

How loud a stem is, and for how long it can be heard.
"""

from __future__ import annotations

import math

import numpy as np

_STRETCH = 256


class RecursiveFilter:
    """Filter blocks of a stream; the cut into blocks changes no more than rounding.

    Args:
        sections: `[n, 6]` second-order sections as scipy writes them: b0, b1, b2, 1, a1, a2.
        channels: columns of every block.
    """

    def __init__(self, sections: np.ndarray, channels: int) -> None:
        A, B, C, D = _state_space(sections)
        size = len(A)
        powers = np.empty((_STRETCH + 1, size, size))
        powers[0] = np.eye(size)
        for n in range(_STRETCH):
            powers[n + 1] = A @ powers[n]
        self._powers = powers
        self._of_states = C @ powers[:_STRETCH]  # [n, states]: output n of the states before the stretch
        response = np.concatenate([[D], self._of_states[:-1] @ B])
        lag = np.subtract.outer(np.arange(_STRETCH), np.arange(_STRETCH))
        self._of_inputs = np.where(lag >= 0, response[lag.clip(min=0)], 0.0)  # [output, input]
        self._to_states = (powers[:_STRETCH] @ B)[::-1].T.copy()  # [states, input]: the last input counts most directly
        self._states = np.zeros((size, channels))

    def __call__(self, block: np.ndarray) -> np.ndarray:
        """Filter the next block, `[frames, channels]`; returns as many frames, fp64."""
        frames, channels = block.shape
        whole = frames // _STRETCH
        filtered = np.empty((frames, channels))
        body = block[: whole * _STRETCH].astype(np.float64)
        stretches = body.reshape(whole, _STRETCH, channels)
        arriving = self._to_states @ stretches  # [stretch, states, channels]
        before = np.empty((whole, len(self._states), channels))
        for number in range(whole):
            before[number] = self._states
            self._states = self._powers[_STRETCH] @ self._states + arriving[number]
        made = self._of_inputs @ stretches + self._of_states @ before
        filtered[: len(body)] = made.reshape(-1, channels)
        if rest := frames - len(body):
            last = block[len(body) :].astype(np.float64)
            filtered[len(body) :] = self._of_inputs[:rest, :rest] @ last + self._of_states[:rest] @ self._states
            self._states = self._powers[rest] @ self._states + self._to_states[:, _STRETCH - rest :] @ last
        return filtered


def _state_space(sections: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """Return A, B, C, D of the cascade: states' = A · states + B · input, output = C · states + D · input."""
    size = 2 * len(sections)
    A, B, C, D = np.zeros((size, size)), np.zeros(size), np.zeros(size), 1.0
    for number, (b0, b1, b2, _, a1, a2) in enumerate(sections):
        first = 2 * number
        # Transposed direct form II; its input is the output of the sections so far, C · states + D · input.
        into = np.array([b1 - a1 * b0, b2 - a2 * b0])
        A[first : first + 2] += np.outer(into, C)
        A[first : first + 2, first : first + 2] += [[-a1, 1.0], [-a2, 0.0]]
        B[first : first + 2] = into * D
        C, D = b0 * C, b0 * D
        C[first] += 1.0
    return A, B, C, D


_HOP = 0.1  # seconds; a gating block is four hops long and begins at each hop (75 % overlap)
_HOPS_PER_BLOCK = 4
_ABSOLUTE_GATE = -70.0  # LUFS
_RELATIVE_GATE = -10.0  # LU below the loudness of what passed the absolute gate
_OFFSET = -0.691  # dB: makes a 997 Hz sine of 0 dBFS in one channel read −3.01 LUFS
_SURROUND_GAIN = 1.41


class LoudnessMeter:
    """Measure the loudness and the peak of a stream of blocks; the cut into blocks does not matter.

    Memory: one number for each 0.1 s. Source: ITU-R BS.1770-4, annex 1 (K-weighting, mean squares, two gates).
    Channels weigh as there: in 5 (L R C Ls Rs) and 6 channels (with LFE fourth) the surrounds weigh 1.41, LFE
    nothing; in all other layouts each channel weighs 1.

    Args:
        sample_rate: Hz.
        channels: columns of every block.
    """

    def __init__(self, sample_rate: int, channels: int) -> None:
        self.sample_rate = sample_rate
        self.channels = channels
        self._weight = RecursiveFilter(k_weighting(sample_rate), channels)
        self._gains = _channel_gains(channels)
        self._frames = 0
        self._peak = 0.0
        self._hop_energies: list[float] = []  # channel-weighted sums of squares of the hops that are complete
        self._open_energy = 0.0  # of the hop that is not

    def push(self, block: np.ndarray) -> None:
        """Take the next block, `[frames, channels]` (`[frames]` if mono), full scale ±1."""
        columns = block[:, None] if block.ndim == 1 else block
        if columns.ndim != 2 or columns.shape[1] != self.channels:
            raise ValueError(f"expected blocks [frames, {self.channels}], got {list(block.shape)}")
        if not len(columns):
            return
        self._peak = max(self._peak, float(np.abs(columns).max()))
        energies = np.square(self._weight(columns)) @ self._gains
        first = 0
        while first < len(energies):
            hop_end = round((len(self._hop_energies) + 1) * _HOP * self.sample_rate)
            last = min(len(energies), first + hop_end - self._frames)
            self._open_energy += float(energies[first:last].sum())
            self._frames += last - first
            first = last
            if self._frames == hop_end:
                self._hop_energies.append(self._open_energy)
                self._open_energy = 0.0

    @property
    def integrated(self) -> float:
        """Integrated loudness in LUFS of everything so far; -inf if it is silent or shorter than 0.4 s."""
        if len(self._hop_energies) < _HOPS_PER_BLOCK:
            return -math.inf
        hops = np.asarray(self._hop_energies) / (_HOP * self.sample_rate)
        powers = np.convolve(hops, np.full(_HOPS_PER_BLOCK, 1 / _HOPS_PER_BLOCK), mode="valid")
        powers = powers[powers > _power(_ABSOLUTE_GATE)]
        if not len(powers):
            return -math.inf
        # The relative gate only removes blocks below the mean: at least one is left.
        loud = powers[powers > float(powers.mean()) * 10 ** (_RELATIVE_GATE / 10)]
        return _OFFSET + 10 * math.log10(float(loud.mean()))

    @property
    def peak(self) -> float:
        """The highest absolute sample so far in dBFS (not interpolated, so no true peak); -inf if silent."""
        return 20 * math.log10(self._peak) if self._peak > 0 else -math.inf


def k_weighting(sample_rate: int) -> np.ndarray:
    """Return BS.1770's two filters, a high shelf and a high pass, as second-order sections `[2, 6]` for any rate.

    The standard prints coefficients for 48 kHz only. They are bilinear transforms of two analogue filters, with s in
    units of the corner frequency: shelf (high·s² + middle·s/quality + 1) / (s² + s/quality + 1), high pass
    top·s² / (s² + s/quality + 1). The corners, qualities and gain are those that give the printed numbers back
    (B. De Man, "Evaluation of implementations of the EBU R128 loudness measurement", AES convention 145, 2018).
    `top` is 0.04 dB, and makes the numerator at 48 kHz the standard's 1, −2, 1. libebur128 and others keep this
    numerator at every rate, and so read up to 0.1 dB more at low rates; here all rates read alike.
    """
    corner, quality = 1681.974450955533, 0.7071752369554196
    high = 10 ** (3.999843853973347 / 20)
    middle = high**0.4996667741545416
    K = math.tan(math.pi * corner / sample_rate)
    scale = 1 + K / quality + K * K
    shelf = [
        (high + middle * K / quality + K * K) / scale,
        2 * (K * K - high) / scale,
        (high - middle * K / quality + K * K) / scale,
        1.0,
        2 * (K * K - 1) / scale,
        (1 - K / quality + K * K) / scale,
    ]
    corner, quality = 38.13547087602444, 0.5003270373238773
    K = math.tan(math.pi * corner / 48_000)
    top = 1 + K / quality + K * K
    K = math.tan(math.pi * corner / sample_rate)
    scale = 1 + K / quality + K * K
    gain = top / scale
    high_pass = [gain, -2 * gain, gain, 1.0, 2 * (K * K - 1) / scale, (1 - K / quality + K * K) / scale]
    return np.array([shelf, high_pass])


def _channel_gains(channels: int) -> np.ndarray:
    if channels == 5:
        return np.array([1.0, 1.0, 1.0, _SURROUND_GAIN, _SURROUND_GAIN])
    if channels == 6:
        return np.array([1.0, 1.0, 1.0, 0.0, _SURROUND_GAIN, _SURROUND_GAIN])
    return np.ones(channels)


def _power(loudness: float) -> float:
    """Return the mean square that reads `loudness` LUFS."""
    return 10 ** ((loudness - _OFFSET) / 10)


ACTIVE_PEAK = 0.01
"""A hop with this peak (−40 dBFS) or more can be heard; the training data's limit of silence (docs/dev/model.md)."""


class StemLevels:
    """Measure a stem as a stream of blocks.

    Args:
        sample_rate: Hz.
        channels: of every block.
        hop: frames in which one peak decides; every block but the last holds a whole number of hops.
    """

    def __init__(self, sample_rate: int, channels: int, hop: int) -> None:
        self._sample_rate = sample_rate
        self._hop = hop
        self._meter = LoudnessMeter(sample_rate, channels)
        self._active_frames = 0

    def push(self, block: np.ndarray) -> None:
        """Take the next block, `[frames, channels]`."""
        self._meter.push(block)
        levels = np.abs(block)
        whole = len(levels) - len(levels) % self._hop
        # All channels of a hop in one row: numpy is slow along rows of two.
        peaks = levels[:whole].reshape(-1, self._hop * block.shape[1]).max(axis=1)
        self._active_frames += self._hop * int((peaks >= ACTIVE_PEAK).sum())
        if whole < len(levels) and levels[whole:].max() >= ACTIVE_PEAK:
            self._active_frames += len(levels) - whole

    @property
    def active(self) -> float:
        """Seconds in which the stem can be heard."""
        return self._active_frames / self._sample_rate

    @property
    def loudness(self) -> float | None:
        """Integrated loudness in LUFS; None if it is silent."""
        loudness = self._meter.integrated
        return loudness if math.isfinite(loudness) else None
