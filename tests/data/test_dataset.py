"""The training set: what is in an item, and that nothing but (seed, epoch, index) decides it."""

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from prepared_songs import RATE, TONES, heard_tones, tone, write_song
from torch.utils.data import DataLoader

from stage_cli.core.data.config import DataConfig
from stage_cli.core.data.dataset import AudioBatch, StemDataset, collate, left_pad_codes
from stage_cli.core.data.index import find_songs
from stage_cli.core.data.splits import split_songs
from stage_cli.core.lm.config import LanguageModelConfig
from stage_cli.core.lm.layout import delayed_sequence
from stage_cli.errors import AudioError, StageError, UsageError


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three songs of a pure tone for each stem; 30 s, 8 kHz."""
    folder = tmp_path_factory.mktemp("songs")
    for number, genres in enumerate((("Rock",), ("Jazz", "Funk"), ())):
        write_song(folder / f"song{number}", bpm=110 + 10 * number, genres=genres)
    return folder


def config(root: Path, **changes: Any) -> DataConfig:
    """Chunks of 2 s, contexts of 1 to 2 s, no augmentation."""
    small: dict[str, Any] = dict.fromkeys(("speed_probability", "pitch_probability"), 0.0)
    small |= {"chunk_seconds": 2.0, "context_seconds": (1.0, 2.0)} | changes
    return DataConfig((str(root),), **small)


def test_a_mix_never_holds_the_target_and_is_what_it_says(root):
    dataset = StemDataset(config(root, context="mix"), RATE, seed=0)
    assert len(dataset) == 45
    subsets = Counter()
    for index in range(len(dataset)):
        item = dataset[index]
        assert (item.stem, item.context_kind) == ("drums", "mix")
        assert item.target.shape == (2 * RATE,)
        assert (item.target.dtype, item.context.dtype) == (np.float32, np.float32)
        assert heard_tones(item.target) == {"drums"}
        assert heard_tones(item.context) == set(item.context_stems)
        subsets[item.context_stems] += 1
    sizes = Counter(len(names) for names in subsets.elements())
    assert set(sizes) == {1, 2, 3, 4}
    assert len(subsets) >= 10  # of the 15 that there are


def test_target_and_context_begin_at_the_same_sample_of_the_song(tmp_path):
    rng = np.random.default_rng(0)
    drums, bass = (0.3 * rng.standard_normal(20 * RATE).clip(-3, 3).astype(np.float32) for _ in range(2))
    write_song(tmp_path / "song", {"drums": drums, "bass": bass})
    for item in map(StemDataset(config(tmp_path, context="mix"), RATE, seed=1).__getitem__, range(5)):
        first = round(item.start * RATE)
        np.testing.assert_allclose(item.target, drums[first : first + 2 * RATE], atol=1e-6)
        np.testing.assert_allclose(item.context, bass[first : first + len(item.context)], atol=1e-6)


def test_clicks_are_on_the_beats_of_the_song(root):
    dataset = StemDataset(config(root, context="metronome"), RATE, seed=0)
    for index in range(0, len(dataset), 6):
        item = dataset[index]
        song_beats = next(song for song in dataset.songs if song.id == item.song).beats
        inside = song_beats[(song_beats >= item.start) & (song_beats < item.start + 2)] - item.start
        np.testing.assert_allclose(item.beats, inside, atol=1e-9)
        clicks = np.flatnonzero(np.abs(item.context) > 0.3)
        starts = clicks[np.diff(clicks, prepend=-RATE) > RATE // 10] / RATE
        heard = item.beats[item.beats < len(item.context) / RATE - 0.02]
        np.testing.assert_allclose(starts[: len(heard)], heard, atol=0.002)
        energies = [np.sum(item.context[round(beat * RATE) :][: RATE // 10] ** 2) for beat in heard[:-1]]
        is_downbeat = np.isin(heard[:-1], item.downbeats)
        if is_downbeat.any() and not is_downbeat.all():
            assert np.min(np.array(energies)[is_downbeat]) > 2 * np.max(np.array(energies)[~is_downbeat])
        assert np.abs(item.context).max() <= 1


def test_both_kinds_are_drawn_half_of_the_time_each(root):
    dataset = StemDataset(config(root, context="both"), RATE, seed=0, items_per_song=100)
    kinds = Counter(dataset[index].context_kind for index in range(300))
    assert kinds["mix"] / 300 == pytest.approx(0.5, abs=0.09)


def test_contexts_are_cut_evenly_and_one_in_twenty_is_not(root):
    dataset = StemDataset(config(root, context="metronome", uncut_probability=0.05), RATE, seed=0, items_per_song=200)
    lengths = np.array([len(dataset[index].context) for index in range(600)]) / RATE
    assert (lengths.min() >= 1.0, lengths.max()) == (True, 2.0)
    uncut = np.mean(lengths == 2.0)
    assert uncut == pytest.approx(0.05, abs=0.03)
    quarters = np.histogram(lengths[lengths < 2.0], bins=4, range=(1.0, 2.0))[0] / 600
    np.testing.assert_allclose(quarters, 0.95 / 4, atol=0.06)


def test_lengths_in_the_published_setting_at_44_1_khz(tmp_path):
    stereo = np.stack([tone(300, 21.0, 44100), tone(300, 21.0, 44100)], axis=1)
    write_song(tmp_path / "song", {"drums": stereo, "bass": stereo}, sample_rate=44100)
    dataset = StemDataset(DataConfig((str(tmp_path),)), 32_000, seed=0, items_per_song=6)
    for index in range(6):
        item = dataset[index]
        assert item.target.shape == (320_000,)
        assert 160_000 <= len(item.context) <= 320_000
        assert 0 <= item.start <= 21 - 10 * item.augmentation.speed + 1e-9
        assert np.isfinite(item.target).all()


def assert_same(one, other):
    np.testing.assert_array_equal(one.context, other.context)
    np.testing.assert_array_equal(one.target, other.target)
    np.testing.assert_array_equal(one.beats, other.beats)
    fields = ("description", "stem", "song", "start", "context_kind", "context_stems", "augmentation", "index")
    assert all(getattr(one, field) == getattr(other, field) for field in fields)


def collect(dataset, workers, order, **options):
    """All items by index, as a DataLoader gives them."""
    loader = DataLoader(dataset, batch_size=None, sampler=order, num_workers=workers, **options)
    return {item.index: item for item in loader}


def test_items_do_not_depend_on_workers_order_or_history(root):
    settings = config(root, speed_probability=0.5, pitch_probability=0.5)
    order = list(range(0, 45, 7))
    expected = collect(StemDataset(settings, RATE, seed=5), 0, order)
    assert any(not item.augmentation.is_identity for item in expected.values())
    for workers in (2, 1):
        for index, item in collect(StemDataset(settings, RATE, seed=5), workers, order[::-1]).items():
            assert_same(item, expected[index])
    later = StemDataset(settings, RATE, seed=5)  # as after resuming: no other item was drawn before
    assert_same(later[order[3]], expected[order[3]])


def test_epochs_and_seeds_draw_other_items(root):
    dataset = StemDataset(config(root), RATE, seed=5)
    first = [dataset[index].start for index in range(10)]
    dataset.set_epoch(1)
    second = [dataset[index].start for index in range(10)]
    dataset.set_epoch(0)
    assert [dataset[index].start for index in range(10)] == first
    other = StemDataset(config(root), RATE, seed=6)
    assert sum(a == b for a, b in zip(first, second, strict=True)) <= 2
    assert sum(a == other[index].start for index, a in enumerate(first)) <= 2
    assert len(set(first)) >= 8
    assert dataset.epoch == 0


@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_workers_that_live_on_hear_of_the_new_epoch(root, context):
    dataset = StemDataset(config(root, context="metronome"), RATE, seed=0)
    loader = DataLoader(
        dataset, None, num_workers=1, sampler=range(4), persistent_workers=True, multiprocessing_context=context
    )
    for epoch in (0, 1):
        dataset.set_epoch(epoch)
        for item in loader:
            assert_same(item, dataset[item.index])


def test_augmentation_does_not_change_what_else_is_drawn(root):
    """Unless the song is too short for it: positions scale with the room that there is."""
    plain = StemDataset(config(root, context="mix"), RATE, seed=0)
    pitched = StemDataset(config(root, context="mix", pitch_probability=1.0), RATE, seed=0)
    for index in range(5):
        one, other = plain[index], pitched[index]
        assert (one.start, one.context_stems, len(one.context)) == (
            other.start,
            other.context_stems,
            len(other.context),
        )


def test_any_stem_is_named_in_the_description(root):
    dataset = StemDataset(config(root, stem="any", context="mix"), RATE, seed=0, items_per_song=1)
    assert len(dataset) == 15
    items = [dataset[index] for index in range(15)]
    assert Counter(item.stem for item in items) == dict.fromkeys(TONES, 3)
    for item in items:
        assert heard_tones(item.target) == {item.stem}
        assert heard_tones(item.context) == set(item.context_stems)
        assert item.stem not in item.context_stems
        assert item.description.endswith(f"Instruments: {item.stem}.")
    assert StemDataset(config(root), RATE, seed=0)[0].description == "Genre: Rock. Mood: happy."
    assert StemDataset(config(root, genres=0, moods=0), RATE, seed=0)[0].description == ""


def test_silent_chunks_are_neither_targets_nor_contexts(tmp_path):
    """Drums from 10 to 20 s; guitar at 0 to 12 s; piano too soft to count; vocals never."""
    seconds = 60
    time = np.arange(seconds * RATE) / RATE
    stems = {
        "drums": tone(TONES["drums"], seconds) * ((time >= 10) & (time < 20)),
        "guitar": tone(TONES["guitar"], seconds) * (time < 12),
        "piano": tone(TONES["piano"], seconds, peak=0.009),
        "vocals": np.zeros(seconds * RATE, dtype=np.float32),
    }
    write_song(tmp_path / "song", stems)
    dataset = StemDataset(config(tmp_path, context="mix"), RATE, seed=0, items_per_song=30)
    for index in range(30):
        item = dataset[index]
        assert np.abs(item.target).max() >= 0.01
        assert item.context_stems == ("guitar",)
        assert np.abs(item.context).max() >= 0.01  # in the part that the cut leaves
        assert 8 <= item.start < 12
    both = StemDataset(config(tmp_path, context="both"), RATE, seed=0, items_per_song=30)
    kinds = {(item.context_kind, item.start < 12) for item in map(both.__getitem__, range(30))}
    assert ("metronome", False) in kinds


def test_a_rare_stem_is_found(tmp_path):
    """0.3 s of drums in 200 s."""
    drums = np.zeros(200 * RATE, dtype=np.float32)
    drums[150 * RATE : 150 * RATE + 2400] = tone(TONES["drums"], 0.3)
    write_song(tmp_path / "song", {"drums": drums, "bass": tone(TONES["bass"], 200)})
    dataset = StemDataset(config(tmp_path, context="mix"), RATE, seed=0)
    assert len(dataset) == 1
    for epoch in range(5):
        dataset.set_epoch(epoch)
        assert 147.9 <= dataset[0].start <= 150.3


def test_stems_that_never_sound_together_are_an_error_that_names_the_song(tmp_path):
    half = np.arange(20 * RATE) < 10 * RATE
    stems = {"drums": tone(450, 20) * half, "bass": tone(200, 20) * ~half}
    folder = write_song(tmp_path / "apart", stems, beats=np.array([1.0]))
    soundfile.write(folder / "drums" / "0.wav", np.zeros(20 * RATE), RATE)  # not what features.json tells
    with pytest.raises(StageError, match=r"song apart: no 2\.0 s of drums can be used · .*data\.context = 'both'"):
        StemDataset(config(tmp_path), RATE, seed=0)[0]


def test_a_song_shorter_than_a_chunk_ends_in_silence(tmp_path):
    write_song(tmp_path / "short", seconds=1.2)
    for probability in (0.0, 1.0):
        settings = config(tmp_path, context="mix", speed_probability=probability, pitch_probability=probability)
        item = StemDataset(settings, RATE, seed=0)[0]
        assert item.start == 0
        assert item.target.shape == (2 * RATE,)
        end = round(1.2 / item.augmentation.speed * RATE)
        assert np.abs(item.target[: end - RATE // 4]).max() > 0.1
        assert np.abs(item.target[end + RATE // 8 :]).max() < 1e-3


def test_a_song_without_beats_gives_mixes_only(tmp_path):
    write_song(tmp_path / "free", beats=np.array([]))
    dataset = StemDataset(config(tmp_path), RATE, seed=0)
    assert {dataset[index].context_kind for index in range(10)} == {"mix"}
    with pytest.raises(UsageError, match="no song has drums and beats · of 1 songs there is bass in 1, drums in 1"):
        StemDataset(config(tmp_path, context="metronome"), RATE, seed=0)


def test_no_song(tmp_path):
    (tmp_path / "songs" / "a").mkdir(parents=True)
    with pytest.raises(UsageError, match=r"no prepared song in .*songs · .* · run stage prepare-data .*songs first"):
        StemDataset(config(tmp_path / "songs"), RATE, seed=0)
    with pytest.raises(UsageError, match=r"no folder .*none · there is no such folder"):
        StemDataset(config(tmp_path / "none"), RATE, seed=0)
    write_song(tmp_path / "songs" / "a", {"bass": tone(200, 3), "piano": tone(300, 3)})
    with pytest.raises(UsageError, match=r"no song has drums and another stem, or beats · .*bass in 1, piano in 1"):
        StemDataset(config(tmp_path / "songs"), RATE, seed=0)


def test_songs_are_found_at_any_depth_by_name_and_never_opened(tmp_path):
    for place in ("train/b", "test/a", "c", ".hidden/d"):
        folder = write_song(tmp_path / place, seconds=1)
        for file in folder.rglob("*.wav"):
            file.write_bytes(b"no audio")
    assert [song.id for song in find_songs([tmp_path])] == ["a", "b", "c"]
    with pytest.raises(AudioError, match="song a, drums: cannot read"):
        StemDataset(config(tmp_path), RATE, seed=0)[0]


def test_one_side_of_a_split(root):
    settings = config(root, validation_songs=1)
    split = split_songs(find_songs(settings.root), settings)
    validation = StemDataset(settings, RATE, seed=0, songs=split.validation, items_per_song=4)
    assert {validation[index].song for index in range(len(validation))} == {"song2"}
    training = StemDataset(settings, RATE, seed=0, songs=split.training)
    assert {song.id for song in training.songs} == {"song0", "song1"}
    with pytest.raises(IndexError, match="item 4 of 4"):
        validation[4]


def test_batches_have_silence_after_short_contexts(root):
    dataset = StemDataset(config(root), RATE, seed=0)
    loader = DataLoader(dataset, batch_size=4, num_workers=0, collate_fn=collate)
    batch = next(iter(loader))
    assert isinstance(batch, AudioBatch)
    assert batch.target.shape == (4, 2 * RATE)
    assert batch.context.shape == (4, int(batch.context_samples.max()))
    assert (batch.context.dtype, batch.context_samples.dtype) == (torch.float32, torch.int64)
    for row in range(4):
        item, length = dataset[row], int(batch.context_samples[row])
        np.testing.assert_array_equal(batch.context[row, :length].numpy(), item.context)
        assert not batch.context[row, length:].any()
        assert batch.descriptions[row] == item.description
        assert_same(batch.items[row], replace(item, context=item.context[:0], target=item.target[:0]))
    assert torch.equal(batch.to("cpu").context, batch.context)


def test_padded_contexts_are_masked_and_a_row_is_as_it_would_be_alone():
    lm = LanguageModelConfig(codebooks=4, codebook_size=32, dimension=16, layers=1, heads=1, text_dimension=None)
    generator = torch.Generator().manual_seed(0)
    contexts = [torch.randint(32, (4, frames), generator=generator) for frames in (7, 3, 0)]
    target = torch.randint(32, (3, 4, 5), generator=generator)
    padded = left_pad_codes(contexts, lm.pad)
    assert padded.shape == (3, 4, 7)
    tokens, attended, positions = delayed_sequence(padded, target, lm)
    for row, context in enumerate(contexts):
        own, own_attended, own_positions = delayed_sequence(context[None], target[row : row + 1], lm)
        shift = 7 - context.shape[1]
        np.testing.assert_array_equal(tokens[row, :, shift + 1 :], own[0, :, 1:])
        np.testing.assert_array_equal(attended[row, shift:], own_attended[0])
        assert not attended[row, : shift + 1].any()
        np.testing.assert_array_equal(positions[row, shift:], own_positions[0])
