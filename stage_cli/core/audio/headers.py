"""What WAV and AIFF headers promise, against what the file holds.

libsndfile shortens the promise silently to what is there, so a file that was cut off looks whole.
"""

from __future__ import annotations

import io
import os
from dataclasses import dataclass

# Writers that count the header in, or forget a pad byte, promise a little too much; nothing is missing then.
_SLOPPY_BYTES = 64


@dataclass(frozen=True)
class SampleChunk:
    """The chunk of a WAV or AIFF file that holds the samples, sizes in bytes.

    Args:
        promised: of the samples, as the header states it; None if the writer never filled it in.
        present: from the first sample to the end of the file.
        size_position: where the size field lies in the file.
    """

    promised: int | None
    present: int
    size_position: int

    @property
    def is_truncated(self) -> bool:
        """Whether the header promises samples that the file does not hold."""
        return self.promised is not None and self.promised > self.present + _SLOPPY_BYTES

    @property
    def repaired_sizes(self) -> dict[int, bytes]:
        """Bytes by position that make libsndfile read to the end of a file whose sizes were never filled in."""
        return {4: b"\xff" * 4, self.size_position: b"\xff" * 4} if self.promised is None else {}


def find_sample_chunk(file: io.BufferedIOBase) -> SampleChunk | None:
    """Find the chunk of samples of a RIFF (WAV) or FORM (AIFF) file; None for other files or without such a chunk.

    Leaves the file at position 0.
    """
    file_size = file.seek(0, os.SEEK_END)
    file.seek(0)
    head = file.read(12)
    kind, form = head[:4], head[8:]
    if kind == b"RIFF" and form == b"WAVE":
        byte_order, wanted, preamble = "little", b"data", 0
    elif kind == b"FORM" and form in (b"AIFF", b"AIFC"):
        byte_order, wanted, preamble = "big", b"SSND", 8  # AIFF's chunk begins with an offset and a block size
    else:
        file.seek(0)
        return None
    whole_size = int.from_bytes(head[4:8], byte_order)
    found = None
    while len(chunk := file.read(8)) == 8:
        size = int.from_bytes(chunk[4:], byte_order)
        if chunk[:4] == wanted:
            present = file_size - file.tell()
            # An empty file has a right outer size; a recorder that was stopped before it wrote sizes has not.
            unset = size == 0 and present > 0 and abs(whole_size - (file_size - 8)) > 1
            promised = None if unset or (size > present and _stands_for_unknown(size)) else size
            size_position = file.tell() - 4
            if promised is not None:
                promised = max(0, promised - preamble)
            found = SampleChunk(promised, max(0, present - preamble), size_position)
            break
        file.seek(size + size % 2, os.SEEK_CUR)
    file.seek(0)
    return found


def _stands_for_unknown(size: int) -> bool:
    """Whether a size is what programs write that stream into a pipe: just under 2 GiB (SoX) or 4 GiB (ffmpeg)."""
    return 2**31 - 8192 <= size < 2**31 or size >= 2**32 - 8192
