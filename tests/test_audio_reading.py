import math
import os
import struct
import tracemalloc
import wave
from dataclasses import replace
from typing import Any, cast

import numpy as np
import pytest
import scipy.io.wavfile
import soundfile
import soxr

from stage_cli.core.audio.decoding import AudioDecoder
from stage_cli.core.audio.reading import MonoReader, probe, read_blocks, to_mono
from stage_cli.core.audio.resample import StreamResampler, expected_frames
from stage_cli.core.files import GuardedFile
from stage_cli.errors import AudioError, UsageError


def tone(frames, channels=2, rate=44_100, seed=0):
    """A loud chord with noise on top; every channel differs."""
    time = np.arange(frames) / rate
    noise = np.random.default_rng(seed).standard_normal((frames, channels)) * 0.02
    chord = np.stack([0.4 * np.sin(2 * np.pi * 220 * (c + 1) * time) for c in range(channels)], axis=1)
    return (chord + noise).astype(np.float32)


def read(path, **options):
    return np.concatenate(list(read_blocks(path, **options)))


@pytest.fixture
def wav(tmp_path):
    """Two seconds of stereo float WAV, and its samples."""
    samples = tone(88_200)
    scipy.io.wavfile.write(tmp_path / "mix.wav", 44_100, samples)
    return tmp_path / "mix.wav", samples


# --- what can be read ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 2, 3, 8])
def test_a_float_wav_by_scipy_is_read_bit_for_bit(tmp_path, channels):
    for rate in (8_000, 11_025, 22_050, 44_100, 48_000, 96_000, 192_000):
        samples = tone(5_000, channels, rate)
        scipy.io.wavfile.write(tmp_path / "a.wav", rate, samples)
        info = probe(tmp_path / "a.wav")
        assert (info.sample_rate, info.channels, info.frames, info.format) == (rate, channels, 5_000, "WAV")
        assert info.duration == pytest.approx(5_000 / rate, abs=1e-12)
        got = read(tmp_path / "a.wav", block_frames=777)
        assert got.dtype == np.float32
        np.testing.assert_array_equal(got, samples)


def test_a_16_bit_wav_by_the_standard_library_is_read_bit_for_bit(tmp_path):
    integers = np.array([0, 1, -1, 32767, -32768, 1234], dtype="<i2")
    with wave.open(str(tmp_path / "a.wav"), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(32_000)
        file.writeframes(integers.tobytes())
    np.testing.assert_array_equal(read(tmp_path / "a.wav")[:, 0], integers / np.float32(32768))


FORMATS = [
    ("wav", "WAV", "PCM_U8"),
    ("wav", "WAV", "DOUBLE"),
    ("wav", "WAV", "IMA_ADPCM"),
    ("wav", "WAVEX", "PCM_24"),
    ("w64", "W64", "PCM_24"),
    ("wav", "RF64", "PCM_16"),
    ("flac", "FLAC", "PCM_24"),
    ("aiff", "AIFF", "PCM_16"),
    ("caf", "CAF", "PCM_24"),
    ("au", "AU", "PCM_16"),
    ("ogg", "OGG", "VORBIS"),
    ("opus", "OGG", "OPUS"),
    ("mp3", "MP3", "MPEG_LAYER_III"),
]


@pytest.mark.parametrize(("suffix", "container", "subtype"), FORMATS)
def test_each_format_in_blocks_equals_soundfile_in_one_piece(tmp_path, suffix, container, subtype):
    path = tmp_path / f"a.{suffix}"
    soundfile.write(path, tone(150_000, rate=48_000), 48_000, format=container, subtype=subtype)
    whole = soundfile.read(path, dtype="float32", always_2d=True)[0]
    assert len(whole) >= 150_000
    # soundfile's own reading in blocks differs here for MP3: it resets the decoder between blocks.
    np.testing.assert_array_equal(read(path, block_frames=10_001), whole)
    assert probe(path).frames == len(whole)


@pytest.mark.parametrize(("suffix", "container", "subtype"), FORMATS)
def test_a_part_of_each_format_is_that_part_of_the_whole(tmp_path, suffix, container, subtype):
    path = tmp_path / f"a.{suffix}"
    soundfile.write(path, tone(150_000, rate=48_000), 48_000, format=container, subtype=subtype)
    whole = read(path)
    for start in (0.0, 0.1, 1.23456, 3.0):
        first = round(start * 48_000)
        np.testing.assert_array_equal(read(path, start=start), whole[first:])
        np.testing.assert_array_equal(read(path, start=start, duration=0.5), whole[first : first + 24_000])


def test_an_mp3_of_variable_bit_rate_without_a_length_header_is_read_to_its_end(tmp_path):
    # Silence, then noise: the size of the first packets says nothing about the rest. libsndfile alone stops at 62 %.
    samples = np.concatenate([tone(240_000) * 0.001, np.random.default_rng(0).uniform(-0.5, 0.5, (240_000, 2))])
    soundfile.write(tmp_path / "a.mp3", samples, 48_000, bitrate_mode="VARIABLE", compression_level=0.5)
    data = bytearray((tmp_path / "a.mp3").read_bytes())
    at = data.index(b"Xing")
    data[at : at + 120] = bytes(120)
    (tmp_path / "a.mp3").write_bytes(data)
    assert soundfile.info(tmp_path / "a.mp3").frames < 400_000
    decoded = read(tmp_path / "a.mp3")
    assert 480_000 <= len(decoded) < 480_000 + 3 * 1152 + 1105  # packets of 1152; encoder and decoder delay stay in
    assert probe(tmp_path / "a.mp3").frames == len(decoded)
    assert np.abs(decoded[-100_000:]).mean() > 0.1


@pytest.mark.parametrize("size", [0, 0xFFFFFFFF, 0xFFFFFFFF - 36, 0x7FFFF000, 0x7FFFFFFF])
def test_a_wav_from_a_pipe_whose_sizes_were_never_filled_in_is_whole(wav, size):
    path, samples = wav
    data = bytearray(path.read_bytes())
    at = data.index(b"data")
    data[4:8] = data[at + 4 : at + 8] = struct.pack("<I", size)
    path.write_bytes(data)
    assert probe(path).frames == 88_200
    np.testing.assert_array_equal(read(path, block_frames=5_000), samples)


def test_a_flac_from_a_pipe_whose_length_was_never_filled_in_is_whole(tmp_path):
    soundfile.write(tmp_path / "a.flac", tone(200_000), 44_100, subtype="PCM_24")
    whole = soundfile.read(tmp_path / "a.flac", dtype="float32")[0]
    data = bytearray((tmp_path / "a.flac").read_bytes())
    data[21] &= 0xF0  # STREAMINFO's 36 bits of total samples
    data[22:26] = bytes(4)
    (tmp_path / "a.flac").write_bytes(data)
    assert probe(tmp_path / "a.flac").frames == 200_000
    np.testing.assert_array_equal(read(tmp_path / "a.flac"), whole)
    np.testing.assert_array_equal(read(tmp_path / "a.flac", start=2.0), whole[88_200:])


@pytest.mark.parametrize(
    "name", ["with space.wav", "größe 日本.wav", "line\nbreak.wav", "-dash.wav", "-", "%s;$HOME.wav"]
)
def test_odd_names(wav, monkeypatch, name):
    path, samples = wav
    monkeypatch.chdir(path.parent)
    odd = path.with_name(name).relative_to(path.parent)
    path.rename(odd)
    np.testing.assert_array_equal(read(odd), samples)


@pytest.mark.skipif(os.name == "nt", reason="names are Unicode there")
def test_a_name_that_is_not_unicode(wav):
    path, samples = wav
    try:
        odd = path.rename(os.fsdecode(os.fsencode(path.parent) + b"/caf\xe9.wav"))
    except OSError:
        pytest.skip("this file system allows only Unicode names")
    np.testing.assert_array_equal(read(odd), samples)


def test_a_part_beyond_the_end_stops_at_the_end_and_the_shortest_part_is_one_frame(wav):
    path, samples = wav
    np.testing.assert_array_equal(read(path, start=1.5, duration=1e9), samples[66_150:])
    np.testing.assert_array_equal(read(path, start=1.0, duration=1e-9), samples[44_100:44_101])
    np.testing.assert_array_equal(read(path, start=88_199 / 44_100), samples[-1:])


def test_float_samples_above_full_scale_are_kept(tmp_path):
    samples = np.array([0.0, 4.0, -999.0], dtype=np.float32)
    scipy.io.wavfile.write(tmp_path / "hot.wav", 48_000, samples)
    np.testing.assert_array_equal(read(tmp_path / "hot.wav")[:, 0], samples)


# --- what cannot be read ---------------------------------------------------------------------------------------


def make_missing(path): ...


def make_folder(path):
    path.mkdir()


def make_empty(path):
    path.touch()


def make_text(path):
    path.write_text("this is not audio\n" * 50)


def make_without_frames(path):
    soundfile.write(path, np.zeros((0, 2)), 44_100)


def make_pipe(path):
    os.mkfifo(path)


def make_absurd_rate(path):
    scipy.io.wavfile.write(path, 7, tone(100))


def make_wav_header_only(path):
    path.write_bytes(b"RIFF\x04\0\0\0WAVE")


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (make_missing, "there is no such file"),
        (make_folder, "it is a folder"),
        (make_empty, r"the file is empty \(0 bytes\)"),
        (make_text, "no audio format that libsndfile knows"),
        (make_without_frames, r"it holds no samples \(0 frames\)"),
        pytest.param(make_pipe, "not a regular file", marks=pytest.mark.skipif(os.name == "nt", reason="no pipes")),
        (make_absurd_rate, "sample rate of 7 Hz"),
        (make_wav_header_only, "it is damaged"),
    ],
)
def test_files_that_cannot_be_read_say_why_and_what_to_do(tmp_path, make, why):
    path = tmp_path / "mix.wav"
    make(path)
    for attempt in (probe, read, lambda path: MonoReader(path, 32_000)):
        with pytest.raises(AudioError, match=why) as caught:
            attempt(path)
        assert str(path) in caught.value.what
        assert caught.value.next_step


def test_a_path_through_a_file_and_a_name_with_a_zero_byte(wav):
    with pytest.raises(AudioError, match="Not a directory"):
        probe(wav[0] / "inside.wav")
    with pytest.raises(AudioError, match="null"):
        probe(wav[0].with_name("a\0.wav"))
    with pytest.raises(AudioError, match="too long"):
        probe(wav[0].with_name("a" * 300))


def test_no_permission(wav, monkeypatch):
    # The tests may run as root, whom no permission stops.
    def refuse(path, *arguments, **options):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(type(wav[0]), "open", refuse)
    with pytest.raises(AudioError, match="you have no permission to read it · change the file's permissions"):
        probe(wav[0])


class FailingFile:
    """A file whose reading fails, from libsndfile's callback: cffi would print the exception and go on."""

    def __init__(self, file, error):
        self.seek, self.tell, self.error = file.seek, file.tell, error

    def readinto(self, buffer):
        raise self.error


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "mp3"])
@pytest.mark.parametrize("error", [OSError(5, "Input/output error"), KeyboardInterrupt()])
def test_a_failing_disk_and_ctrl_c_during_a_read_are_not_lost(tmp_path, monkeypatch, suffix, error):
    path = tmp_path / f"a.{suffix}"
    soundfile.write(path, np.random.default_rng(0).uniform(-0.5, 0.5, (400_000, 2)), 44_100)
    make = GuardedFile.__init__

    def make_failing(self, file, **options):
        make(self, cast("Any", FailingFile(file, error)), **options)

    expected = (AudioError, "Input/output error") if isinstance(error, OSError) else (KeyboardInterrupt, "^$")
    decoder = AudioDecoder(path)
    decoder.read(4_096)
    monkeypatch.setattr(decoder._guard, "_file", FailingFile(decoder._file, error))
    if decoder._plain is not None:  # read without libsndfile
        monkeypatch.setattr(decoder, "_plain", replace(decoder._plain, file=FailingFile(decoder._file, error)))
    with pytest.raises(expected[0], match=expected[1]):
        decoder.read(400_000)
    decoder.close()
    monkeypatch.setattr(GuardedFile, "__init__", make_failing)
    with pytest.raises(expected[0], match=expected[1]):
        probe(path)


@pytest.mark.parametrize("subtype", ["PCM_16", "FLOAT"])
@pytest.mark.parametrize("suffix", ["wav", "aiff"])
def test_a_truncated_file_says_how_much_is_there(tmp_path, suffix, subtype):
    path = tmp_path / f"cut.{suffix}"
    soundfile.write(path, tone(50_000), 44_100, subtype=subtype)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    present = soundfile.info(path).frames
    assert 24_000 < present < 25_001
    for attempt in (probe, read):
        with pytest.raises(AudioError, match=f"is truncated · its header says 50000 frames, {present} could be read"):
            attempt(path)


def test_a_wav_that_is_cut_inside_its_header_is_an_error(wav):
    path, _ = wav
    data = path.read_bytes()
    for size in (13, 30, data.index(b"data") + 6):
        path.write_bytes(data[:size])
        with pytest.raises(AudioError, match=r"cannot read .*mix.wav"):
            probe(path)


def test_a_wav_that_is_cut_right_after_its_header_is_truncated(wav):
    path, _ = wav
    data = path.read_bytes()
    path.write_bytes(data[: data.index(b"data") + 8])
    with pytest.raises(AudioError, match=r"truncated|no samples"):
        probe(path)


def test_a_size_that_counts_the_header_in_is_no_truncation(wav):
    path, samples = wav
    data = bytearray(path.read_bytes())
    at = data.index(b"data") + 4
    data[at : at + 4] = struct.pack("<I", len(data))
    path.write_bytes(data)
    np.testing.assert_array_equal(read(path), samples)


def test_chunks_around_the_samples_do_no_harm(wav):
    path, samples = wav
    data = path.read_bytes()
    at = data.index(b"data")
    odd = b"LIST" + struct.pack("<I", 5) + b"INFOx\0"  # an odd size is padded
    data = data[:at] + odd + data[at:] + b"bext" + struct.pack("<I", 2) + b"ab"
    data = data[:4] + struct.pack("<I", len(data) - 8) + data[8:]
    path.write_bytes(data)
    np.testing.assert_array_equal(read(path), samples)
    path.write_bytes(data[:-1000])
    with pytest.raises(AudioError, match="is truncated"):
        read(path)


def test_an_empty_wav_with_more_chunks_is_not_taken_for_a_pipes(tmp_path):
    scipy.io.wavfile.write(tmp_path / "a.wav", 44_100, np.zeros((0, 2), np.float32))
    data = (tmp_path / "a.wav").read_bytes() + b"LIST" + struct.pack("<I", 400) + b"INFO" + bytes(396)
    (tmp_path / "a.wav").write_bytes(data[:4] + struct.pack("<I", len(data) - 8) + data[8:])
    with pytest.raises(AudioError, match="0 frames"):
        probe(tmp_path / "a.wav")


@pytest.mark.parametrize("damage", ["cut", "overwritten"])
def test_a_damaged_flac_says_how_far_it_can_be_decoded(tmp_path, damage):
    path = tmp_path / "a.flac"
    soundfile.write(path, tone(300_000), 44_100, subtype="PCM_24")
    data = bytearray(path.read_bytes())
    if damage == "cut":
        del data[len(data) // 2 :]
    else:
        data[len(data) // 2 : len(data) // 2 + 3000] = bytes(3000)
    path.write_bytes(data)
    blocks = []
    with pytest.raises(AudioError, match=r"cannot decode .* beyond [23]\.\d+ s · the file is damaged or truncated"):
        blocks.extend(read_blocks(path, block_frames=4_096))
    assert 100_000 < sum(map(len, blocks)) < 150_001


@pytest.mark.parametrize("cut", [1, 100, 30_000])
def test_of_a_truncated_mp3_the_frames_really_decoded_count(tmp_path, cut):
    path = tmp_path / "a.mp3"
    soundfile.write(path, tone(144_000, rate=48_000), 48_000)
    data = path.read_bytes()
    path.write_bytes(data[:-cut])
    reader = MonoReader(path, 48_000)
    mono = np.concatenate(list(reader))
    assert reader.info.frames == 144_000
    lost = 48_000 * cut * 8 / 152_000  # at no more than 152 kbit/s
    assert 144_000 - 3 * 1152 - 1.5 * lost < len(mono) == reader.stats.source_frames < 144_000
    with pytest.raises(UsageError, match=rf"`start` 2\.998 lies past the end .* {len(mono) / 48_000:.3f} s long"):
        read(path, start=2.998)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("suffix", ["wav", "aiff"])
def test_nan_and_infinity_are_found_with_their_time(tmp_path, value, suffix):
    samples = tone(88_200)
    samples[66_150, 1] = value
    samples[70_000, 0] = value
    soundfile.write(tmp_path / f"a.{suffix}", samples, 44_100, subtype="FLOAT")
    with pytest.raises(AudioError, match=rf"sample at 1\.500 s is {value:g}, .* · repair it by exporting"):
        read(tmp_path / f"a.{suffix}", block_frames=1000)
    with pytest.raises(AudioError, match=r"sample at 1\.500 s"):
        read(tmp_path / f"a.{suffix}", start=1.25)
    assert len(read(tmp_path / f"a.{suffix}", duration=1.5)) == 66_150  # what is not read does not matter


@pytest.mark.parametrize(("value", "shown"), [(1e30, "1e+30"), (-1001.0, "-1001"), (32767.0, "32767")])
def test_samples_far_above_full_scale_are_refused(tmp_path, value, shown):
    scipy.io.wavfile.write(tmp_path / "a.wav", 44_100, np.array([0, 0, value], np.float32))
    with pytest.raises(AudioError, match=rf"0\.000 s is {shown.replace('+', '.')}, more than 60 dB above full scale"):
        read(tmp_path / "a.wav")


def test_doubles_that_float32_cannot_hold_are_refused(tmp_path):
    scipy.io.wavfile.write(tmp_path / "a.wav", 44_100, np.array([0, 1e300]))
    with pytest.raises(AudioError, match="not audio"):
        read(tmp_path / "a.wav")


@pytest.mark.parametrize("start", [2.0, 2.1, 1e300])
def test_a_start_past_the_end_names_the_option_and_the_length(wav, start):
    for attempt in (read, lambda path, start: MonoReader(path, 32_000, start=start)):
        with pytest.raises(UsageError, match=r"`start` .* lies past the end of .*mix\.wav · the file is 2\.000 s long"):
            attempt(wav[0], start=start)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"start": -0.5}, "`start` cannot be -0.5"),
        ({"start": math.nan}, "`start` cannot be nan"),
        ({"start": math.inf}, "`start` cannot be inf"),
        ({"duration": 0.0}, "`duration` cannot be 0"),
        ({"duration": -1.0}, "`duration` cannot be -1"),
        ({"duration": math.nan}, "`duration` cannot be nan"),
        ({"duration": math.inf}, "`duration` cannot be inf"),
    ],
)
def test_starts_and_durations_that_make_no_sense(wav, options, complaint):
    for attempt in (read, lambda path, **options: MonoReader(path, 32_000, **options)):
        with pytest.raises(UsageError, match=complaint):
            attempt(wav[0], **options)


# --- mono and resampling ---------------------------------------------------------------------------------------


def test_mono_is_the_mean_of_the_channels():
    block = np.array([[1.0, 0.0, 0.5], [-1.0, 1.0, 0.0]], np.float32)
    np.testing.assert_allclose(to_mono(block), [0.5, 0.0], atol=1e-7)
    assert to_mono(block).dtype == np.float32
    np.testing.assert_array_equal(to_mono(block[:, :1]), [1.0, -1.0])


RATES = [(44_100, 32_000), (48_000, 32_000), (8_000, 32_000), (192_000, 32_000), (11_025, 32_000), (32_000, 44_100)]


def resample(samples, source, target, sizes):
    resampler = StreamResampler(source, target, samples.shape[1])
    pieces, first = [], 0
    while first < len(samples):
        size = next(sizes)
        pieces.append(resampler.push(samples[first : first + size]))
        first += size
    return np.concatenate([*pieces, resampler.finish()])


def constant(size):
    while True:
        yield size


@pytest.mark.parametrize(("source", "target"), RATES)
def test_resampled_length_is_exact(source, target):
    for frames in (1, 2, 7, 1000, 44_101):
        out = resample(tone(frames), source, target, constant(3000))
        assert out.shape == (math.ceil(frames * target / source), 2)
        assert out.shape[0] == expected_frames(frames, source, target)


def test_there_and_back_again_keeps_every_frame():
    for frames in range(1, 2000, 7):
        there = expected_frames(frames, 44_100, 32_000)
        assert expected_frames(there, 32_000, 44_100) >= frames
    # Exact where floating point is not: ten hours at 192 kHz.
    assert expected_frames(6_912_000_001, 192_000, 32_000) == 1_152_000_001


@pytest.mark.parametrize(("source", "target"), RATES)
def test_blocks_resample_as_the_whole(source, target):
    samples = tone(30_001)
    rng = np.random.default_rng(1)
    # Silence after the end, so that soxr gives the last frame too where it would round the length down.
    whole = soxr.resample(np.concatenate([samples, np.zeros((1000, 2), np.float32)]), source, target, quality="VHQ")
    sizes = iter(lambda: int(rng.integers(1, 2000)), None)
    for out in (resample(samples, source, target, sizes), resample(samples, source, target, constant(10**6))):
        assert len(out) == expected_frames(30_001, source, target)
        np.testing.assert_allclose(out, whole[: len(out)], atol=1e-6, rtol=0)


@pytest.mark.parametrize(("source", "target"), RATES)
def test_an_impulse_keeps_its_time(source, target):
    for at in (0.0, 0.01, 0.5, 0.999):
        samples = np.zeros((source, 1), np.float32)
        samples[round(at * source)] = 1.0
        out = resample(samples, source, target, constant(4_001))[:, 0]
        time = round(at * source) / source
        assert abs(int(np.abs(out).argmax()) - time * target) <= 1


@pytest.mark.parametrize(("source", "target"), RATES)
def test_a_sine_stays_that_sine_to_the_end(source, target):
    frames = source // 2
    sine = np.sin(2 * np.pi * 440 * np.arange(frames) / source)[:, None].astype(np.float32)
    out = resample(sine, source, target, constant(5000))[:, 0]
    expected = np.sin(2 * np.pi * 440 * np.arange(len(out)) / target)
    margin = target // 50  # the ends ring: the sine begins and stops there
    np.testing.assert_allclose(out[margin:-margin], expected[margin:-margin], atol=1e-5, rtol=0)


def test_equal_rates_pass_through_untouched():
    resampler = StreamResampler(44_100, 44_100, 2)
    samples = tone(1000)
    assert resampler.push(samples) is samples
    assert resampler.finish().shape == (0, 2)


@pytest.mark.parametrize("rates", [(32_000, 44_100), (44_100, 44_100)])
def test_finish_gives_the_length_that_is_asked_for(rates):
    for total in (70_000, 80_000):
        resampler = StreamResampler(*rates, 1)
        out = [resampler.push(tone(44_100, 1))]
        try:
            out.append(resampler.finish(total))
        except ValueError:
            pytest.fail("a length within the filter's reach was refused")
        assert sum(map(len, out)) == total
    resampler = StreamResampler(*rates, 1)
    resampler.push(tone(44_100, 1))
    with pytest.raises(ValueError, match="cannot end at 10"):
        resampler.finish(10)


def test_a_resampler_refuses_what_it_cannot_mean():
    resampler = StreamResampler(44_100, 32_000, 2)
    with pytest.raises(ValueError, match=r"expected blocks \[frames, 2\]"):
        resampler.push(np.zeros(10, np.float32))
    resampler.finish()
    with pytest.raises(ValueError, match=r"push\(\) after finish"):
        resampler.push(np.zeros((10, 2), np.float32))
    with pytest.raises(ValueError, match="twice"):
        resampler.finish()


@pytest.mark.parametrize("rate", [32_000, 44_100])
@pytest.mark.parametrize("block_frames", [1_000, 65_536])
def test_a_mono_reader_is_the_resampled_mean(wav, rate, block_frames):
    path, samples = wav
    reader = MonoReader(path, rate, block_frames=block_frames)
    blocks = list(reader)
    assert all(len(block) and block.ndim == 1 and block.dtype == np.float32 for block in blocks)
    mono = np.concatenate(blocks)
    expected = soxr.resample(samples.mean(axis=1), 44_100, rate, quality="VHQ")
    assert len(mono) == 2 * rate
    np.testing.assert_allclose(mono, expected, atol=1e-6, rtol=0)
    stats = reader.stats
    assert (stats.source_frames, stats.source_rate, stats.channels, stats.frames) == (88_200, 44_100, 2, 2 * rate)
    assert stats.source_peak == np.abs(samples).max()
    assert stats.peak == np.abs(mono).max()
    assert stats.rms == pytest.approx(float(np.sqrt(np.mean(mono.astype(np.float64) ** 2))), rel=1e-9)
    np.testing.assert_array_equal(np.concatenate(list(reader)), mono)  # it can be read again


def test_a_mono_reader_of_a_part(wav):
    path, samples = wav
    reader = MonoReader(path, 44_100, start=0.5, duration=1.0)
    np.testing.assert_allclose(np.concatenate(list(reader)), samples[22_050:66_150].mean(axis=1), atol=1e-7)
    assert reader.stats.source_frames == 44_100


@pytest.mark.parametrize("rate", [8_000, 44_100, 192_000])
def test_one_sample_is_audio_too(tmp_path, rate):
    scipy.io.wavfile.write(tmp_path / "a.wav", rate, np.array([0.5], np.float32))
    reader = MonoReader(tmp_path / "a.wav", 32_000)
    assert sum(map(len, reader)) == reader.stats.frames == math.ceil(32_000 / rate)


def test_channels_that_cancel_out_are_told_from_silence(tmp_path):
    samples = tone(44_100, 1)
    scipy.io.wavfile.write(tmp_path / "a.wav", 44_100, np.concatenate([samples, -samples], axis=1))
    reader = MonoReader(tmp_path / "a.wav", 44_100)
    list(reader)
    assert reader.stats.peak == 0.0
    assert reader.stats.rms == 0.0
    assert reader.stats.source_peak == np.abs(samples).max()


def test_stats_before_the_end_are_refused(wav):
    reader = MonoReader(wav[0], 32_000, block_frames=1000)
    with pytest.raises(ValueError, match="whole stream"):
        _ = reader.stats
    next(block for block in reader if len(block))
    with pytest.raises(ValueError, match="whole stream"):
        _ = reader.stats


def test_memory_does_not_grow_with_the_file(tmp_path):
    def peak_memory(seconds):
        path = tmp_path / f"{seconds}.wav"
        scipy.io.wavfile.write(path, 44_100, np.zeros((44_100 * seconds, 2), np.int16))
        tracemalloc.start()
        for _ in MonoReader(path, 32_000):
            pass
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    peak_memory(3)  # imports
    assert peak_memory(120) < 1.2 * peak_memory(6)
