"""The audio of a page: compressed sound, outlines, spectrograms, and how large they all become."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
import soundfile
from matplotlib.image import imread

from stage_cli.core.evaluation.report.clips import (
    RATE,
    SIZE_LIMIT,
    Collection,
    choose_bitrate,
    compress,
    make_clip,
    outline,
    picture,
)
from stage_cli.core.evaluation.report.page import write_report
from stage_cli.core.evaluation.report.results import write_results
from tests.evaluation.report_example import chords, drums, write_example


def music(seconds=2.0):
    generator = np.random.default_rng(3)
    return 0.6 * (drums(seconds, 120, generator) + chords(seconds, 120, 220))


@pytest.mark.parametrize(("kilobits", "least"), [(64, 0.97), (40, 0.9)])
def test_the_sound_keeps_length_place_and_shape(kilobits, least):
    audio = music()
    data = compress(audio, kilobits)
    decoded, rate = soundfile.read(io.BytesIO(data))
    assert (rate, len(decoded)) == (RATE, len(audio))
    # Moved by a sample it would fit less well.
    fit = {lag: np.corrcoef(np.roll(decoded, lag), audio)[0, 1] for lag in (-1, 0, 1)}
    assert fit[0] > least
    assert max(fit, key=fit.get) == 0
    assert len(data) * 8 / 2000 == pytest.approx(kilobits, rel=0.05)


def test_an_outline_holds_the_extremes():
    audio = np.zeros(32_000, dtype=np.float32)
    audio[8_000], audio[24_000] = 1.0, -0.5
    ends = outline(audio)
    assert ends.shape == (320, 2)
    assert (ends[:, 1].argmax(), ends[:, 0].argmin()) == (80, 240)
    assert (ends.max(), ends.min()) == (127, -64)
    assert np.count_nonzero(ends) == 2
    assert outline(np.ones(5, dtype=np.float32)).shape == (5, 2)


def test_a_picture_has_low_tones_at_the_bottom_and_time_from_the_left():
    time = np.arange(2 * 16_000) / 16_000
    audio = np.where(time < 1, 0.5 * np.sin(2 * np.pi * 200 * time), 0.5 * np.sin(2 * np.pi * 6000 * time))
    grey = imread(io.BytesIO(picture(audio.astype(np.float32))), format="webp")[..., 0]
    assert grey.shape == (96, 80)
    early, late = grey[:, 10:30].mean(axis=1).argmax(), grey[:, 50:70].mean(axis=1).argmax()
    assert early > 85
    assert late < 15


def test_silence_stays_dark():
    grey = imread(io.BytesIO(picture(np.zeros(16_000, dtype=np.float32))), format="webp")[..., 0]
    assert grey.max() < 8


def test_stereo_of_another_rate_becomes_a_clip(tmp_path):
    audio = np.stack([music(1.0), music(1.0)], axis=1)
    soundfile.write(tmp_path / "stereo.wav", audio, 32_000)
    soundfile.write(tmp_path / "slow.wav", audio[: 22_050 // 2, 0], 22_050)
    assert make_clip(tmp_path / "stereo.wav").seconds == 1.0
    clip = make_clip(tmp_path / "slow.wav")
    decoded, rate = soundfile.read(io.BytesIO(base64.b64decode(clip.sound)))
    assert (clip.seconds, rate, len(decoded)) == (0.5, RATE, RATE // 2)


@pytest.mark.parametrize(
    ("content", "reason"),
    [(None, "there is no such file"), (b"", "empty"), (b"RIFF no sound at all", "cannot read broken.wav")],
)
def test_what_cannot_be_read_says_why(tmp_path, content, reason):
    path = tmp_path / "broken.wav"
    if content is not None:
        path.write_bytes(content)
    clip = make_clip(path)
    assert reason in clip.error
    assert clip.sound == clip.picture == ""
    assert str(tmp_path) not in clip.error


def test_equal_files_are_held_once(tmp_path):
    results = write_example(tmp_path, items=2, songs=1, seconds=0.5, systems=1)
    first, second = (item.files for item in results.items)
    (tmp_path / second["context"]).write_bytes((tmp_path / first["context"]).read_bytes())
    told = []
    collection = Collection(tmp_path, results, lambda done, total: told.append((done, total)))
    assert collection.place(first["context"]) == collection.place(second["context"])
    assert len(collection.clips) == 7
    assert told == [(done, 7) for done in range(1, 8)]
    assert collection.place(None) is None


def test_the_bit_rate_gives_way_to_the_size():
    assert choose_bitrate([10.0] * 96 * 4) == 64
    assert choose_bitrate([10.0] * 96 * 6) == 48
    assert choose_bitrate([10.0] * 96 * 40) == 40


def test_96_items_of_10_seconds_stay_below_60_megabytes(tmp_path):
    """The largest clip of an item, as often as a page of 96 holds one, and 2 MB for the rest (measured: 0.4)."""
    results = write_example(tmp_path, items=1, songs=1, seconds=10.0, systems=1)
    files = results.items[0].outputs[0].files.values()
    for systems in (1, 2):
        count = 96 * (2 + 2 * systems)
        clips = [make_clip(tmp_path / name, choose_bitrate([10.0] * count)) for name in files]
        largest = max(len(clip.sound) + len(clip.picture) + len(clip.outline) for clip in clips)
        assert count * largest + 2_000_000 < SIZE_LIMIT


def test_a_report_is_as_large_as_its_clips(tmp_path):
    """What stands beside the clips is small: 200 kB for two items, most of which does not grow with them."""
    results = write_example(tmp_path, items=2, songs=1, seconds=1.0, systems=1)
    write_results(tmp_path, results)
    size = write_report(tmp_path).stat().st_size
    clips = Collection(tmp_path, results).clips
    assert size - sum(len(clip.sound) + len(clip.picture) + len(clip.outline) for clip in clips) < 200_000
