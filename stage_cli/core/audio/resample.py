"""Change the sample rate of a stream, block by block."""

from __future__ import annotations

import numpy as np


def expected_frames(frames: int, source_rate: int, target_rate: int) -> int:
    """Return how many frames a resampled stream has: ceil(frames · target / source), in exact integers.

    Rounding up keeps every source frame: resampled there and back again, a stream is never shorter than it was.
    """
    return -(-frames * target_rate // source_rate)


class StreamResampler:
    """Resample a stream of blocks with soxr's very high quality, without delay: an impulse keeps its time.

    However the stream is cut into blocks, the frames that come out are the same. Peaks may rise above those of
    the source (the ringing of a band limit). Equal rates pass blocks through untouched.

    Args:
        source_rate: Hz.
        target_rate: Hz.
        channels: columns of every block.
    """

    def __init__(self, source_rate: int, target_rate: int, channels: int = 1) -> None:
        self.source_rate = source_rate
        self.target_rate = target_rate
        self.channels = channels
        self._frames_in = 0
        self._frames_out = 0
        self._finished = False
        self._stream = None
        if source_rate != target_rate:
            import soxr

            self._stream = soxr.ResampleStream(source_rate, target_rate, channels, dtype="float32", quality="VHQ")

    def push(self, block: np.ndarray) -> np.ndarray:
        """Take a block `[frames, channels]` float32 (`[frames]` if mono), return what is ready, in the same layout.

        The first blocks may give nothing: the filter looks ahead.
        """
        if self._finished:
            raise ValueError("push() after finish()")
        if block.ndim == 1 and self.channels != 1:
            raise ValueError(f"expected blocks [frames, {self.channels}], got {list(block.shape)}")
        self._frames_in += len(block)
        if self._stream is None:
            out = block
        else:
            out = self._stream.resample_chunk(np.ascontiguousarray(block, dtype=np.float32))
        self._frames_out += len(out)
        return out

    def finish(self, total_frames: int | None = None) -> np.ndarray:
        """Return the rest of the stream, `[frames, channels]` float32, so that its whole length is exact.

        Args:
            total_frames: the length of everything that this resampler has returned, with this last block; default
                `expected_frames` of what was pushed. A longer one ends in silence.

        Raises:
            ValueError: more frames than `total_frames` have already been returned.
        """
        if self._finished:
            raise ValueError("finish() was called twice")
        self._finished = True
        if total_frames is None:
            total_frames = expected_frames(self._frames_in, self.source_rate, self.target_rate)
        missing = total_frames - self._frames_out
        if missing < 0:
            raise ValueError(f"{self._frames_out} frames were already returned, cannot end at {total_frames}")
        rest = np.zeros((missing, self.channels), dtype=np.float32)
        if self._stream is not None and missing:
            # Silence of a few target frames lets soxr, which rounds lengths to the nearest, give the last ones too.
            silence = np.zeros((2 + 2 * self.source_rate // self.target_rate, self.channels), dtype=np.float32)
            tail = self._stream.resample_chunk(silence, last=True)[:missing]
            rest[: len(tail)] = tail
        self._frames_out = total_frames
        return rest
