"""Reading a few seconds of a stem: exact places, rates, channels, padding, and clear words on bad files."""

import io
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from prepared_songs import RATE, tone, write_song

from stage_cli.core.audio.chunks import EDGE_SECONDS, AudioFile, AudioLimits, read_mono, read_stem, resample
from stage_cli.core.data.index import find_songs
from stage_cli.errors import AudioError, StageError

LOOSE = AudioLimits(sample_rate=192_000, duration=1000.0)


def write(path: Path, audio: np.ndarray, rate: int = RATE, **options: Any) -> AudioFile:
    soundfile.write(path, audio, rate, **options)
    return AudioFile(path)


@pytest.mark.parametrize("suffix", ["wav", "flac"])
@pytest.mark.parametrize("channels", [1, 2, 3])
def test_a_chunk_is_that_part_of_the_file(tmp_path, suffix, channels):
    audio = np.random.default_rng(0).uniform(-0.5, 0.5, (5 * RATE, channels)).astype(np.float32)
    file = write(tmp_path / f"a.{suffix}", audio, subtype="PCM_24")
    samples, rate = read_mono(file, 1.25, 2.0, LOOSE)
    assert (rate, samples.dtype) == (RATE, np.float32)
    np.testing.assert_allclose(samples, audio[10_000:26_000].mean(axis=1), atol=1e-6, rtol=0)


def test_silence_before_the_start_and_after_the_end(tmp_path):
    audio = np.full(2 * RATE, 0.5, dtype=np.float32)
    file = write(tmp_path / "a.wav", audio)
    samples, _ = read_mono(file, -0.5, 3.0, LOOSE)
    assert len(samples) == 3 * RATE
    np.testing.assert_array_equal(np.flatnonzero(samples)[[0, -1]], [RATE // 2, 5 * RATE // 2 - 1])
    for start in (-5.0, 2.0, 100.0):
        np.testing.assert_array_equal(read_mono(file, start, 1.0, LOOSE)[0], np.zeros(RATE))


def test_tracks_of_a_stem_are_summed_whatever_their_rates_and_lengths(tmp_path):
    seconds = 3.0
    files = [
        write(tmp_path / "a.wav", tone(200, seconds, 44100), 44100, subtype="FLOAT"),
        write(tmp_path / "b.wav", tone(330, seconds, 48000), 48000, subtype="FLOAT"),
        write(tmp_path / "c.wav", tone(450, 1.5, 8000), 8000, subtype="FLOAT"),
    ]
    samples = read_stem(files, 0.4, 2.0, 48000, AudioLimits(48000, 3.0))
    expected = tone(200, seconds, 48000) + tone(330, seconds, 48000)
    expected[:72_000] += tone(450, 1.5, 48000)
    assert samples.shape == (96_000,)
    # But for where the short track stops, which rings.
    difference = np.abs(samples - expected[19_200 : 19_200 + 96_000])
    stop = 72_000 - 19_200
    assert max(difference[: stop - 600].max(), difference[stop + 600 :].max()) < 1e-4


@pytest.mark.parametrize("source", [8000, 11025, 16000, 22050, 24000, 32000, 44100, 48000, 88200, 96000])
@pytest.mark.parametrize("target", [16000, 32000])
def test_a_resampled_chunk_is_that_chunk_of_the_resampled_song(source, target):
    """Chunks start at multiples of 40 ms, whole frames at all of these rates."""
    song = np.random.default_rng(1).standard_normal(4 * source).astype(np.float32)
    whole = resample(song, source, target)
    start, seconds = 1.24, 1.0
    first, last = round((start - EDGE_SECONDS) * source), round((start + seconds + EDGE_SECONDS) * source)
    chunk = resample(song[first:last], source, target)[round(EDGE_SECONDS * target) :][: round(seconds * target)]
    assert len(chunk) == round(seconds * target)
    expected = whole[round(start * target) :][: len(chunk)]
    assert np.abs(chunk - expected).max() < 2e-4 * np.abs(expected).max()


def test_a_member_of_a_shard_reads_as_the_file_does(tmp_path):
    audio = np.random.default_rng(0).uniform(-0.5, 0.5, (2 * RATE, 2))
    for format in ("WAV", "FLAC"):
        buffer = io.BytesIO()
        soundfile.write(buffer, audio, RATE, format=format)
        content = buffer.getvalue()
        (tmp_path / f"a.{format}").write_bytes(content)
        shard = tmp_path / f"{format}.tar"
        with tarfile.open(shard, "w") as tar:
            for name in ("before", "a", "after"):
                member = tarfile.TarInfo(name)
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
        with tarfile.open(shard) as tar:
            offset = tar.getmember("a").offset_data
        expected, _ = read_mono(AudioFile(tmp_path / f"a.{format}"), 0.3, 1.0, LOOSE)
        samples, _ = read_mono(AudioFile(shard, "a", offset, len(content)), 0.3, 1.0, LOOSE)
        np.testing.assert_array_equal(samples, expected)
        with pytest.raises(AudioError, match=rf"{format}.tar/a"):
            read_mono(AudioFile(shard, "a", offset + 100, 200), 0.3, 1.0, LOOSE)
    with pytest.raises(AudioError, match=r"none\.tar/a.*No such file"):
        read_mono(AudioFile(tmp_path / "none.tar", "a", 0, 100), 0.0, 1.0, LOOSE)


def song(tmp_path: Path, **options: Any):
    write_song(tmp_path / "Lost Song", seconds=4.0, **options)
    return find_songs([tmp_path])[0], tmp_path / "Lost Song" / "bass" / "0.wav"


def test_a_missing_file_names_the_song_and_the_stem(tmp_path):
    prepared, path = song(tmp_path)
    path.unlink()
    with pytest.raises(AudioError, match=r"song Lost Song, bass: cannot read .*0\.wav · there is no such file"):
        prepared.read("bass", 0.0, 1.0)


def test_a_truncated_file_names_the_song(tmp_path):
    prepared, path = song(tmp_path)
    path.write_bytes(path.read_bytes()[:20_000])
    with pytest.raises(AudioError, match=r"song Lost Song, bass: .* is truncated"):
        prepared.read("bass", 0.0, 0.1)


@pytest.mark.parametrize("content", [b"", b"hello", b"RIFF\x00\x00\x00\x00WAVE"])
def test_a_file_that_is_no_audio_names_the_song(tmp_path, content):
    prepared, path = song(tmp_path)
    path.write_bytes(content)
    with pytest.raises(AudioError, match="song Lost Song, bass: cannot read"):
        prepared.read("bass", 0.0, 0.1)


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e6])
def test_samples_that_are_no_audio_name_the_song_and_the_time(tmp_path, value):
    prepared, path = song(tmp_path)
    audio = tone(200, 4.0)
    audio[12_345] = value
    soundfile.write(path, audio, RATE, subtype="FLOAT")
    prepared.read("bass", 0.0, 1.0)  # elsewhere it is fine
    with pytest.raises(AudioError, match=r"song Lost Song, bass: .*not audio · between 1\.000 s and 2\.000 s"):
        prepared.read("bass", 1.0, 1.0)


@pytest.mark.parametrize(("seconds", "rate"), [(4.5, RATE), (4.0, 16000)])
def test_other_audio_than_was_prepared_is_noticed(tmp_path, seconds, rate):
    prepared, path = song(tmp_path)
    soundfile.write(path, tone(200, seconds, rate), rate)
    with pytest.raises(AudioError, match=r"song Lost Song, bass: .*not the audio that was prepared .*prepare-data"):
        prepared.read("bass", 0.0, 1.0)


def test_a_shorter_stem_ends_in_silence(tmp_path):
    prepared, path = song(tmp_path)
    soundfile.write(path, tone(200, 1.0), RATE)
    samples = prepared.read("bass", 0.5, 2.0)
    assert np.abs(samples[: RATE // 2]).max() > 0.1
    np.testing.assert_array_equal(samples[RATE // 2 :], 0)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (("beats", [1.0, 0.5]), "rising"),
        (("beats", [-1.0, 0.5]), "rising"),
        (("frames", 0), "0 frames"),
        (("sample_rate", "fast"), "damaged"),
        (("schema_version", 99), "schema version 99"),
        (("stems", 5), "damaged"),
    ],
)
def test_damaged_features_are_named(tmp_path, change, complaint):
    import json

    folder = write_song(tmp_path / "song", seconds=1.0)
    path = folder / "features.json"
    content = json.loads(path.read_text())
    key, value = change
    if key == "beats":
        content["rhythm"]["beats"] = value
    else:
        content[key] = value
    path.write_text(json.dumps(content))
    with pytest.raises(StageError, match=rf"features\.json.*{complaint}"):
        find_songs([tmp_path])
    path.write_text("{")
    with pytest.raises(StageError, match=r"features\.json is damaged"):
        find_songs([tmp_path])
