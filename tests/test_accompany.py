"""The core call behind `stage generate`: progress, stopping, and a stem on its way to a file."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr
import torch

from stage_cli.core.accompany import (
    USUAL_PEAKS,
    AccompanySettings,
    AudioBlock,
    ContextReading,
    accompany,
    check_stem,
    generate_blocks,
    level_change,
    read_context,
)
from stage_cli.core.audio.writing import CEILING, AtomicAudioWriter, gain_for, scaled, write_scaled
from stage_cli.core.contexts import ArrayContext, FileContext, MetronomeContext
from stage_cli.core.generation.config import GenerationConfig
from stage_cli.core.model import StageModel
from stage_cli.core.stem_files import StemRequest, StoredTake, choose_format, mixed_blocks, plan_requests, write_stems
from stage_cli.errors import Cancelled, DeviceError, UsageError

Write = Callable[..., Path]

TEMPLATE = StemRequest(MetronomeContext(120), "drums", ())


@pytest.fixture
def request_for(tmp_path: Path) -> Callable[..., StemRequest]:
    """A request for drums in `tmp_path/out`, with a mix."""

    def make(context: FileContext | MetronomeContext) -> StemRequest:
        (planned,) = plan_requests([context], TEMPLATE, output=tmp_path / "out", variations=1, mix=True)
        return planned

    return make


def test_progress_counts_the_seconds_of_reading_and_writing(
    tiny_model: StageModel, request_for: Callable[..., StemRequest], write_music: Write
) -> None:
    calls: list[tuple[str, float, float]] = []
    request = request_for(FileContext(write_music(seconds=2.5), start=0.25))
    write_stems(tiny_model, request, AccompanySettings(), lambda *call: calls.append(call))
    assert [phase for phase, _, _ in calls] == sorted((phase for phase, _, _ in calls), reverse=True), "read, generate"
    for phase in ("read", "generate"):
        done = [done for name, done, _ in calls if name == phase]
        assert {total for name, _, total in calls if name == phase} == {2.25}
        assert all(before <= after for before, after in pairwise(done))
        assert done[-1] == pytest.approx(2.25, abs=0.02)
    assert len([phase for phase, _, _ in calls if phase == "generate"]) > 100, "a call for each frame, 50 a second"


@pytest.mark.parametrize(
    ("peak", "note"),
    [
        (0.003, "The context peaks, in mono, at -50 dBFS: the model hears it 42 dB louder."),
        (8.0, "The context peaks, in mono, at 18 dBFS: the model hears it 27 dB quieter."),
        (0.12, None),
        (1.3, None),
    ],
)
def test_a_context_is_heard_as_loud_as_models_know_it(
    tiny_model: StageModel, tmp_path: Path, peak: float, note: str | None
) -> None:
    rate = tiny_model.config.codec.sample_rate
    music = np.random.default_rng(0).uniform(-1, 1, 2 * rate).astype(np.float32)
    codes: dict[float, torch.Tensor] = {}
    remarks: list[str] = []
    usual = 10 ** (sum(USUAL_PEAKS) / 2 / 20)
    for level in (peak, usual):
        path = tmp_path / f"{level}.wav"
        soundfile.write(path, music * (level / np.abs(music).max()), rate, subtype="FLOAT")
        reading = read_context(tiny_model, FileContext(path), AccompanySettings())
        codes[level] = reading.context
        remarks += reading.remarks
    assert remarks == ([] if note is None else [note])
    # Tokens at a border may fall to either side of it.
    same = (codes[peak] == codes[usual]).float().mean()
    assert same > 0.99 if note else same < 0.9


def test_a_quiet_context_keeps_its_level_in_the_mix(
    tiny_model: StageModel, request_for: Callable[..., StemRequest], tmp_path: Path
) -> None:
    rate = tiny_model.config.codec.sample_rate
    music = np.random.default_rng(0).uniform(-0.01, 0.01, (rate, 2))
    soundfile.write(tmp_path / "quiet.wav", music, rate, subtype="PCM_24")
    result = write_stems(tiny_model, request_for(FileContext(tmp_path / "quiet.wav")), AccompanySettings())
    (stem,) = result.stems
    assert stem.mix_path is not None
    assert any("louder" in note for note in result.notes)
    (own, _), (mix, _) = soundfile.read(stem.path), soundfile.read(stem.mix_path)
    own, mix = (part * 10 ** (by / 20) for part, by in ((own, stem.turned_down), (mix, stem.mix_turned_down)))
    np.testing.assert_allclose(mix - own[:, None], music, atol=1e-5)


def test_a_plain_musicgen_reads_all_contexts_as_they_are(tiny_model: StageModel) -> None:
    config = tiny_model.config
    plain = StageModel(dataclasses.replace(config, lm=dataclasses.replace(config.lm, separator=False)))
    assert tiny_model.levels_contexts
    assert not plain.levels_contexts
    assert level_change(0.003) == pytest.approx(42, abs=0.1)
    assert level_change(1e-4) == 0, "silence"


@pytest.mark.parametrize("phase", ["read", "generate"])
def test_progress_may_stop_it(
    tiny_model: StageModel, request_for: Callable[..., StemRequest], write_music: Write, tmp_path: Path, phase: str
) -> None:
    context = write_music(seconds=2.0)

    def stop(name: str, done: float, total: float) -> None:
        if name == phase and done > total / 2:
            raise Cancelled

    with pytest.raises(Cancelled):
        write_stems(tiny_model, request_for(FileContext(context)), AccompanySettings(), stop)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [context]


def test_what_is_told_of_a_stem(
    tiny_model: StageModel, request_for: Callable[..., StemRequest], tmp_path: Path
) -> None:
    result = write_stems(
        tiny_model, request_for(MetronomeContext(90, 3, 1.0, 0.1)), AccompanySettings(GenerationConfig(seed=5))
    )
    (stem,) = result.stems
    assert (stem.path, stem.mix_path) == (tmp_path / "out/90bpm.drums.wav", tmp_path / "out/90bpm.drums.mix.wav")
    assert (stem.seed, stem.seconds, stem.sample_rate, stem.frames, stem.silent) == (5, 1.0, 8000, 8000, False)
    assert result.compute_seconds > 0


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        pytest.param(torch.OutOfMemoryError, "CUDA out of memory.", id="cuda"),
        pytest.param(MemoryError, "", id="python"),
        pytest.param(RuntimeError, "DefaultCPUAllocator: can't allocate memory: you tried to allocate 9", id="cpu"),
    ],
)
def test_out_of_memory(
    tiny_model: StageModel,
    request_for: Callable[..., StemRequest],
    write_music: Write,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: type[Exception],
    message: str,
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise kind(message)

    monkeypatch.setattr("stage_cli.core.model.generate_song", fail)
    context = write_music(seconds=0.5)
    with pytest.raises(DeviceError, match=r"Out of memory on cpu.*bfloat16 .* GB.*fewer `variations`"):
        write_stems(tiny_model, request_for(FileContext(context)), AccompanySettings())
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [context]


def test_other_runtime_errors_are_not_taken_for_memory(
    tiny_model: StageModel, request_for: Callable[..., StemRequest], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr("stage_cli.core.model.generate_song", fail)
    with pytest.raises(RuntimeError, match="shapes do not match"):
        write_stems(tiny_model, request_for(MetronomeContext(120, duration=0.5)), AccompanySettings())


@pytest.mark.parametrize("rate", [8000, 44100])
def test_arrays_and_files_give_the_same_bits(
    tiny_model: StageModel, write_music: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rate: int
) -> None:
    """In memory, before writing, and in the file; from a file and from its samples."""
    path = write_music(seconds=1.7, sample_rate=rate, subtype="FLOAT")
    settings = AccompanySettings(GenerationConfig(seed=2, variations=2))
    outputs = tuple(tmp_path / "out" / f"{take}.wav" for take in (1, 2))
    stored: list[np.ndarray] = []
    flush = StoredTake.flush

    def keep(take: StoredTake) -> None:
        flush(take)
        stored.append(np.concatenate(list(take.blocks()))[:, 0])

    monkeypatch.setattr(StoredTake, "flush", keep)
    written = write_stems(tiny_model, StemRequest(FileContext(path), "drums", outputs), settings)
    samples = soundfile.read(path, dtype="float32")[0].T
    for context in (FileContext(path), ArrayContext(samples, rate)):
        stems = accompany(tiny_model, context, settings)
        assert [stem.seed for stem in stems] == [2, 3]
        for stem, raw, file, told in zip(stems, stored, outputs, written.stems, strict=True):
            assert stem.turned_down == told.turned_down
            assert np.array_equal(stem.audio, scaled(raw, 10 ** (-stem.turned_down / 20)) if stem.turned_down else raw)
            assert (stem.sample_rate, stem.seconds) == (rate, told.seconds)
            assert (stem.peak, stem.loudness) == (told.peak, told.loudness)
            assert stem.save(tmp_path / "saved.wav").read_bytes() == file.read_bytes()


def test_check_stem(tiny_model: StageModel) -> None:
    check_stem(tiny_model, "drums")
    with pytest.raises(UsageError, match="writes drums, not bass"):
        check_stem(tiny_model, "bass")


# Requests


@pytest.mark.parametrize(
    ("output", "format", "chosen"),
    [
        (None, None, "wav"),
        (None, "flac", "flac"),
        ("stems", None, "wav"),
        ("stems.v2", "flac", "flac"),
        ("stem.wav", None, "wav"),
        ("stem.FLAC", None, "flac"),
        ("stem.flac", "flac", "flac"),
    ],
)
def test_choose_format(output: str | None, format: str | None, chosen: str) -> None:
    assert choose_format(None if output is None else Path(output), format) == chosen


def test_a_folder_that_looks_like_a_file_says_nothing_of_the_format(tmp_path: Path) -> None:
    (tmp_path / "stems.mp3").mkdir()
    assert choose_format(tmp_path / "stems.mp3", None) == "wav"


def test_plan_requests_keeps_all_but_the_names(tmp_path: Path) -> None:
    template = StemRequest(MetronomeContext(120), "bass", (), format="flac", overwrite=True)
    contexts = [FileContext(tmp_path / "a.wav", 1.0, 2.0), MetronomeContext(100)]
    planned = plan_requests(contexts, template, output=None, variations=2, mix=False)
    assert [request.context for request in planned] == contexts
    assert planned[0].stem_paths == (tmp_path / "a.bass.flac", tmp_path / "a.bass.2.flac")
    assert planned[1].stem_paths == (Path("100bpm.bass.flac"), Path("100bpm.bass.2.flac"))
    for request in planned:
        assert (request.format, request.overwrite) == ("flac", True)
        assert request.mix_paths == ()


# A stem on its way to a file


class Recited:
    """A model that generates what it is given, in pieces."""

    stem, levels_contexts, remarks = "drums", False, ()

    def __init__(self, audio: np.ndarray, rate: int) -> None:
        self.channels, self.context_rate, self._audio = len(audio), rate, audio

    def sampling_for(self, *, metronome: bool) -> dict[str, float]:
        return {"guidance": 2.0 if metronome else 1.0}

    def take_rate(self, context_rate: int) -> int:
        del context_rate
        return self.context_rate

    def describe(self, description: str | None) -> str | None:
        return description

    def read(self, blocks: Iterable[np.ndarray], **known: object) -> int:
        del known
        return sum(map(len, blocks))

    def generate(self, context: int, config: GenerationConfig, **options: object) -> Iterator[AudioBlock]:
        del context, config, options
        yield from (AudioBlock(0, piece) for piece in np.array_split(self._audio, 7, axis=1))


@pytest.mark.parametrize(("model_rate", "rate"), [(8000, 8000), (8000, 44100), (32000, 11025)])
@pytest.mark.parametrize("extra", [-700, 0, 700], ids=["too-short", "exact", "too-long"])
@pytest.mark.parametrize("channels", [1, 2])
def test_a_take_has_its_exact_length(model_rate: int, rate: int, extra: int, channels: int) -> None:
    audio = np.random.default_rng(0).uniform(-0.5, 0.5, (channels, model_rate + extra)).astype(np.float32)
    reading = ContextReading(0, None, None, rate, rate, 1, ())
    blocks = generate_blocks(Recited(audio, model_rate), reading, AccompanySettings())  # ty: ignore[invalid-argument-type]
    take = np.concatenate([block.audio for block in blocks], axis=1)
    whole = soxr.resample(audio.T, model_rate, rate, quality="VHQ")[:rate].T
    assert take.shape == (channels, rate)
    np.testing.assert_allclose(take[:, : whole.shape[1]], whole, rtol=0, atol=1e-5)
    assert not take[:, whole.shape[1] + 1 :].any(), "silence (a resampled stream may be one sample longer than soxr's)"


@pytest.mark.parametrize("channels", [1, 2])
def test_a_stored_take_can_be_read_again(tmp_path: Path, channels: int) -> None:
    audio = np.random.default_rng(0).uniform(-0.5, 0.5, (90_000, channels)).astype(np.float32)
    take = StoredTake(tmp_path, 44100, channels)
    for piece in np.array_split(audio, 7):
        take.push(piece)
    take.flush()
    for _ in range(2):
        assert np.array_equal(np.concatenate(list(take.blocks())), audio)
    take.close()
    assert take.meter.peak == pytest.approx(20 * np.log10(np.abs(audio).max()))
    assert list(tmp_path.iterdir()) == [], "it has no name in the folder"


@pytest.mark.parametrize(
    ("peak", "gain"), [(0.0, 1.0), (0.5, 1.0), (1.0, 1.0), (1.0001, CEILING / 1.0001), (40, CEILING / 40)]
)
def test_gain_for(peak: float, gain: float) -> None:
    assert gain_for(peak) == gain


def test_write_scaled_reaches_the_ceiling_and_not_more(tmp_path: Path) -> None:
    blocks = [np.array([0.1, -2.5], dtype=np.float32), np.array([2.0], dtype=np.float32)]
    with AtomicAudioWriter(tmp_path / "stem.wav", 8000, 1) as writer:
        write_scaled(blocks, writer, gain_for(2.5))
    written = soundfile.read(tmp_path / "stem.wav")[0]
    np.testing.assert_allclose(written, np.array([0.1, -2.5, 2.0]) * CEILING / 2.5, atol=2**-22)
    assert np.abs(written).max() == pytest.approx(10 ** (-0.1 / 20))


@pytest.mark.parametrize("context_block", [1, 3, 10])
@pytest.mark.parametrize("stem_block", [1, 4, 10])
@pytest.mark.parametrize(("of_context", "of_stem"), [(1, 1), (2, 1), (1, 2), (2, 2), (3, 2)])
def test_mixed_blocks_may_be_cut_differently(
    context_block: int, stem_block: int, of_context: int, of_stem: int
) -> None:
    generator = np.random.default_rng(0)
    context = generator.uniform(-1, 1, (10, of_context)).astype(np.float32)
    stem = generator.uniform(-1, 1, (10, of_stem)).astype(np.float32)

    def cut(samples: np.ndarray, size: int) -> Iterator[np.ndarray]:
        return (samples[i : i + size] for i in range(0, len(samples), size))

    mixed = np.concatenate(list(mixed_blocks(cut(context, context_block), cut(stem, stem_block))))
    expected = context + (np.pad(stem, ((0, 0), (0, 1))) if of_context == 3 else stem)
    assert np.array_equal(mixed, expected)
