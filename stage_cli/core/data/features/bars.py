"""Which beats begin a bar: an accent model with a hidden bar position."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np

# Accents by position in the bar, by beats per bar: how far each is expected to lie from the mean of all, in their
# standard deviations. In four-four the third beat is the second strongest.
_ACCENTS: dict[int, tuple[float, ...]] = {
    2: (1.0, -1.0),
    3: (1.0, -0.5, -0.5),
    4: (1.0, -0.55, 0.0, -0.45),
    6: (1.0, -0.4, -0.4, 0.4, -0.3, -0.3),
}
_BELIEF: dict[int, float] = {2: 0.05, 3: 0.25, 4: 0.68, 6: 0.02}  # before anything is heard
_STATES = [(meter, position) for meter in _ACCENTS for position in range(meter)]
_SLIP = 1e-3  # probability that the tracker has lost or invented a beat
_LOUDEST = 3.0  # standard deviations at which an accent is cut off: one crash is no bar
# Accents of neighbouring bars are not independent observations: each counts for a part of one.
_EVIDENCE = 0.5


@dataclass(frozen=True)
class Bars:
    """Downbeats by their index among the beats, beats per bar (None: no accents at all), confidence 0 to 1."""

    downbeats: tuple[int, ...]
    beats_per_bar: int | None
    confidence: float


def find_bars(accents: np.ndarray) -> Bars:
    """Find the bars of a piece whose number of beats per bar does not change.

    A hidden Markov model of (beats per bar, position in the bar), after Whiteley, Cemgil and Godsill, "Bayesian
    modelling of temporal structure in musical audio", ISMIR 2006, with accents instead of audio. The path is the most
    likely one; the confidence is the mean posterior probability of its states, so that an even choice between two
    bar lengths or positions shows.

    Args:
        accents: `[beats]`, of any scale.
    """
    spread = float(accents.std()) if len(accents) else 0.0
    if len(accents) < 4 or spread < 1e-6:
        return Bars((), None, 0.0)
    emissions = _emissions((accents - accents.mean()) / spread)
    path, _ = _viterbi(emissions)
    confidence = float(_posterior(_EVIDENCE * emissions)[np.arange(len(path)), path].mean())
    downbeats = tuple(index for index, state in enumerate(path) if _STATES[state][1] == 0)
    return Bars(downbeats, _STATES[path[0]][0], confidence)


def bar_likelihood(accents: np.ndarray) -> float:
    """Return the log-likelihood a beat of the most likely bars: how regular accents are, in their own scale.

    Args:
        accents: `[beats]`, at least one.
    """
    _, likelihood = _viterbi(_emissions(accents - accents.mean()))
    return likelihood / len(accents)


def _emissions(scores: np.ndarray) -> np.ndarray:
    """Return the log-likelihood ratio of each state at each beat: `[beats, states]` (normal, variance 1)."""
    heard = np.clip(scores, -_LOUDEST, _LOUDEST)[:, None]
    expected = np.array([_ACCENTS[meter][position] for meter, position in _STATES])
    return expected * heard - expected**2 / 2


@functools.cache
def _chain() -> tuple[np.ndarray, np.ndarray]:
    """Return log-probabilities of the first state, and of transitions `[from, to]`: one on, or a beat is amiss."""
    first = np.log([_BELIEF[meter] / meter for meter, _ in _STATES])
    matrix = np.full((len(_STATES), len(_STATES)), 1e-12)
    for row, (meter, position) in enumerate(_STATES):
        for column, (other, target) in enumerate(_STATES):
            if meter == other:
                matrix[row, column] = 1 - _SLIP if target == (position + 1) % meter else _SLIP / (meter - 1)
    return first, np.log(matrix / matrix.sum(axis=1, keepdims=True))


def _viterbi(emissions: np.ndarray) -> tuple[list[int], float]:
    """Return the most likely states, and their log-likelihood."""
    first, transitions = _chain()
    best = first + emissions[0]
    origins = np.zeros(emissions.shape, dtype=np.int64)
    for index in range(1, len(emissions)):
        candidates = best[:, None] + transitions
        origins[index] = candidates.argmax(axis=0)
        best = candidates.max(axis=0) + emissions[index]
    path = [int(best.argmax())]
    for index in range(len(emissions) - 1, 0, -1):
        path.append(int(origins[index, path[-1]]))
    return path[::-1], float(best.max())


def _posterior(emissions: np.ndarray) -> np.ndarray:
    """Return the probability of each state at each beat, `[beats, states]` (forward-backward)."""
    first, transitions = _chain()
    forward, backward = np.zeros_like(emissions), np.zeros_like(emissions)
    forward[0] = first + emissions[0]
    for index in range(1, len(emissions)):
        forward[index] = np.logaddexp.reduce(forward[index - 1][:, None] + transitions, axis=0) + emissions[index]
    for index in range(len(emissions) - 2, -1, -1):
        backward[index] = np.logaddexp.reduce(transitions + (emissions[index + 1] + backward[index + 1]), axis=1)
    joint = forward + backward
    return np.exp(joint - np.logaddexp.reduce(joint, axis=1, keepdims=True))
