"""A player in numpy, as it is used: the same numbers as `model.py`, without torch.

Ears run over windows of a song; the pen keeps what it has seen in a ring, so that a step costs the same however long
the song is.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from stage_cli.core.players.config import STROKES, TAGS, PlayerConfig

Array = np.ndarray
_ROTARY_BASE = 10_000.0
_EPSILON = np.float32(1e-5)
_TAPS = 5
_TURNS = 1024  # steps whose rotations are computed at once


class NumpyEars:
    """What hears the mix.

    Args:
        config: of the player.
        weights: of the whole player by the names of `Player.state_dict()`.
    """

    def __init__(self, config: PlayerConfig, weights: Mapping[str, Array]) -> None:
        self._config = config
        own = {name.removeprefix("ears."): value for name, value in weights.items() if name.startswith("ears.")}
        self._first = np.ascontiguousarray(own["first.weight"].transpose(2, 1, 0).reshape(-1, config.ears))
        self._first_bias = own["first.bias"]
        self._halve = np.ascontiguousarray(own["halve.weight"].transpose(2, 1, 0).reshape(-1, config.ears))
        self._halve_bias = own["halve.bias"]
        self._known, self._is_known = own["known"], own["is_known"]
        self._convolutions = []
        for number in range(config.convolutions):
            name = f"convolutions.{number}."
            taps = own[f"{name}taps"] * own[f"{name}norm.weight"]
            out = np.ascontiguousarray(own[f"{name}out.weight"].T)
            self._convolutions.append((2**number, taps, own[f"{name}bias"], out))
        self._layers = [_Layer(own, f"layers.{n}.", config.ears, config.ear_heads) for n in range(config.ear_layers)]
        self._norm = own["norm.weight"]
        self._beats, self._beats_bias = np.ascontiguousarray(own["beats.weight"].T), own["beats.bias"]

    def hear(self, heard: Array, grid: Array, known: Array | None = None, is_known: Array | None = None) -> Array:
        """Return what is heard in each step of a window.

        Args:
            heard: `[2T, bands]` float32, tens of dB.
            grid: `[2T, GRID_CHANNELS]` float32.
            known: `[T, V]`, tokens that are known; none if left out.
            is_known: `[T]` bool.

        Returns: `[T, ears]` float32.
        """
        rises = np.zeros_like(heard)
        np.maximum(heard[1:] - heard[:-1], 0, out=rises[1:])
        x = _unfold(np.concatenate([heard, rises, grid], axis=1), _TAPS, 1, 2) @ self._first + self._first_bias
        x = _unfold(_silu(x), 4, 2, 1) @ self._halve + self._halve_bias
        if known is not None and is_known is not None:
            x += is_known[:, None] * self._is_known
            for step, voice in zip(*known.nonzero(), strict=True):
                x[step] += self._known[voice * (STROKES + 1) + known[step, voice]]
        for dilation, taps, bias, out in self._convolutions:
            reach = 2 * dilation
            padded = np.pad(_normed(x), ((reach, reach), (0, 0)))
            mixed = padded[: len(x)] * taps[0] + bias
            for tap in range(1, _TAPS):
                mixed += padded[tap * dilation : tap * dilation + len(x)] * taps[tap]
            x += _silu(mixed) @ out
        rotation = _rotations(np.arange(len(x)), self._config.ears // self._config.ear_heads)
        for layer in self._layers:
            x = layer.over(x, rotation)
        return _normed(x) * self._norm

    def beats(self, ears: Array) -> Array:
        """Return the probability of a beat and of a downbeat in each frame, `[2T, 2]`, of `hear`'s result."""
        return (1 / (1 + np.exp(-(ears @ self._beats + self._beats_bias)))).reshape(-1, 2)


class NumpyPen:
    """What writes, step by step. It begins with a past in which nothing was struck.

    Args:
        config: of the player.
        weights: of the whole player by the names of `Player.state_dict()`.
    """

    def __init__(self, config: PlayerConfig, weights: Mapping[str, Array]) -> None:
        self.config = config
        own = {name.removeprefix("pen."): value for name, value in weights.items() if name.startswith("pen.")}
        width = config.pen
        self._heard, self._heard_bias = np.ascontiguousarray(own["heard.weight"].T), own["heard.bias"]
        self._past, self._tags = own["past"], own["tags.weight"]
        self._layers = [_Layer(own, f"layers.{n}.", width, config.pen_heads) for n in range(config.pen_layers)]
        self._stroke = np.ascontiguousarray((own["stroke.weight"] * own["norm.weight"]).T)
        self._struck_before = own["struck_before"]
        self._voice, self._whether, self._whether_bias = own["voice"], own["whether"], own["whether_bias"]
        self._how, self._how_bias = own["how"], own["how_bias"]
        counts = np.cumsum([0, *(count + 1 for count in TAGS.values())])
        self._offsets = counts[:-1]
        shape = (config.pen_layers, config.pen_heads, config.history, width // config.pen_heads)
        self._keys, self._values = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
        self._turns = np.zeros((0, 0), np.complex64)
        self._step = 0

    def inputs(self, ears: Array, tags: Array) -> Array:
        """Return what the pen is told in each of some steps, `[T, pen]`; all at once, for it is quicker.

        Args:
            ears: `[T, ears]`.
            tags: `[T, tags]` or `[tags]` int.
        """
        told = self._tags[tags + self._offsets].sum(axis=-2)
        return ears @ self._heard + self._heard_bias + told

    def state(self, told: Array, past: Array) -> Array:
        """Take one step; return what it is drawn from, `[stroke]`.

        Args:
            told: `[pen]`, of `inputs`.
            past: `[V]`, tokens of the step before.
        """
        config, step = self.config, self._step
        x = told.copy()
        for voice in past.nonzero()[0]:
            x += self._past[voice * (STROKES + 1) + past[voice]]
        place, seen = step % config.history, min(step + 1, config.history)
        if not step % _TURNS:
            self._turns = _rotations(np.arange(step, step + _TURNS), config.pen // config.pen_heads)
        rotation = self._turns[step % _TURNS]
        for number, layer in enumerate(self._layers):
            x = layer.step(x, rotation, self._keys[number], self._values[number], place, seen)
        self._step += 1
        return (x * _scale(x)) @ self._stroke

    def whether(self, state: Array) -> Array:
        """Return the logit of each voice being struck if none before it is, `[V]`; `state` of one step."""
        hidden = np.maximum(self._voice + state, 0)
        hidden *= self._whether
        return hidden.sum(axis=1) + self._whether_bias

    def how(self, state: Array, voice: int) -> Array:
        """Return the logits of a struck voice's loudness and place, `[STROKES]`."""
        return np.maximum(self._voice[voice] + state, 0) @ self._how[voice] + self._how_bias[voice]

    def strike(self, state: Array, voice: int, token: int) -> Array:
        """Return a step's state after a voice was struck."""
        return state + self._struck_before[voice * (STROKES + 1) + token]


class _Layer:
    """One layer, its norms' scales multiplied into its matrices, its rotated pairs side by side."""

    def __init__(self, own: Mapping[str, Array], name: str, width: int, heads: int) -> None:
        self._width, self._heads, head = width, heads, width // heads
        qkv = own[f"{name}qkv.weight"] * own[f"{name}attention_norm.weight"]
        pairs = np.arange(width).reshape(heads, 2, head // 2).transpose(0, 2, 1).ravel()
        # The scores' scale is the query's.
        order = np.concatenate([pairs, width + pairs, 2 * width + np.arange(width)])
        qkv = qkv[order]
        qkv[:width] *= np.float32(head**-0.5)
        self._qkv = np.ascontiguousarray(qkv.T)
        self._out = np.ascontiguousarray(own[f"{name}attention_out.weight"].T)
        self._in = np.ascontiguousarray(
            (own[f"{name}feed_forward_in.weight"] * own[f"{name}feed_forward_norm.weight"]).T
        )
        self._back = np.ascontiguousarray(own[f"{name}feed_forward_out.weight"].T)

    def over(self, x: Array, rotation: Array) -> Array:
        """Run over a whole window `[T, width]`, in both directions."""
        steps, width, heads = len(x), self._width, self._heads
        qkv = _normed(x) @ self._qkv
        turned = qkv[:, : 2 * width].copy().view(np.complex64).reshape(steps, 2 * heads, -1)
        turned *= rotation[:, None]
        query, key = turned.view(np.float32).reshape(steps, 2, heads, -1).transpose(1, 2, 0, 3)
        scores = query @ key.transpose(0, 2, 1)
        scores -= scores.max(axis=-1, keepdims=True)
        np.exp(scores, out=scores)
        scores /= scores.sum(axis=-1, keepdims=True)
        mixed = scores @ qkv[:, 2 * width :].reshape(steps, heads, -1).transpose(1, 0, 2)
        x = x + mixed.transpose(1, 0, 2).reshape(steps, width) @ self._out
        hidden = np.maximum(_normed(x) @ self._in, 0)
        hidden *= hidden
        return x + hidden @ self._back

    def step(self, x: Array, rotation: Array, keys: Array, values: Array, place: int, seen: int) -> Array:
        """Run over one step `[width]`; its key and value `[heads, history, head]` are put at `place`."""
        width, heads = self._width, self._heads
        qkv = (x * _scale(x)) @ self._qkv
        turned = qkv[: 2 * width].view(np.complex64).reshape(2 * heads, -1)
        turned *= rotation
        rows = qkv.reshape(3 * heads, -1)
        keys[:, place] = rows[heads : 2 * heads]
        values[:, place] = rows[2 * heads :]
        scores = keys[:, :seen] @ rows[:heads, :, None]
        scores -= scores.max(axis=1, keepdims=True)
        np.exp(scores, out=scores)
        mixed = (scores.transpose(0, 2, 1) @ values[:, :seen])[:, 0]
        mixed /= scores.sum(axis=1)
        x = x + mixed.reshape(width) @ self._out
        hidden = np.maximum((x * _scale(x)) @ self._in, 0)
        hidden *= hidden
        x += hidden @ self._back
        return x


def _scale(x: Array) -> np.float32:
    return np.float32(1) / np.sqrt(x.dot(x) / np.float32(len(x)) + _EPSILON)


def _normed(x: Array) -> Array:
    return x / np.sqrt(np.square(x).mean(axis=1, keepdims=True) + _EPSILON)


def _silu(x: Array) -> Array:
    return x / (1 + np.exp(np.minimum(-x, 80)))


def _unfold(x: Array, taps: int, stride: int, padding: int) -> Array:
    """Return the inputs of a convolution over the first axis side by side, `[places, taps · width]`."""
    padded = np.pad(x, ((padding, padding), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, taps, axis=0)[::stride]
    return windows.transpose(0, 2, 1).reshape(len(windows), -1)


def _rotations(steps: Array, head: int) -> Array:
    """Return the rotary positions of steps as complex numbers, `[steps, head / 2]`."""
    rates = _ROTARY_BASE ** (-np.arange(0, head, 2) / head)
    return np.exp(1j * steps[:, None] * rates).astype(np.complex64)
