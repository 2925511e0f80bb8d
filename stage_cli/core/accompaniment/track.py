"""One stem on its way to a file: resampled, measured, kept on disk until its peak is known, then written."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Generator, Iterable, Iterator
from pathlib import Path

import numpy as np

from stage_cli.core.audio.files import display_name
from stage_cli.core.audio.reading import BLOCK_FRAMES
from stage_cli.core.audio.resampling import StreamResampler
from stage_cli.core.audio.writing import AtomicAudioWriter
from stage_cli.core.loudness import LoudnessMeter
from stage_cli.errors import AudioError

# What is too loud is turned down to this peak, 0.1 dB under full scale.
CEILING = 10 ** (-0.1 / 20)


class StemTrack:
    """Mono audio of known length at the context's rate, arriving block by block at the model's rate.

    It waits in a nameless file, which disappears with the process however that ends.

    Args:
        folder: where the nameless file lies: that of the output, for there is room for it there.
        model_rate: Hz of what arrives.
        rate: Hz of what is written.
        frames: exact length at `rate`; what is over is cut, what is missing is silence.
    """

    def __init__(self, folder: Path, model_rate: int, rate: int, frames: int) -> None:
        self.frames = frames
        self.meter = LoudnessMeter(rate, 1)
        self._resampler = StreamResampler(model_rate, rate)
        self._folder = folder
        self._stored = 0
        with self._storing():
            self._file = tempfile.TemporaryFile(dir=folder, prefix=".stage-")  # noqa: SIM115 - closed by `close`

    def push(self, samples: np.ndarray) -> None:
        """Take the next samples `[n]` at the model's rate."""
        self._store(self._resampler.push(samples))

    def finish(self) -> None:
        """Take the resampler's rest and fill up with silence."""
        self._store(self._resampler.finish().reshape(-1))
        self._store(np.zeros(self.frames - self._stored, dtype=np.float32))
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

    def _store(self, samples: np.ndarray) -> None:
        samples = samples[: self.frames - self._stored]
        if not len(samples):
            return
        self.meter.push(samples)
        with self._storing():
            self._file.write(np.ascontiguousarray(samples, dtype=np.float32).tobytes())
        self._stored += len(samples)

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


def mixed_blocks(context: Iterable[np.ndarray], stem: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """Add a mono stem to every channel of the context; both are equally long, their blocks need not be.

    Args:
        context: `[frames, channels]` blocks.
        stem: `[frames]` blocks.

    Yields:
        `[frames, channels]` float32.
    """
    parts = iter(stem)
    part = np.zeros(0, dtype=np.float32)
    for source in context:
        block = source.reshape(len(source), -1)
        while len(block):
            if not len(part):
                part = next(parts)
            n = min(len(block), len(part))
            yield block[:n] + part[:n, None]
            block, part = block[n:], part[n:]
