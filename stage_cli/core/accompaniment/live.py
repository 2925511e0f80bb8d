"""What can be heard while it is made: growing files, and a stream such as stdout."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from stage_cli.core.accompaniment.context import Context, FileContext
from stage_cli.core.accompaniment.request import Request, growing_path
from stage_cli.core.accompaniment.source import Source
from stage_cli.core.accompaniment.track import Mixer, Track
from stage_cli.core.audio.writing import GrowingWav, LiveWav

PIECE_SECONDS = 0.3
"""Audio that is decoded at once for those who listen. Shorter pieces are heard sooner, and cost more to decode."""

_Take = Callable[[np.ndarray], None]


@dataclass(frozen=True)
class Stream:
    """Where one stem goes while it is made.

    Attributes:
        file: open for writing bytes; it gets 16-bit WAV.
        mixed: it gets context and stem together.
    """

    file: BinaryIO
    mixed: bool = False


class LiveTrack(Track):
    """A track that is handed on at once.

    Args:
        model_rate: see `Track`.
        rate: see `Track`.
        frames: see `Track`.
        takers: called with each block `[n]`, one after the other.
    """

    def __init__(self, model_rate: int, rate: int, frames: int, takers: Sequence[_Take]) -> None:
        super().__init__(model_rate, rate, frames)
        self._takers = tuple(takers)

    def _take(self, samples: np.ndarray) -> None:
        for take in self._takers:
            take(samples)


@dataclass(frozen=True)
class Live:
    """All that is heard of one context.

    Attributes:
        tracks: one for each variation; none if nobody listens.
        streamed: what went to the stream, if there is one.
    """

    tracks: tuple[LiveTrack, ...] = ()
    streamed: LiveWav | None = None

    def notes(self) -> list[str]:
        """Tell what the listener should know of it."""
        if self.streamed is None or self.streamed.gain == 1:
            return []
        down = -20 * math.log10(self.streamed.gain)
        return [f"What was streamed was turned down on the way, by {down:.1f} dB in the end, to avoid clipping."]


@contextlib.contextmanager
def open_live(request: Request, source: Source, model_rate: int, stream: Stream | None) -> Generator[Live]:
    """Open all that is to be heard of a request; on leaving, growing files are deleted.

    Args:
        request: which outputs grow.
        source: the context that was read.
        model_rate: Hz of what the tracks will get.
        stream: where the first variation goes, or None.

    Raises:
        UsageError: a growing file exists.
        AudioError: a growing file, or the context once more, cannot be opened.
    """
    rate, frames = source.sample_rate, source.frames
    with contextlib.ExitStack() as stack:

        def growing(path: Path, channels: int) -> _Take:
            wav = GrowingWav(growing_path(path), rate, channels, frames, overwrite=request.overwrite)
            return stack.enter_context(wav).write

        def mixed(take: _Take) -> _Take:
            context = stack.enter_context(contextlib.closing(context_blocks(request.context, rate)))
            return _mixing(Mixer(context), take)

        stems: list[list[_Take]] = []
        for place, path in enumerate(request.stem_paths if request.growing else ()):
            stems.append([growing(path, 1)])
            if request.mix_paths:
                stems[place].append(mixed(growing(request.mix_paths[place], source.channels)))
        streamed = None
        if stream is not None:
            streamed = LiveWav(stream.file, rate, source.channels if stream.mixed else 1, frames)
            stems = stems or [[]]
            stems[0].append(mixed(streamed.write) if stream.mixed else streamed.write)
        yield Live(tuple(LiveTrack(model_rate, rate, frames, takers) for takers in stems), streamed)


def context_blocks(context: Context, rate: int) -> Generator[np.ndarray]:
    """Read a context again, `[frames, channels]` or `[frames]` at its own rate."""
    yield from context.source_blocks() if isinstance(context, FileContext) else context.blocks(rate)


def _mixing(mixer: Mixer, take: _Take) -> _Take:
    def mix(samples: np.ndarray) -> None:
        for block in mixer.push(samples):
            take(block)

    return mix
