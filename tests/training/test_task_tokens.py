"""Tokens: made in the step, cut and padded, dropped by chance that depends on nothing else, and cached."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from prepared_songs import RATE, write_song
from torch import Tensor
from torch.nn import functional as F
from transformers_reference import make_codec

from stage_cli.core.codec.codec import Codec
from stage_cli.core.data.augment import Augmentation
from stage_cli.core.data.config import DataConfig
from stage_cli.core.data.dataset import Item, StemDataset, collate
from stage_cli.core.model import StageModel
from stage_cli.core.training import tokens
from stage_cli.core.training.stem_module import (
    CodeBatch,
    Conditioning,
    Dropouts,
    TokenItem,
    collate_items,
    pick_conditioning,
)
from stage_cli.core.training.tokens import CachedTokens, cache_key, cached_tokens, encode_batch, make_tokens, part_path
from stage_cli.errors import StageError

CPU = torch.device("cpu")
HOP = 160


@pytest.fixture(scope="module")
def codec(musicgen_dir: Path) -> Codec:
    """The codec of the tiny MusicGen (8 kHz, 50 frames/s, not causal), with codebooks that fit its latents.

    Those at random would write the same few codes for any audio.
    """
    codec = StageModel.from_pretrained(str(musicgen_dir), device="cpu").codec
    generator = torch.Generator().manual_seed(0)
    residual = codec.latents(0.3 * torch.randn(1, 1, 20 * RATE, generator=generator))[0].T
    for codebook in codec.quantizer.codebooks:
        codebook.copy_(residual[torch.randperm(len(residual), generator=generator)[: len(codebook)]])
        residual = residual - codebook[torch.cdist(residual, codebook).argmin(dim=1)]
    return codec


def make_item(index: int, context_samples: int, samples: int = 2 * RATE) -> Item:
    """An item of noise, of which each second is unlike the others."""
    rng = np.random.default_rng(index)
    target, context = (0.3 * rng.standard_normal((2, samples))).astype(np.float32)
    return Item(
        context=context[:context_samples],
        target=target,
        description=f"item {index}",
        stem="drums",
        song=f"song{index}",
        start=0.0,
        context_kind="mix",
        context_stems=("bass",),
        beats=np.zeros(0),
        downbeats=np.zeros(0),
        augmentation=Augmentation(),
        index=index,
    )


# In the step ---------------------------------------------------------------------------------------------------------


def test_codes_are_the_transformers_librarys(codec: Codec) -> None:
    """Targets whole; contexts followed by silence, then cut to the frames that they begin."""
    items = [make_item(0, 9000), make_item(1, 2 * RATE), make_item(2, 161)]
    codes = encode_batch(codec, collate(items))
    reference = make_codec()
    for layer, codebook in zip(reference.quantizer.layers, codec.quantizer.codebooks, strict=True):
        layer.codebook.embed.copy_(codebook)
    assert codes.context_frames == (math.ceil(9000 / HOP), 100, 2)
    for row, item in enumerate(items):
        padded = np.pad(item.context, (0, 2 * RATE - len(item.context)))
        for samples, ours in ((item.target, codes.target[row]), (padded, codes.context[row])):
            with torch.no_grad():
                expected = reference.encode(torch.from_numpy(samples)[None, None]).audio_codes[0, 0]
            own = ours if samples is item.target else ours[:, : codes.context_frames[row]]
            # A latent half-way between two codes may fall to either side.
            assert (own == expected[:, : own.shape[1]]).float().mean() > 0.99
    assert codes.target.shape == (3, 4, 100)
    assert codes.target.dtype == torch.int64
    assert codes.target.unique().numel() > 20  # not one code over and over


def test_a_begun_frame_counts(codec: Codec) -> None:
    codes = encode_batch(codec, collate([make_item(0, 1000, samples=8001)]))
    assert codes.target.shape[2] == math.ceil(8001 / HOP) == 51
    assert codes.context_frames == (math.ceil(1000 / HOP),)


def test_an_items_codes_do_not_depend_on_its_companions(codec: Codec) -> None:
    """Bit by bit: all rows have one length whatever is in the batch."""
    items = [make_item(index, length) for index, length in enumerate((9000, 16000, 400, 12000))]
    together = encode_batch(codec, collate(items))
    for group in ([0], [2], [0, 2], [3, 1, 2]):
        codes = encode_batch(codec, collate([items[index] for index in group]))
        for row, index in enumerate(group):
            own = together.context_frames[index]
            assert codes.context_frames[row] == own
            assert torch.equal(codes.target[row], together.target[index])
            assert torch.equal(codes.context[row, :, :own], together.context[index, :, :own])


def test_codes_are_made_in_fp32_without_gradient(codec: Codec) -> None:
    """Also inside the engine's mixed precision, where bfloat16 would give other codes."""
    batch = collate([make_item(0, 9000)])
    exact = encode_batch(codec, batch)
    with torch.autocast("cpu", torch.bfloat16):
        inside = encode_batch(codec, batch)
        rough = codec.encode(batch.target[:, None])
    assert torch.equal(inside.target, exact.target)
    assert not torch.equal(rough, exact.target)  # autocast does reach the codec
    assert not codec.training
    assert not exact.target.requires_grad


def test_one_call_for_targets_and_contexts(codec: Codec, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[torch.Size] = []
    encode = codec.encode

    def spy(audio: Tensor) -> Tensor:
        seen.append(audio.shape)
        return encode(audio)

    monkeypatch.setattr(codec, "encode", spy)
    encode_batch(codec, collate([make_item(0, 900), make_item(1, 5000)]))
    assert seen == [(4, 1, 2 * RATE)]


# Dropouts ------------------------------------------------------------------------------------------------------------

PUBLISHED = Dropouts(context=0.1, description=0.5, words=0.3)
WORDS = "Genres: Rock, Jazz, Funk. Moods: happy, sad, dark."


def draw_many(dropouts: Dropouts, count: int = 4000, *, seed: int = 0, epoch: int = 0) -> list[Conditioning]:
    return [pick_conditioning(dropouts, WORDS, seed=seed, epoch=epoch, index=index) for index in range(count)]


def test_the_published_rates() -> None:
    """Within four standard deviations of a binomial, with a fixed seed."""
    drawn = draw_many(PUBLISHED)
    without_context = sum(not one.with_context for one in drawn)
    assert abs(without_context - 400) < 4 * math.sqrt(4000 * 0.1 * 0.9)
    # All 8 words may fall to the word dropout as well: 0.3⁸ is nothing.
    without_words = sum(not one.description for one in drawn)
    assert abs(without_words - 2000) < 4 * math.sqrt(4000 * 0.25)
    kept = [len(one.description.split()) for one in drawn if one.description]
    words = 8 * len(kept)
    assert abs(sum(kept) - 0.7 * words) < 4 * math.sqrt(words * 0.21)
    both = sum(not one.with_context and not one.description for one in drawn)
    assert abs(both - 200) < 4 * math.sqrt(4000 * 0.05 * 0.95)  # independent of each other
    assert all(set(one.description.split()) <= set(WORDS.split()) for one in drawn)


def test_draws_depend_on_seed_epoch_and_index_alone() -> None:
    assert draw_many(PUBLISHED, 50) == draw_many(PUBLISHED, 50)
    assert draw_many(PUBLISHED, 50) != draw_many(PUBLISHED, 50, epoch=1)
    assert draw_many(PUBLISHED, 50) != draw_many(PUBLISHED, 50, seed=1)
    state = torch.get_rng_state()
    draw_many(PUBLISHED, 5)
    assert torch.equal(torch.get_rng_state(), state)


def test_one_rate_does_not_change_anothers_draws() -> None:
    contexts = [one.with_context for one in draw_many(PUBLISHED, 200)]
    others = draw_many(replace(PUBLISHED, description=0.0, words=0.0), 200)
    assert [one.with_context for one in others] == contexts
    assert {one.description for one in others} == {WORDS}
    descriptions = [one.description for one in draw_many(PUBLISHED, 200)]
    assert [one.description for one in draw_many(replace(PUBLISHED, context=1.0), 200)] == descriptions


def test_nothing_and_everything_is_dropped() -> None:
    assert set(draw_many(Dropouts(), 100)) == {Conditioning(with_context=True, description=WORDS)}
    assert set(draw_many(Dropouts(1.0, 1.0, 0.0), 100)) == {Conditioning(with_context=False, description="")}
    assert {one.description for one in draw_many(Dropouts(words=1.0), 10)} == {""}


def test_gaps_in_the_past() -> None:
    drawn = draw_many(replace(PUBLISHED, history=0.5), 2000)
    shares = np.array([one.hidden for one in drawn])
    assert abs((shares > 0).mean() - 0.5) < 4 * math.sqrt(0.25 / 2000)
    assert 0.75 < shares.max() <= 0.8
    frames = np.stack([one.hidden_frames(250, 25.0) for one in drawn])
    # Of 250 frames as many are hidden as was drawn, on average.
    assert np.abs(frames.mean(axis=1) - shares).mean() < 0.1
    assert abs(frames.mean() - shares.mean()) < 0.01
    assert not frames[shares == 0].any()
    # Gaps are half a second, or several of them, and begin anywhere.
    changes = [np.flatnonzero(row[1:] != row[:-1]) + 1 for row in frames]
    assert {int(place) % 12 for row in changes for place in row - row[:1]} == {0}
    assert {int(row[0]) % 12 for row in changes if len(row)} == set(range(12))
    # The other draws are what they were.
    assert [(one.with_context, one.description) for one in drawn] == [
        (one.with_context, one.description) for one in draw_many(PUBLISHED, 2000)
    ]


def test_the_stream_is_not_the_data_sets() -> None:
    """Chunks are drawn from the streams 0 to 2 of (seed, epoch, index): a context is not dropped because of its cut."""
    first = np.array([np.random.default_rng(np.random.SeedSequence((0, 0, index), spawn_key=(stream,))).random()
                      for index in range(1000) for stream in range(3)]).reshape(1000, 3)  # fmt: skip
    dropped = np.array([not one.with_context for one in draw_many(Dropouts(context=0.5), 1000)])
    for stream in range(3):
        assert abs(np.corrcoef(dropped, first[:, stream])[0, 1]) < 0.1


# The cache -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("songs")
    for number, genres in enumerate((("Rock",), ("Jazz", "Funk"))):
        write_song(folder / f"song{number}", seconds=12.0, bpm=110 + 10 * number, genres=genres)
    return folder


def make_dataset(root: Path, *, seed: int = 0, **changes: Any) -> StemDataset:
    options: dict[str, Any] = dict.fromkeys(("speed_probability", "pitch_probability"), 0.0)
    options |= {"chunk_seconds": 2.0, "context_seconds": (1.0, 2.0)} | changes
    return StemDataset(DataConfig((str(root),), **options), RATE, seed)


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Twelve items fill three parts."""
    monkeypatch.setattr(tokens, "PART_ITEMS", 5)


def fill(cached: CachedTokens, dataset: StemDataset, codec: Codec, **options: Any) -> list[tuple[int, int]]:
    progress: list[tuple[int, int]] = []
    options = {"batch_size": 2, "on_progress": lambda done, total: progress.append((done, total))} | options
    make_tokens(cached, dataset, codec, device=CPU, **options)
    return progress


def stored(cached: CachedTokens) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(cached.folder.iterdir())}


def assert_equal_items(cached: CachedTokens, dataset: StemDataset, codec: Codec, epoch: int) -> None:
    """Each item holds what the step would make of the same draw."""
    cached.set_epoch(epoch)
    dataset.set_epoch(epoch % cached.epochs)
    for index in range(len(cached)):
        item, token_item = dataset[index], cached[index]
        codes = encode_batch(codec, collate([item]))
        assert torch.equal(token_item.target, codes.target[0])
        assert torch.equal(token_item.context, codes.context[0])
        assert (token_item.description, token_item.song) == (item.description, item.song)
        assert (token_item.stem, token_item.start, token_item.index) == (item.stem, item.start, index)


def test_cached_items_are_those_of_the_step(root: Path, codec: Codec, tmp_path: Path) -> None:
    dataset = make_dataset(root)
    assert len(dataset) == 12
    cached = cached_tokens(tmp_path, dataset, codec, epochs=2)
    progress = fill(cached, dataset, codec)
    assert len(cached) == 12
    assert sorted(stored(cached)) == [part_path(Path(), e, p).name for e in (0, 1) for p in (0, 1, 2)]
    assert progress[-1] == (24, 24)
    assert [done for done, _ in progress] == sorted({done for done, _ in progress})
    for epoch in (0, 1, 2, 5):  # epochs beyond the cached ones repeat them in turn
        assert_equal_items(cached, dataset, codec, epoch)
    assert cached.epoch == 5
    cached.set_epoch(0)
    first = cached[3]
    cached.set_epoch(1)
    assert cached[3].start != first.start  # another draw
    with pytest.raises(IndexError, match="item 12 of 12"):
        cached[12]


def test_a_stopped_cache_goes_on(root: Path, codec: Codec, tmp_path: Path) -> None:
    """Killed after any item: what is whole stays, what is not is made, and the files are the same in the end."""
    dataset = make_dataset(root)
    whole = cached_tokens(tmp_path / "whole", dataset, codec, epochs=1)
    fill(whole, dataset, codec)
    stopped = cached_tokens(tmp_path / "stopped", dataset, codec, epochs=1)

    def kill(done: int, total: int) -> None:
        if done >= 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fill(stopped, dataset, codec, on_progress=kill)
    assert len(stored(stopped)) == 1
    before = (stopped.folder / part_path(Path(), 0, 0).name).stat().st_mtime_ns
    progress = fill(stopped, dataset, codec)
    assert progress[-1] == (7, 7)
    assert (stopped.folder / part_path(Path(), 0, 0).name).stat().st_mtime_ns == before
    assert stored(stopped) == stored(whole)
    assert fill(stopped, dataset, codec) == []  # nothing is left to be done


def test_runs_share_a_folder(root: Path, codec: Codec, tmp_path: Path) -> None:
    """What one run has made another one takes; tokens of other data stay beside them."""
    common, dataset, other = tmp_path / "common", make_dataset(root), make_dataset(root, seed=7)
    first = cached_tokens(tmp_path / "one", dataset, codec, epochs=1, shared=common)
    fill(first, dataset, codec)
    else_ = cached_tokens(tmp_path / "two", other, codec, epochs=1, shared=common)
    fill(else_, other, codec)
    again = cached_tokens(tmp_path / "three", dataset, codec, epochs=1, shared=common)
    assert fill(again, dataset, codec) == []
    assert_equal_items(again, dataset, codec, 0)
    assert first.folder.parent == else_.folder.parent == common
    assert stored(first)
    assert not any((tmp_path / name).exists() for name in ("one", "two", "three"))


def test_processes_share_the_work(root: Path, codec: Codec, tmp_path: Path) -> None:
    dataset = make_dataset(root)
    alone = cached_tokens(tmp_path / "alone", dataset, codec, epochs=2)
    fill(alone, dataset, codec)
    shared = cached_tokens(tmp_path / "shared", dataset, codec, epochs=2)
    counts = [fill(shared, dataset, codec, process=process, processes=2, batch_size=3)[-1] for process in (0, 1)]
    assert counts == [(12, 12), (12, 12)]
    assert stored(shared) == stored(alone)


@pytest.mark.slow
def test_workers_change_nothing(root: Path, codec: Codec, tmp_path: Path) -> None:
    dataset = make_dataset(root)
    alone = cached_tokens(tmp_path / "alone", dataset, codec, epochs=1)
    fill(alone, dataset, codec)
    helped = cached_tokens(tmp_path / "helped", dataset, codec, epochs=1)
    fill(helped, dataset, codec, workers=1)
    assert stored(helped) == stored(alone)


def test_a_changed_config_is_made_anew(root: Path, codec: Codec, tmp_path: Path) -> None:
    dataset = make_dataset(root)
    old = cached_tokens(tmp_path, dataset, codec, epochs=1)
    fill(old, dataset, codec)
    changed = make_dataset(root, context="mix")
    new = cached_tokens(tmp_path, changed, codec, epochs=1)
    assert new.folder != old.folder
    fill(new, changed, codec, process=1, processes=2)
    assert old.folder.exists()  # only the main process tidies up
    fill(new, changed, codec)
    assert [path.name for path in (tmp_path / "tokens").iterdir()] == [new.folder.name]
    assert_equal_items(new, changed, codec, 0)


def test_what_the_key_depends_on(root: Path, codec: Codec, musicgen_dir: Path, tmp_path: Path) -> None:
    key = cache_key(make_dataset(root), codec)
    assert cache_key(make_dataset(root), codec) == key
    assert cache_key(make_dataset(root, seed=1), codec) != key
    assert cache_key(make_dataset(root, chunk_seconds=1.5, context_seconds=(1.0, 1.5)), codec) != key
    other = StageModel.from_pretrained(str(musicgen_dir), device="cpu").codec
    other.quantizer.codebooks[0, 0, 0] += 1e-3
    assert cache_key(make_dataset(root), other) != key
    write_song(tmp_path / "song0", seconds=12.0)
    assert cache_key(make_dataset(tmp_path), codec) != key


def test_a_damaged_part_says_what_to_do(root: Path, codec: Codec, tmp_path: Path) -> None:
    dataset = make_dataset(root)
    cached = cached_tokens(tmp_path, dataset, codec, epochs=1)
    with pytest.raises(StageError, match=r"the tokens in .*epoch-0000-part-00000\.safetensors cannot be used"):
        cached[0]
    fill(cached, dataset, codec)
    path = part_path(cached.folder, 0, 1)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(StageError, match=r"part-00001.*delete that file and start the training again"):
        cached[5]
    path.unlink()
    fill(cached, dataset, codec)
    assert_equal_items(cached, dataset, codec, 0)


def test_a_full_disk_says_so(root: Path, codec: Codec, tmp_path: Path) -> None:
    dataset = make_dataset(root)
    cached = cached_tokens(tmp_path, dataset, codec, epochs=1)
    (tmp_path / "tokens").write_text("in the way")
    with pytest.raises(StageError, match=r"cannot write .*data\.tokens = .step."):
        fill(cached, dataset, codec)


def test_batches_of_cached_items(codec: Codec) -> None:
    generator = torch.Generator().manual_seed(0)
    items: Sequence[TokenItem] = [
        TokenItem(
            torch.randint(0, 32, (4, length), generator=generator),
            torch.randint(0, 32, (4, 6), generator=generator),
            f"text {index}",
            "drums",
            f"song{index}",
            1.5,
            index,
        )
        for index, length in enumerate((3, 5, 1))
    ]
    batch = collate_items(items)
    assert isinstance(batch, CodeBatch)
    assert batch.context_frames == (3, 5, 1)
    for row, item in enumerate(items):
        padded = F.pad(item.context, (0, 5 - item.context.shape[1]))
        assert torch.equal(batch.context[row], padded)
        assert torch.equal(batch.target[row], item.target)
    assert [(item.song, item.index, item.target.numel()) for item in batch.items] == [
        ("song0", 0, 0), ("song1", 1, 0), ("song2", 2, 0),
    ]  # fmt: skip
    assert batch.to("meta").target.is_meta
