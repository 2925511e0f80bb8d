"""Windows over a context longer than the model's: each continues the tokens written so far, and none is rewritten.

A window may hear further than it writes: what is played at its end then fits what comes next, too.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Window:
    """One stretch of a song, in frames.

    Attributes:
        start: first frame.
        length: frames of context in this window.
        kept: frames at its start whose tokens are already written.
        target: frames whose tokens are written after it, the kept ones included; the others of its context are only
            heard.
    """

    start: int
    length: int
    kept: int
    target: int

    @property
    def end(self) -> int:
        """The frame after the last that is heard."""
        return self.start + self.length

    @property
    def written(self) -> int:
        """The frame after the last that is written."""
        return self.start + self.target


def plan_windows(total: int, window: int, advance: int, done: int = 0, *, lookahead: int = 0) -> Iterator[Window]:
    """Cover frames [done, total) with windows.

    All windows but a short song's only one have the model's full length; the last ends exactly at the end of the song
    and is written to its end.

    Args:
        total: frames of the song.
        window: frames of the model's window.
        advance: frames by which windows move, 1 to `window − lookahead`.
        done: frames at the start that exist already (a continuation).
        lookahead: frames at a window's end that it hears and leaves to the next.

    Raises:
        ValueError: sizes that make no progress.
    """
    if lookahead < 0 or not 1 <= advance <= window - lookahead:
        beyond = f" and look ahead by {lookahead}" if lookahead else ""
        raise ValueError(f"a window of {window} frames cannot advance by {advance}{beyond}")
    while done < total:
        # Behind `done` lies as much of the past as a moved window keeps; at the song's end, more.
        start = max(0, min(done - (window - lookahead - advance), total - window))
        length = min(window, total - start)
        part = Window(start, length, done - start, length - (lookahead if start + length < total else 0))
        yield part
        done = part.written
