"""One stem on its way out: resampled, measured, and kept on disk until its peak is known, then written."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Generator, Iterable, Iterator
from pathlib import Path

import numpy as np

from stage_cli.core.audio.loudness import LoudnessMeter
from stage_cli.core.audio.reading import BLOCK_FRAMES
from stage_cli.core.audio.resample import StreamResampler
from stage_cli.core.audio.writing import AtomicAudioWriter
from stage_cli.core.files import display_name
from stage_cli.errors import AudioError

# What is too loud is turned down to this peak, 0.1 dB under full scale.
CEILING = 10 ** (-0.1 / 20)


class Track:
    """Mono audio of known length at the context's rate, arriving block by block at the model's rate.

    What becomes of it is for `_take` to say.

    Args:
        model_rate: Hz of what arrives.
        rate: Hz of what becomes of it.
        frames: exact length at `rate`; what is over is cut, what is missing is silence.
    """

    def __init__(self, model_rate: int, rate: int, frames: int) -> None:
        self.frames = frames
        self.meter = LoudnessMeter(rate, 1)
        self._resampler = StreamResampler(model_rate, rate)
        self._taken = 0

    def push(self, samples: np.ndarray) -> None:
        """Take the next samples `[n]` at the model's rate."""
        self._measure(self._resampler.push(samples))

    def finish(self) -> None:
        """Take the resampler's rest and fill up with silence."""
        self._measure(self._resampler.finish().reshape(-1))
        self._measure(np.zeros(self.frames - self._taken, dtype=np.float32))

    def _take(self, samples: np.ndarray) -> None:
        """Take the next samples `[n]` at the context's rate, n > 0."""
        raise NotImplementedError

    def _measure(self, samples: np.ndarray) -> None:
        samples = samples[: self.frames - self._taken]
        if not len(samples):
            return
        self.meter.push(samples)
        self._take(samples)
        self._taken += len(samples)


class StemTrack(Track):
    """A track that waits in a nameless file, which disappears with the process however that ends.

    Args:
        folder: where the nameless file lies: that of the output, for there is room for it there.
        model_rate: see `Track`.
        rate: see `Track`.
        frames: see `Track`.
    """

    def __init__(self, folder: Path, model_rate: int, rate: int, frames: int) -> None:
        super().__init__(model_rate, rate, frames)
        self._folder = folder
        with self._storing():
            self._file = tempfile.TemporaryFile(dir=folder, prefix=".stage-")  # noqa: SIM115 - closed by `close`

    def finish(self) -> None:
        """Take the resampler's rest and fill up with silence."""
        super().finish()
        with self._storing():
            self._file.flush()

    def blocks(self) -> Iterator[np.ndarray]:
        """Read what is stored, `[n]` float32."""
        self._file.seek(0)
        while data := self._file.read(4 * BLOCK_FRAMES):
            yield np.frombuffer(data, dtype=np.float32)

    def close(self) -> None:
        """Let go of the nameless file."""
        with contextlib.suppress(OSError):  # a full disk, which has been told, fails once more
            self._file.close()

    def _take(self, samples: np.ndarray) -> None:
        with self._storing():
            self._file.write(np.ascontiguousarray(samples, dtype=np.float32).tobytes())

    @contextlib.contextmanager
    def _storing(self) -> Generator[None]:
        try:
            yield
        except OSError as error:
            raise AudioError(
                f"cannot store the stem in {display_name(self._folder)}",
                why=error.strerror or str(error),
                next_step="free some space, or choose another --output",
            ) from error


def gain_for(peak: float) -> float:
    """Return the factor, at most 1, that brings a peak under full scale."""
    return 1.0 if peak <= 1.0 else CEILING / peak


def write_scaled(blocks: Iterable[np.ndarray], writer: AtomicAudioWriter, gain: float) -> None:
    """Write blocks, turned down by a gain."""
    for block in blocks:
        writer.write(np.clip(block * np.float32(gain), -1.0, 1.0) if gain < 1 else block)


class Mixer:
    """Adds a mono stem, as it comes, to every channel of a context.

    Args:
        context: `[frames, channels]` blocks, as long as the stem in all; they need not be cut alike.
    """

    def __init__(self, context: Iterable[np.ndarray]) -> None:
        self._context = iter(context)
        self._block = np.zeros((0, 1), dtype=np.float32)

    def push(self, stem: np.ndarray) -> Iterator[np.ndarray]:
        """Take the next samples `[n]` of the stem; yield as many frames of the mix, `[frames, channels]` float32."""
        while len(stem):
            if not len(self._block):
                block = next(self._context)
                self._block = block.reshape(len(block), -1)
            n = min(len(self._block), len(stem))
            yield self._block[:n] + stem[:n, None]
            self._block, stem = self._block[n:], stem[n:]


def mixed_blocks(context: Iterable[np.ndarray], stem: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """Add a mono stem to every channel of the context; both are equally long, their blocks need not be.

    Args:
        context: `[frames, channels]` blocks.
        stem: `[frames]` blocks.

    Yields:
        `[frames, channels]` float32.
    """
    mixer = Mixer(context)
    for block in stem:
        yield from mixer.push(block)
