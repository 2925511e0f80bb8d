"""The steps of one window on CUDA: a step is one graph, which the device runs without the host.

A decode step is some hundred small kernels; starting them one by one takes the host several times as long as the
device needs to run them. A CUDA graph starts them all at once, but only on the very memory that it was recorded with.
So caches, tokens, random numbers and even the number of the step lie in buffers on the device, and windows of the same
shape take turns in them (https://pytorch.org/blog/accelerating-pytorch-with-cuda-graphs/).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from stage_cli.core.generation.config import GenerationConfig
from stage_cli.core.generation.window import Rows, UniformNumbers, context_states_between, sample_tokens
from stage_cli.core.lm.layout import undelay
from stage_cli.core.lm.steps import Past, StaticMemory
from stage_cli.core.lm.transformer import LanguageModel

KEPT_SHAPES = 2
"""Graphs kept of a model, the last used ones: a song's windows have one shape, or two."""

AHEAD = 16
"""Steps by which the host may be ahead of the device: progress is to be true, and Ctrl-C to be heard."""

WARM_UP = 2

GRAPHS = 4
"""Graphs of a shape, at most: attention reads whole buffers, so early steps have one that sees less of them."""

SHORTEST_SPAN = 128
"""Steps that share a graph, at least: fewer would save less than a graph takes to be made."""


@dataclass(frozen=True)
class Shape:
    """All that a recorded step depends on, but for what lies in its buffers.

    Attributes:
        rows: R, samples written together.
        steps: of the target.
        pasts: of each group of rows.
        places: of what is heard of the context, or 0.
        weights: where they lie, and in which precision.
        config: guidance and sampling.
    """

    rows: int
    steps: int
    pasts: tuple[Past, ...]
    places: int
    weights: tuple[int, torch.dtype]
    config: tuple[tuple[str, float], ...]

    @classmethod
    def of(cls, lm: LanguageModel, groups: Sequence[Rows], numbers: UniformNumbers, config: GenerationConfig) -> Shape:
        """Return the shape of a window."""
        context_states, samples = groups[0].context_states, numbers.uniforms.shape[0]
        return cls(
            samples,
            numbers.steps,
            tuple(Past.of(rows.cache, samples) for rows in groups),
            0 if context_states is None else context_states.shape[1],
            (lm.embeddings.data_ptr(), lm.dtype),
            tuple(sorted(config.sampling.items())),
        )


class Recording:
    """Buffers for windows of one shape, and on CUDA the graphs of a step in them.

    It does not keep the language model alive, which would keep its recordings alive.

    Attributes:
        tokens: `[groups · R, K, steps + 1]` of the window under way.
        windows: that were begun.

    Args:
        lm: the language model.
        shape: of the windows.
        config: guidance and sampling, as in the shape.
    """

    def __init__(self, lm: LanguageModel, shape: Shape, config: GenerationConfig) -> None:
        self._config, self._groups = config, len(shape.pasts)
        device, K = lm.embeddings.device, lm.config.codebooks
        rows = shape.rows * self._groups
        self._memory = StaticMemory(lm.config, shape.pasts, shape.steps, dtype=lm.cache_dtype, device=device)
        # The step before the target's first one comes first, here and in what is heard.
        self.tokens = torch.zeros(rows, K, shape.steps + 1, dtype=torch.int64, device=device)
        self._uniforms = torch.zeros(shape.rows, K, shape.steps, device=device)
        self._writable = torch.zeros(shape.rows, K, shape.steps, dtype=torch.bool, device=device)
        self._context_states = None
        if shape.places:
            self._context_states = torch.zeros(rows, shape.places, lm.config.dimension, dtype=lm.dtype, device=device)
        self._step = torch.zeros(1, dtype=torch.int64, device=device)
        self.windows = 0
        self._span = max(SHORTEST_SPAN, -(-shape.steps // GRAPHS))
        self._ends = [*range(self._span, shape.steps, self._span), shape.steps]
        self._graphs = self._record(lm) if device.type == "cuda" else []

    def begin(self, lm: LanguageModel, groups: Sequence[Rows], numbers: UniformNumbers, kept: int) -> None:
        """Take over a window, and feed its known frames but the newest."""
        self.windows += 1
        self._memory.load([rows.cache for rows in groups])
        self.tokens.copy_(torch.cat([rows.between(-1, numbers.steps) for rows in groups]))
        self._uniforms.copy_(numbers.uniforms)
        self._writable.copy_(numbers.writable)
        if self._context_states is not None:
            self._context_states.copy_(
                torch.cat([rows.context_states for rows in groups if rows.context_states is not None])
            )
        self._step.fill_(kept)
        self._memory.look_until(self._ends[-1])
        if kept:
            lm.advance(self.tokens[:, :, :kept], self._memory, context_states_between(groups, -1, kept - 1))

    def run(self, lm: LanguageModel, step: int) -> None:
        """Take a step, the next one."""
        span = step // self._span
        if self._graphs:
            self._graphs[span].replay()
        else:
            self._memory.look_until(self._ends[span])
            self._take_step(lm)

    def _take_step(self, lm: LanguageModel) -> None:
        """Feed, draw, write. Nothing in here may ask the device for a number."""
        step = self._step
        context_states = None if self._context_states is None else self._context_states.index_select(1, step)
        logits = lm.advance(self.tokens.index_select(2, step), self._memory, context_states)
        tokens = sample_tokens(logits, self._uniforms.index_select(2, step)[:, :, 0], self._groups, self._config)
        here = self.tokens.index_select(2, step + 1)
        writable = self._writable.index_select(2, step).repeat(self._groups, 1, 1)
        written = torch.where(writable, tokens.repeat(self._groups, 1)[:, :, None], here)
        self.tokens.index_copy_(2, step + 1, written)
        step.add_(1)

    def _record(self, lm: LanguageModel) -> list[torch.cuda.CUDAGraph]:
        with torch.cuda.device(lm.embeddings.device):
            # First runs set up what libraries make on demand, which a recording must not meet.
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                for end in self._ends * WARM_UP:
                    self._rewind(end)
                    self._take_step(lm)
            torch.cuda.current_stream().wait_stream(side)
            graphs: list[torch.cuda.CUDAGraph] = []
            for end in self._ends:
                self._rewind(end)
                graph = torch.cuda.CUDAGraph()
                # One runs after the other, and what they leave lies in the buffers: they can share all other memory.
                pool = graphs[0].pool() if graphs else None
                # A training's other threads, which pin memory, may go on meanwhile.
                with torch.cuda.graph(graph, pool=pool, stream=side, capture_error_mode="thread_local"):
                    self._take_step(lm)
                graphs.append(graph)
        return graphs

    def _rewind(self, end: int) -> None:
        """Go back to the first step, and look at so many."""
        self._step.zero_()
        self._memory.rewind()
        self._memory.look_until(end)


_recordings: WeakKeyDictionary[LanguageModel, OrderedDict[Shape, Recording]] = WeakKeyDictionary()


class StaticSteps:
    """Steps in a recording; on another device than CUDA the same operations, one by one.

    Windows of one model and one shape share a recording, so only one of them may be under way at a time.

    Args: those of `PlainSteps`.
    """

    def __init__(
        self, lm: LanguageModel, groups: Sequence[Rows], numbers: UniformNumbers, kept: int, config: GenerationConfig
    ) -> None:
        self._lm, self._rows = lm, numbers.uniforms.shape[0]
        self._recording = _recording(lm, Shape.of(lm, groups, numbers, config), config)
        self._recording.begin(lm, groups, numbers, kept)
        self._window = self._recording.windows
        self._done: list[torch.cuda.Event] = []

    def run(self, step: int) -> None:
        """See `Steps.run`."""
        self._check()
        self._recording.run(self._lm, step)
        tokens = self._recording.tokens
        if tokens.is_cuda and step % AHEAD == AHEAD - 1:
            event = torch.cuda.Event()
            event.record(torch.cuda.current_stream(tokens.device))
            self._done.append(event)
            if len(self._done) > 1:
                self._done.pop(0).synchronize()

    def frames(self, first: int, end: int) -> Tensor:
        """See `Steps.frames`."""
        self._check()
        return undelay(self._recording.tokens[: self._rows, :, first : end + self._lm.config.codebooks])

    def _check(self) -> None:
        if self._window != self._recording.windows:
            raise RuntimeError("another window of this model and shape was begun before this one ended")


def forget_recordings(lm: LanguageModel) -> None:
    """Give back the memory of a model's recordings; the next window makes its own."""
    _recordings.pop(lm, None)


def _recording(lm: LanguageModel, shape: Shape, config: GenerationConfig) -> Recording:
    kept = _recordings.setdefault(lm, OrderedDict())
    if shape in kept:
        kept.move_to_end(shape)
        return kept[shape]
    while len(kept) >= KEPT_SHAPES:
        kept.popitem(last=False)
    kept[shape] = Recording(lm, shape, config)
    return kept[shape]
