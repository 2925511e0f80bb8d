import errno
import os
import shutil
import stat
import subprocess
import sys
import wave
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import scipy.io.wavfile
import soundfile

from stage_cli.core.audio.naming import find_audio, output_path
from stage_cli.core.audio.reading import read_blocks
from stage_cli.core.audio.writing import AtomicAudioWriter
from stage_cli.errors import AudioError, UsageError

# 24 bits: rounding is half a step, and libsndfile scales by 2^23 − 1 on writing, 2^23 on reading: half a step more.
STEP = 2.0**-23


def noise(frames, channels=2, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, (frames, channels)).astype(np.float32)


def write(path, samples, rate=44_100, format="wav", overwrite=False, block=1000, **options):
    with AtomicAudioWriter(path, rate, samples.shape[1], format, overwrite, **options) as writer:
        for first in range(0, len(samples), block):
            writer.write(samples[first : first + block])


def leftovers(folder):
    return [path.name for path in folder.iterdir() if path.name.endswith(".part")]


# --- what is written -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 2, 6])
def test_a_wav_as_scipy_reads_it(tmp_path, channels):
    for rate in (8_000, 44_100, 192_000):
        samples = noise(12_345, channels)
        samples[:2] = [[1.0], [-1.0]]
        write(tmp_path / f"{rate}.wav", samples, rate)
        got_rate, integers = scipy.io.wavfile.read(tmp_path / f"{rate}.wav")  # 24 bits, in the upper bytes of 32
        assert got_rate == rate
        assert integers.reshape(-1, channels).shape == samples.shape
        np.testing.assert_allclose(integers.reshape(samples.shape) / 2.0**31, samples, atol=1.01 * STEP, rtol=0)


def test_a_wavs_header_as_the_standard_library_reads_it(tmp_path):
    write(tmp_path / "a.wav", noise(777), 32_000)
    with wave.open(str(tmp_path / "a.wav")) as file:
        assert (file.getframerate(), file.getnchannels(), file.getsampwidth(), file.getnframes()) == (32_000, 2, 3, 777)


@pytest.mark.parametrize("channels", [1, 2, 8])
def test_a_flac_as_soundfile_reads_it(tmp_path, channels):
    for rate in (8_000, 11_025, 44_100, 65_535, 176_400, 192_000, 655_350):
        samples = noise(9_999, channels)
        write(tmp_path / f"{rate}.flac", samples, rate, "flac")
        info = soundfile.info(tmp_path / f"{rate}.flac")
        assert (info.format, info.subtype, info.samplerate, info.frames) == ("FLAC", "PCM_24", rate, 9_999)
        got = soundfile.read(tmp_path / f"{rate}.flac", always_2d=True)[0]
        np.testing.assert_allclose(got, samples, atol=1.01 * STEP, rtol=0)


def test_blocks_of_every_size_make_the_same_file(tmp_path):
    samples = noise(5_000)
    write(tmp_path / "one.wav", samples, block=5_000)
    write(tmp_path / "many.wav", samples, block=7)
    assert (tmp_path / "one.wav").read_bytes() == (tmp_path / "many.wav").read_bytes()


def test_mono_blocks_may_have_one_axis_and_empty_ones_do_nothing(tmp_path):
    with AtomicAudioWriter(tmp_path / "a.wav", 8_000, 1) as writer:
        writer.write(np.zeros(0, np.float32))
        writer.write(np.full(10, 0.5, np.float64))
        assert writer.frames_written == 10
    np.testing.assert_allclose(soundfile.read(tmp_path / "a.wav")[0], 0.5, atol=STEP)


def test_what_was_written_is_read_back(tmp_path):
    samples = noise(100_000)
    write(tmp_path / "a.flac", samples, 48_000, "flac", frames=100_000)
    np.testing.assert_allclose(np.concatenate(list(read_blocks(tmp_path / "a.flac"))), samples, atol=1.01 * STEP)


@pytest.mark.parametrize(
    "name", ["with space.wav", "größe 日本.wav", "line\nbreak.wav", "-dash.wav", "%s;$HOME.wav", "a" * 251 + ".wav"]
)
def test_odd_names(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    write(Path(name), noise(100))
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert soundfile.info(tmp_path / name).frames == 100


def test_missing_folders_are_made(tmp_path):
    write(tmp_path / "new" / "deep" / "a.wav", noise(10))
    assert soundfile.info(tmp_path / "new" / "deep" / "a.wav").frames == 10


def test_the_file_has_its_name_only_when_it_is_whole(tmp_path):
    with AtomicAudioWriter(tmp_path / "a.wav", 8_000, 2) as writer:
        writer.write(noise(10))
        assert not (tmp_path / "a.wav").exists()
        (part,) = tmp_path.iterdir()
        assert part.name.startswith(".")
        assert part.name.endswith(".part")
    assert [path.name for path in tmp_path.iterdir()] == ["a.wav"]


@pytest.mark.skipif(os.name == "nt", reason="no umask there")
@pytest.mark.parametrize("overwrite", [False, True])
def test_permissions_follow_the_umask(tmp_path, overwrite):
    before = os.umask(0o027)
    try:
        write(tmp_path / "a.wav", noise(10), overwrite=overwrite)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a.wav").stat().st_mode) == 0o640


# --- what exists already ---------------------------------------------------------------------------------------


def test_an_existing_file_is_kept_without_overwrite(tmp_path):
    (tmp_path / "a.wav").write_text("precious")
    with pytest.raises(UsageError, match=r"a\.wav already exists · use `overwrite`"):
        write(tmp_path / "a.wav", noise(10))
    assert (tmp_path / "a.wav").read_text() == "precious"
    assert not leftovers(tmp_path)


def test_an_existing_file_is_replaced_with_overwrite(tmp_path):
    (tmp_path / "a.wav").write_text("old")
    write(tmp_path / "a.wav", noise(10), overwrite=True)
    assert soundfile.info(tmp_path / "a.wav").frames == 10


@pytest.mark.parametrize("hard_links", [True, False])
def test_a_file_that_appears_meanwhile_is_kept(tmp_path, monkeypatch, hard_links):
    if not hard_links:
        forbid_hard_links(monkeypatch)
    writer = AtomicAudioWriter(tmp_path / "a.wav", 8_000, 2)
    writer.__enter__()
    writer.write(noise(10))
    (tmp_path / "a.wav").write_text("precious")
    with pytest.raises(UsageError, match="`overwrite`"):
        writer.__exit__(None, None, None)
    assert (tmp_path / "a.wav").read_text() == "precious"
    assert not leftovers(tmp_path)


def forbid_hard_links(monkeypatch):
    def refuse(*arguments, **options):
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)


def test_a_file_system_without_hard_links(tmp_path, monkeypatch):
    forbid_hard_links(monkeypatch)
    write(tmp_path / "a.wav", noise(10))
    assert soundfile.info(tmp_path / "a.wav").frames == 10
    assert not leftovers(tmp_path)


def test_a_failure_keeps_the_file_that_was_to_be_replaced(tmp_path):
    (tmp_path / "a.wav").write_text("old")
    with pytest.raises(ValueError, match="full scale"):
        write(tmp_path / "a.wav", 2 * noise(10), overwrite=True)
    assert (tmp_path / "a.wav").read_text() == "old"
    assert not leftovers(tmp_path)


@pytest.mark.skipif(os.name == "nt", reason="symbolic links need rights there")
def test_a_symbolic_link_is_written_through(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "b.wav").write_text("old")
    (tmp_path / "a.wav").symlink_to(tmp_path / "real" / "b.wav")
    write(tmp_path / "a.wav", noise(10), overwrite=True)
    assert (tmp_path / "a.wav").is_symlink()
    assert soundfile.info(tmp_path / "real" / "b.wav").frames == 10


def test_a_folder_is_not_replaced(tmp_path):
    (tmp_path / "a.wav").mkdir()
    with pytest.raises(UsageError, match="it is a folder"):
        write(tmp_path / "a.wav", noise(10), overwrite=True)


@pytest.mark.skipif(os.name == "nt", reason="no pipes there")
def test_a_device_is_not_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe.wav")
    with pytest.raises(UsageError, match="not a regular file"):
        write(tmp_path / "pipe.wav", noise(10), overwrite=True)
    assert stat.S_ISFIFO((tmp_path / "pipe.wav").stat().st_mode)


# --- failures --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("format", ["wav", "flac"])
@pytest.mark.parametrize("failure", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_any_exception_deletes_what_was_begun(tmp_path, failure, format):
    with pytest.raises(failure), AtomicAudioWriter(tmp_path / "a", 8_000, 2, format) as writer:  # noqa: PT012
        writer.write(noise(50_000))
        raise failure
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_while_libsndfile_writes_is_not_lost(tmp_path, monkeypatch):
    with pytest.raises(KeyboardInterrupt), AtomicAudioWriter(tmp_path / "a.wav", 8_000, 2) as writer:  # noqa: PT012
        file = InterruptedFile(writer._file)
        monkeypatch.setattr(writer._guard, "_file", file)
        writer.write(noise(50_000))
        pytest.fail("the interrupt was swallowed")
    assert list(tmp_path.iterdir()) == []


class InterruptedFile:
    def __init__(self, file):
        self.seek, self.tell = file.seek, file.tell

    def write(self, data):
        raise KeyboardInterrupt


@pytest.mark.parametrize("format", ["wav", "flac"])
@pytest.mark.parametrize("operation", ["write", "seek", "tell"])
@pytest.mark.parametrize("when", ["writing", "closing"])
def test_no_failure_below_libsndfile_is_lost(tmp_path, format, operation, when):
    with pytest.raises(AudioError, match="Input/output error"):
        write_and_fail(tmp_path / "a", format, operation, when)
    assert list(tmp_path.iterdir()) == []


def write_and_fail(path, format, operation, when):
    with AtomicAudioWriter(path, 8_000, 2, format) as writer:
        if when == "closing":
            writer.write(noise(50_000))
        writer._guard._file = cast("Any", FailingFile(writer._file, operation))
        if when == "writing":
            writer.write(noise(50_000))


class FailingFile:
    """A file of which one operation fails."""

    def __init__(self, file, operation):
        self.seek, self.tell, self.write = file.seek, file.tell, file.write
        setattr(self, operation, self.fail)

    def fail(self, *arguments):
        raise OSError(errno.EIO, "Input/output error")


@pytest.mark.parametrize("format", ["wav", "flac"])
@pytest.mark.parametrize("frames", [100, 200_000])  # 100: small enough to fail only on closing
def test_a_file_beyond_the_systems_limit(tmp_path, format, frames):
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64, before[1]))
    try:
        with pytest.raises(
            AudioError, match=r"cannot write .* · the file grows larger than the system allows"
        ) as caught:
            write(tmp_path / "a", noise(frames), format=format)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert isinstance(caught.value.__cause__, OSError)  # the system's own error, not libsndfile's
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def tiny_disk(tmp_path):
    """A real file system of 256 KiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if not sys.platform.startswith("linux") or not shutil.which("mount"):
        pytest.skip("needs Linux's tmpfs")
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(disk)], capture_output=True)
    if mounted.returncode:
        pytest.skip("may not mount here")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


@pytest.mark.parametrize("format", ["wav", "flac"])
@pytest.mark.parametrize("room", [200_000, 0])  # 0: not even the header fits, and 100 frames fail only on closing
def test_a_full_disk(tiny_disk, format, room):
    filler = tiny_disk / "filler"
    with pytest.raises(OSError, match="No space"), filler.open("wb", buffering=0) as file:  # noqa: PT012
        while True:
            file.write(bytes(4096))
    os.truncate(filler, max(0, filler.stat().st_size - room))
    with pytest.raises(AudioError, match="the disk is full · free some space"):
        write(tiny_disk / "a", noise(200_000 if room else 100), format=format)
    assert [path.name for path in tiny_disk.iterdir()] == ["filler"]


def test_a_disk_that_fails_on_synchronising(tmp_path, monkeypatch):
    def fail(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(AudioError, match="the disk is full"):
        write(tmp_path / "a.wav", noise(10))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("code", "why"),
    [
        (errno.EACCES, "no permission to write there · choose another folder"),
        (errno.EROFS, "the disk is read-only"),
        (errno.EDQUOT, "quota"),
        (errno.EIO, "Input/output error"),
    ],
)
def test_a_folder_that_cannot_be_written_to(tmp_path, monkeypatch, code, why):
    # The tests may run as root, whom no permission stops.
    def refuse(path, *arguments, **options):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(AudioError, match=why):
        write(tmp_path / "a.wav", noise(10))


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs Linux's /proc")
def test_a_folder_that_nobody_can_write_to():
    with pytest.raises(AudioError, match=r"cannot write /proc/\d+/a.wav"):
        write(Path(f"/proc/{os.getpid()}/a.wav"), noise(10))


def test_a_folder_that_is_a_file(tmp_path):
    (tmp_path / "file").touch()
    for path in (tmp_path / "file" / "a.wav", tmp_path / "file" / "deep" / "a.wav"):
        with pytest.raises(AudioError, match="a part of its path is a file, not a folder"):
            write(path, noise(10))


def test_names_that_no_file_can_have(tmp_path):
    with pytest.raises(AudioError, match="the name is too long · choose a shorter name"):
        write(tmp_path / ("a" * 300 + ".wav"), noise(10))
    with pytest.raises(AudioError, match="null"):
        write(tmp_path / "a\0.wav", noise(10))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("value", [1.0001, -1.5, np.nan, np.inf])
def test_samples_beyond_full_scale_are_the_callers_fault(tmp_path, value):
    samples = noise(10)
    samples[5, 1] = value
    with pytest.raises(ValueError, match="full scale is ±1"):
        write(tmp_path / "a.wav", samples)
    assert list(tmp_path.iterdir()) == []


def test_blocks_of_the_wrong_shape(tmp_path):
    for block in (np.zeros((5, 3)), np.zeros(5), np.zeros((1, 5, 2))):
        with (
            pytest.raises(ValueError, match=r"expected blocks \[frames, 2\]"),
            AtomicAudioWriter(tmp_path / "a.wav", 8_000, 2) as writer,
        ):
            writer.write(block)


def test_a_length_that_was_announced_is_kept(tmp_path):
    with pytest.raises(ValueError, match="11 frames were announced, 10 were written"):
        write(tmp_path / "a.wav", noise(10), frames=11)
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_format(tmp_path):
    with pytest.raises(UsageError, match="`format` cannot be 'mp3' · choose wav or flac"):
        AtomicAudioWriter(tmp_path / "a.mp3", 44_100, 2, "mp3")


@pytest.mark.parametrize(("rate", "channels"), [(655_360, 2), (768_000, 2), (176_401, 2), (44_100, 9)])
def test_what_flac_cannot_hold(tmp_path, rate, channels):
    with pytest.raises(AudioError, match=rf"FLAC does not hold {channels} channels at {rate} Hz · write WAV"):
        AtomicAudioWriter(tmp_path / "a.flac", rate, channels, "flac")
    write(tmp_path / "a.wav", noise(10, channels), rate)
    assert soundfile.info(tmp_path / "a.wav").samplerate == rate


def test_a_wav_that_will_pass_4_gib_is_rf64(tmp_path, monkeypatch):
    monkeypatch.setattr("stage_cli.core.audio.writing._LARGEST_WAV", 600)
    samples = noise(200)
    write(tmp_path / "long.wav", samples, frames=200)
    write(tmp_path / "short.wav", samples[:100], frames=100)
    assert (tmp_path / "long.wav").read_bytes()[:4] == b"RF64"
    assert (tmp_path / "short.wav").read_bytes()[:4] == b"RIFF"
    np.testing.assert_allclose(soundfile.read(tmp_path / "long.wav")[0], samples, atol=1.01 * STEP)


def test_a_wav_that_passes_4_gib_unannounced_is_refused_in_time(tmp_path):
    with pytest.raises(AudioError, match=r"a WAV file ends at 4 GiB · write FLAC"):
        write_behind(tmp_path / "a.wav", 2**32 // 6 - 10)
    assert list(tmp_path.iterdir()) == []


def write_behind(path, frames):
    """Write ten frames as if `frames` had been written before."""
    with AtomicAudioWriter(path, 44_100, 2) as writer:
        writer.frames_written = frames
        writer.write(noise(10))


# --- names -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("context", "options", "expected"),
    [
        ("mix.wav", {}, "mix.drums.wav"),
        ("mix.wav", {"variation": 1}, "mix.drums.wav"),
        ("mix.wav", {"variation": 2}, "mix.drums.2.wav"),
        ("mix.mp3", {"format": "flac"}, "mix.drums.flac"),
        ("mix.wav", {"mixed": True}, "mix.drums.mix.wav"),
        ("mix.wav", {"mixed": True, "variation": 3}, "mix.drums.3.mix.wav"),
        ("my.song.v2.wav", {}, "my.song.v2.drums.wav"),
        ("song.v2", {}, "song.v2.drums.wav"),
        ("MIX.WAV", {}, "MIX.drums.wav"),
        (".mix.wav", {}, ".mix.drums.wav"),
        ("größe 日本.aiff", {}, "größe 日本.drums.wav"),
    ],
)
def test_output_names(context, options, expected):
    assert output_path(Path("some") / context, "drums", **options) == Path("some") / expected


def test_variations_count_from_1():
    with pytest.raises(ValueError, match="counts from 1, got 0"):
        output_path(Path("mix.wav"), "drums", 0)


def touch(folder, *names):
    for name in names:
        (folder / name).touch()


def test_a_folder_is_its_audio_files_by_name(tmp_path):
    touch(tmp_path, "b.wav", "a.FLAC", "c.mp3", "notes.txt", ".hidden.wav", ".stage-00.part", "cover.png", "x.wav.part")
    (tmp_path / "deep").mkdir()
    (tmp_path / "folder.wav").mkdir()
    touch(tmp_path / "deep", "d.wav")
    assert [path.name for path in find_audio([tmp_path])] == ["a.FLAC", "b.wav", "c.mp3"]


def test_our_own_stems_are_left_out_of_folders(tmp_path):
    for mixed in (False, True):
        for variation in (1, 2, 10):
            touch(tmp_path, output_path(Path("mix.mp3"), "other_keys", variation, mixed=mixed).name)
    touch(tmp_path, "mix.mp3", "my.song.wav", "my.song.drums.flac")
    touch(tmp_path, "lonely.drums.wav", "mix.live.wav", "drums.wav", "mix.2.wav", "mix.mix.wav")
    assert [path.name for path in find_audio([tmp_path])] == [
        "drums.wav",
        "lonely.drums.wav",
        "mix.2.wav",
        "mix.live.wav",
        "mix.mix.wav",
        "mix.mp3",
        "my.song.wav",
    ]


def test_files_are_kept_as_given_and_once(tmp_path):
    touch(tmp_path, "mix.wav", "mix.drums.wav")
    missing, stem = tmp_path / "missing.xyz", tmp_path / "mix.drums.wav"
    assert find_audio([stem, missing, tmp_path, stem]) == [stem, missing, tmp_path / "mix.wav"]
    assert find_audio([]) == []


def test_a_folder_without_audio(tmp_path):
    touch(tmp_path, "notes.txt", ".hidden.wav")
    with pytest.raises(UsageError, match="no audio in the folder"):
        find_audio([tmp_path])


def test_a_folder_that_cannot_be_listed(tmp_path, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(AudioError, match=r"cannot list the folder .* · Permission denied"):
        find_audio([tmp_path])
