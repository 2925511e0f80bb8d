"""Windows over a context longer than the model's: each continues the tokens written so far, and none is rewritten."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Window:
    """One stretch of a song, in frames.

    Attributes:
        start: first frame.
        length: frames of context and target in this window.
        kept: frames at its start whose tokens are already written; the others are generated.
    """

    start: int
    length: int
    kept: int

    @property
    def end(self) -> int:
        """The frame after the last."""
        return self.start + self.length


def plan_windows(total: int, window: int, advance: int, done: int = 0) -> Iterator[Window]:
    """Cover frames [done, total) with windows.

    All windows but a short song's only one have the model's full length; the last ends exactly at the end of the song,
    so it keeps more and generates less.

    Args:
        total: frames of the song.
        window: frames of the model's window.
        advance: frames by which windows move, 1 to `window`. The first window generates all its frames.
        done: frames at the start that exist already (a continuation).

    Raises:
        ValueError: sizes that make no progress.
    """
    if window < 1 or not 1 <= advance <= window:
        raise ValueError(f"a window of {window} frames cannot advance by {advance}")
    while done < total:
        # Behind `done` lies as much of the past as a moved window keeps; at the song's end, more.
        start = max(0, min(done - (window - advance), total - window))
        length = min(window, total - start)
        yield Window(start, length, done - start)
        done = start + length
