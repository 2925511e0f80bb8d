"""A recursive filter over a stream, in numpy: importing `scipy.signal` takes longer than filtering a minute of music.

Second-order sections, one after the other, are one linear system with two states a section. Over a stretch of samples
its outputs are linear in the stretch's inputs and in the states before it, and so are the states behind it: a stretch
is two products of matrices, and only the states go from stretch to stretch.
"""

from __future__ import annotations

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
