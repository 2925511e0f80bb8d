"""Plain WAV files, which are read without libsndfile: the same samples, and the same errors."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile

from stage_cli.core.audio.decoding import AudioDecoder
from stage_cli.core.audio.reading import read_blocks
from stage_cli.errors import AudioError

RATE = 44_100


def noise(frames: int, channels: int) -> np.ndarray:
    samples = np.random.default_rng(frames).uniform(-1, 1, (frames, channels)).astype(np.float32)
    samples[: min(frames, 2)] = ((1.0,), (-1.0,))[:frames]  # both ends of the scale
    return samples


@pytest.mark.parametrize("channels", [1, 2, 5])
@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24", "FLOAT"])
@pytest.mark.parametrize("container", ["WAV", "WAVEX"])
def test_as_libsndfile_to_the_bit(tmp_path: Path, container: str, subtype: str, channels: int) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, noise(7_001, channels), RATE, format=container, subtype=subtype)
    expected, _ = soundfile.read(path, dtype="float32", always_2d=True)
    with AudioDecoder(path) as decoder:
        assert decoder._plain is not None
        blocks = [decoder.read(frames) for frames in (1, 999, 5_000)]
        decoder.skip_to(6_500)
        last = decoder.read(10_000)
        assert decoder.position == 7_001
        assert decoder.read(10).shape == (0, channels)
    np.testing.assert_array_equal(np.concatenate(blocks), expected[:6_000])
    np.testing.assert_array_equal(last, expected[6_500:])
    assert last.dtype == np.float32


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_32", "DOUBLE", "ULAW"])
def test_other_samples_are_left_to_libsndfile(tmp_path: Path, subtype: str) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, noise(2_000, 2), RATE, subtype=subtype)
    with AudioDecoder(path) as decoder:
        assert decoder._plain is None
    expected, _ = soundfile.read(path, dtype="float32", always_2d=True)
    np.testing.assert_array_equal(np.concatenate(list(read_blocks(path))), expected)


def test_samples_in_wider_containers(tmp_path: Path) -> None:
    """24 bits in four bytes each: what libsndfile makes of it counts."""
    frames = 500
    data = b"".join(struct.pack("<i", value << 8) for value in range(-frames, frames))
    head = struct.pack("<4sI4s4sIHHIIHH4sI", b"RIFF", 36 + len(data), b"WAVE", b"fmt ", 16, 1, 2, RATE, RATE * 8, 8, 24,
                       b"data", len(data))  # fmt: skip
    path = tmp_path / "a.wav"
    path.write_bytes(head + data)
    expected, _ = soundfile.read(path, dtype="float32", always_2d=True)
    np.testing.assert_array_equal(np.concatenate(list(read_blocks(path))), expected)


def test_a_file_that_is_cut_while_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, noise(100_000, 2), RATE, subtype="PCM_24")
    with AudioDecoder(path) as decoder:
        assert len(decoder.read(60_000)) == 60_000
        path.write_bytes(path.read_bytes()[:400_000])
        decoder.read(100_000)
        with pytest.raises(AudioError, match="is truncated · its header says 100000 frames, 66"):
            decoder.read(100_000)
