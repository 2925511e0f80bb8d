"""WAV that is heard while it is written: read back by other libraries, whole, half-way and from a pipe."""

from __future__ import annotations

import errno
import io
import wave
from pathlib import Path

import numpy as np
import pytest
import soundfile
from scipy.io import wavfile

from stage_cli.core.audio.reading import probe
from stage_cli.core.audio.writing import GrowingWav, LiveWav
from stage_cli.errors import AudioError, UsageError

STEP = 2**-15


def noise(frames: int, channels: int) -> np.ndarray:
    return np.random.default_rng(frames).uniform(-0.99, 0.99, (frames, channels)).astype(np.float32)


@pytest.mark.parametrize("channels", [1, 2, 6])
@pytest.mark.parametrize("block", [1, 7, 1000])
def test_what_other_libraries_read(channels: int, block: int) -> None:
    audio, file = noise(1000, channels), io.BytesIO()
    live = LiveWav(file, 44100, channels, len(audio))
    for start in range(0, len(audio), block):
        part = audio[start : start + block]
        live.write(part[:, 0] if channels == 1 else part)
    read, rate = soundfile.read(io.BytesIO(file.getvalue()), always_2d=True)
    assert rate == 44100
    np.testing.assert_allclose(read, audio, rtol=0, atol=STEP / 2)
    rate, samples = wavfile.read(io.BytesIO(file.getvalue()))
    np.testing.assert_array_equal(samples.reshape(-1, channels), read / STEP)
    with wave.open(io.BytesIO(file.getvalue())) as plain:
        assert plain.getparams()[:4] == (channels, 2, 44100, 1000)
    assert live.peak == np.abs(audio).max()


def test_all_of_a_block_has_left_when_write_returns(tmp_path: Path) -> None:
    with (tmp_path / "live.wav").open("wb") as file:
        live = LiveWav(file, 8000, 1, 300)
        assert (tmp_path / "live.wav").stat().st_size == 44
        for blocks in range(1, 4):
            live.write(noise(100, 1))
            assert (tmp_path / "live.wav").stat().st_size == 44 + 200 * blocks


def test_what_is_too_loud_is_turned_down_and_stays_so() -> None:
    """A fade of 5 ms, 40 samples here; what rises within it is cut."""
    file = io.BytesIO()
    live = LiveWav(file, 8000, 1, 1000)
    quiet, loud = np.full(100, 0.5, dtype=np.float32), np.full(100, 2.0, dtype=np.float32)
    for block in (np.array([1.0, -1.0], dtype=np.float32), quiet, loud, np.zeros(0, dtype=np.float32), quiet):
        live.write(block)
    samples = np.frombuffer(file.getvalue()[44:], dtype="<i2")
    assert samples[:2].tolist() == [32767, -32768]
    assert (samples[2:102] == 16384).all()
    down = 10 ** (-0.1 / 20)
    assert (live.peak, live.gain) == (2.0, pytest.approx(down / 2))
    assert (samples[202 - 60 : 202] == round(down * 2**15)).all()
    assert samples[102:142].max() == 32767
    assert (samples[202:] == round(0.5 * down / 2 * 2**15)).all()


def test_turning_down_does_not_click() -> None:
    file = io.BytesIO()
    live = LiveWav(file, 48000, 2, 9600)
    tone = 0.9 * np.sin(2 * np.pi * 100 * np.arange(4800) / 48000, dtype=np.float32)[:, None] * np.ones(2, np.float32)
    live.write(tone)
    tone[4000:] *= 2
    live.write(tone)
    samples = np.frombuffer(file.getvalue()[44:], dtype="<i2").reshape(-1, 2) / 2**15
    # A sine of 100 Hz and 0.9 moves by 0.012 from sample to sample.
    assert np.abs(np.diff(samples[: 4800 + 4000], axis=0)).max() < 0.015
    assert np.abs(samples).max() < 1


@pytest.mark.parametrize(
    ("frames", "whole", "samples"),
    [(2**30 - 10, 2**32 - 4, 2**32 - 40), (2**30 - 9, 2**32 - 1, 2**32 - 36), (2**40, 2**32 - 1, 2**32 - 1)],
)
def test_a_length_that_the_header_does_not_hold(frames: int, whole: int, samples: int) -> None:
    file = io.BytesIO()
    LiveWav(file, 48000, 2, frames)
    header = file.getvalue()
    assert (header[4:8], header[40:44]) == (whole.to_bytes(4, "little"), samples.to_bytes(4, "little"))


def test_a_growing_file_can_be_read_and_is_gone_afterwards(tmp_path: Path) -> None:
    path, audio = tmp_path / "new/stem.wav.part", noise(3000, 2)
    with GrowingWav(path, 8000, 2, 3000) as growing:
        for end in (1000, 2000, 3000):
            growing.write(audio[end - 1000 : end])
            read, _ = soundfile.read(path)
            np.testing.assert_allclose(read, audio[:end], rtol=0, atol=STEP / 2)
        assert probe(path).frames == 3000
    assert list((tmp_path / "new").iterdir()) == []


def test_a_growing_file_is_gone_after_a_failure(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), GrowingWav(tmp_path / "stem.wav.part", 8000, 1, 10):
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_a_growing_file_that_exists(tmp_path: Path) -> None:
    path = tmp_path / "stem.wav.part"
    path.write_bytes(b"precious")
    with (
        pytest.raises(UsageError, match=r"stem.wav.part already exists.*another run is writing it"),
        GrowingWav(path, 8000, 1, 10),
    ):
        pass
    assert path.read_bytes() == b"precious"
    with GrowingWav(path, 8000, 1, 10, overwrite=True):
        assert path.read_bytes()[:4] == b"RIFF"


def test_a_growing_file_does_not_follow_a_link(tmp_path: Path) -> None:
    (tmp_path / "other.wav").write_bytes(b"precious")
    (tmp_path / "stem.wav.part").symlink_to("other.wav")
    with GrowingWav(tmp_path / "stem.wav.part", 8000, 1, 10, overwrite=True):
        pass
    assert (tmp_path / "other.wav").read_bytes() == b"precious"


def test_a_growing_file_on_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    def listen() -> None:
        with GrowingWav(tmp_path / "stem.wav.part", 8000, 1, 10) as growing:
            monkeypatch.setattr(LiveWav, "_send", full)
            growing.write(np.zeros(10, dtype=np.float32))

    for _ in range(2):  # while it is written, then when it is opened
        with pytest.raises(AudioError, match=r"cannot write .*stem.wav.part.*the disk is full"):
            listen()
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["file/stem.wav.part", "x" * 300 + ".wav.part", "zero\0byte.wav.part"])
def test_a_growing_file_that_cannot_be(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(AudioError, match=r"cannot write .*\.wav\.part"), GrowingWav(tmp_path / name, 8000, 1, 10):
        pass
