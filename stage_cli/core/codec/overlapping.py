"""A network that sees a bounded time to each side, fed piece by piece: what its outputs depend on is read again."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from stage_cli.core.codec.streaming_layers import join


class Overlapping:
    """A network with a memory (`streaming_layers.Layer`).

    Args:
        network: `[B, in, n · inputs]` → `[B, out, n · outputs]` for n frames; it pads where audio begins and ends. It
            is also told which frame of the whole the first of them is.
        margin: frames to either side that a frame's output depends on.
        inputs: input samples in a frame.
        outputs: output samples in a frame.
    """

    def __init__(self, network: Callable[[Tensor, int], Tensor], margin: int, *, inputs: int, outputs: int) -> None:
        self._network = network
        self._margin = margin
        self._inputs = inputs
        self._outputs = outputs
        self._kept: Tensor | None = None
        self._first = 0  # frame of the whole that the kept inputs begin with
        self._made = 0  # frames among the kept ones whose output has been returned

    def step(self, x: Tensor, *, last: bool) -> Tensor:
        """Take the next inputs; return the outputs that are ready, all of them if these inputs are the last."""
        x = x if self._kept is None else join(self._kept, x)
        whole = x.shape[-1] // self._inputs
        frames = -(-x.shape[-1] // self._inputs) if last else max(whole - self._margin, self._made)
        if frames == self._made:
            self._kept = x
            return x[..., :0]  # nothing: whoever joins the pieces leaves empty ones out
        output = self._network(x if last else x[..., : whole * self._inputs], self._first)
        made = output[..., self._made * self._outputs : frames * self._outputs]
        begin = max(0, frames - self._margin)
        self._kept = x[..., begin * self._inputs :].clone()
        self._made = frames - begin
        self._first += begin
        return made
