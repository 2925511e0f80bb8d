"""A stem that is heard while it is made: when its sound leaves, what leaves, and what stays."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from stage_cli.core import stem_files
from stage_cli.core.accompany import LIVE_SECONDS, AccompanySettings
from stage_cli.core.contexts import FileContext, MetronomeContext
from stage_cli.core.generation.config import GenerationConfig
from stage_cli.core.model import StageModel
from stage_cli.core.stem_files import StemRequest, StoredTake, Stream, plan_requests, write_stems
from stage_cli.errors import Cancelled

Write = Callable[..., Path]

STEP = 2**-15
NO_FILES = StemRequest(MetronomeContext(120, duration=2.5), "drums", ())


@pytest.fixture
def quiet_model(tiny_model_dir: Path) -> StageModel:
    """The tiny model, 24 dB quieter: nothing is turned down or cut."""
    model = StageModel.from_pretrained(str(tiny_model_dir), device="cpu")
    output = model.codec.get_submodule("decoder.output")
    for parameter in output.parameters():
        parameter.data /= 16
    return model


class Pipe(io.BytesIO):
    """A file that only goes on, as pipes do, and notes when sound arrives."""

    def __init__(self, events: list[str]) -> None:
        super().__init__()
        self.events = events

    def seekable(self) -> bool:
        return False

    def seek(self, *_: int) -> int:
        raise OSError("a pipe does not seek")

    def tell(self) -> int:
        raise OSError("a pipe does not tell")

    def write(self, data: bytes) -> int:  # ty: ignore[invalid-method-override]
        self.events.append("sound" if self.getvalue() else "header")
        return super().write(data)

    @property
    def audio(self) -> np.ndarray:
        return soundfile.read(io.BytesIO(self.getvalue()), always_2d=True)[0]


def planned(folder: Path, context: FileContext | MetronomeContext, **options: bool) -> StemRequest:
    template = StemRequest(context, "drums", (), growing=options.pop("growing", False))
    (request,) = plan_requests([context], template, output=folder, variations=1, mix=options.pop("mix", False))
    return request


def test_sound_leaves_while_the_stem_is_made(tiny_model: StageModel) -> None:
    events: list[str] = []
    pipe = Pipe(events)
    write_stems(
        tiny_model,
        NO_FILES,
        AccompanySettings(GenerationConfig(seed=1)),
        lambda phase, done, _: events.append(f"{done:.2f}") if phase == "generate" and done else None,
        stream=Stream(pipe),
    )
    assert events[0] == "header"
    first = events.index("sound")
    # The tiny codec looks a few frames ahead; then the second piece is the first to be heard at the latest.
    assert float(events[first - 1]) <= 2 * LIVE_SECONDS + 0.01
    # No half second passes without sound, neither within windows of 1 s nor between them.
    heard = [0.0, *(float(events[i - 1]) for i in range(first, len(events)) if events[i] == "sound" != events[i - 1])]
    assert max(np.diff(heard)) <= 2 * LIVE_SECONDS + 0.01
    assert len(pipe.audio) == 20_000


@pytest.mark.parametrize("mixed", [False, True], ids=["stem", "mix"])
@pytest.mark.parametrize("rate", [8000, 44100])
def test_what_is_streamed_is_what_the_file_holds(
    quiet_model: StageModel, write_music: Write, tmp_path: Path, rate: int, mixed: bool
) -> None:
    context = FileContext(write_music(seconds=2.3, sample_rate=rate), start=0.1)
    request = planned(tmp_path / "out", context, mix=True)
    pipe = Pipe([])
    config = AccompanySettings(GenerationConfig(seed=1))
    result = write_stems(quiet_model, replace(request, stem_paths=(), mix_paths=()), config, stream=Stream(pipe, mixed))
    assert result.notes == ()
    (told,) = result.stems
    (stem,) = write_stems(quiet_model, request, config).stems
    assert stem.path is not None
    assert stem.mix_path is not None
    assert (stem.turned_down, stem.mix_turned_down) == (0, 0)
    expected = soundfile.read(stem.mix_path if mixed else stem.path, always_2d=True)[0]
    # Half a step of 16 bits, a little for the codec's rounding, and what 24 bits round.
    np.testing.assert_allclose(pipe.audio, expected, rtol=0, atol=0.51 * STEP)
    assert (told.path, told.frames, told.seconds, told.sample_rate) == (None, stem.frames, stem.seconds, rate)
    assert told.peak == pytest.approx(stem.peak, abs=1e-3)
    assert told.loudness == pytest.approx(stem.loudness, abs=1e-3)


def test_what_is_streamed_too_loud_is_turned_down_and_told(tiny_model: StageModel, tmp_path: Path) -> None:
    request = planned(tmp_path, NO_FILES.context)
    pipe = Pipe([])
    result = write_stems(tiny_model, request, AccompanySettings(GenerationConfig(seed=1)), stream=Stream(pipe))
    (stem,) = result.stems
    assert stem.path is not None
    assert stem.turned_down > 0
    down = stem.turned_down
    note = f"What was streamed was turned down on the way, by {down:.1f} dB in the end, to avoid clipping."
    assert result.notes == (note,)
    loud = soundfile.read(stem.path, always_2d=True)[0] * 10 ** (down / 20)
    heard = np.abs(loud) > 0.1
    gains = pipe.audio[heard] / loud[heard]
    assert gains.max() < 1 + 0.01
    assert 20 * np.log10(gains[-1]) == pytest.approx(-down, abs=0.05)
    assert (np.abs(pipe.audio) >= 1 - STEP).mean() < 0.02
    (alone,) = write_stems(
        tiny_model, NO_FILES, AccompanySettings(GenerationConfig(seed=1)), stream=Stream(Pipe([]))
    ).stems
    assert alone.peak == 0


def test_a_growing_file_is_heard_half_way(
    quiet_model: StageModel, write_music: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = planned(tmp_path / "out", FileContext(write_music(seconds=3.0)), growing=True, mix=True)
    assert [path.name for path in request.growing_paths] == ["mix.drums.wav.part", "mix.drums.mix.wav.part"]
    heard: list[list[np.ndarray]] = []

    def listen(phase: str, done: float, total: float) -> None:
        if phase == "generate" and done > total / 2 and not heard:
            assert not any(path.exists() for path in (*request.stem_paths, *request.mix_paths))
            heard.append([soundfile.read(path, always_2d=True)[0] for path in request.growing_paths])

    write = stem_files.write_scaled

    def whole(*arguments: object) -> None:
        heard.append([soundfile.read(path, always_2d=True)[0] for path in request.growing_paths])
        write(*arguments)  # ty: ignore[invalid-argument-type]

    monkeypatch.setattr(stem_files, "write_scaled", whole)
    write_stems(quiet_model, request, AccompanySettings(GenerationConfig(seed=2)), listen)
    half, full = heard[0], heard[-1]
    for part, all_of_it, path in zip(half, full, (*request.stem_paths, *request.mix_paths), strict=True):
        final = soundfile.read(path, always_2d=True)[0]
        assert len(final) / 2 - (2 * LIVE_SECONDS) * 44100 <= len(part) <= len(final) / 2
        assert len(all_of_it) == len(final)
        np.testing.assert_allclose(part, final[: len(part)], rtol=0, atol=0.51 * STEP)
        np.testing.assert_allclose(all_of_it, final, rtol=0, atol=0.51 * STEP)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["mix.drums.mix.wav", "mix.drums.wav"]


def test_a_listener_that_goes_away(tiny_model: StageModel, tmp_path: Path) -> None:
    class Closed(io.BytesIO):
        def write(self, data: bytes) -> int:  # ty: ignore[invalid-method-override]
            if len(self.getvalue()) > 3000:
                raise BrokenPipeError
            return super().write(data)

    threads = torch.get_num_threads()
    with pytest.raises(BrokenPipeError):
        write_stems(
            tiny_model, planned(tmp_path, NO_FILES.context, mix=True), AccompanySettings(), stream=Stream(Closed())
        )
    assert list(tmp_path.iterdir()) == []
    assert torch.get_num_threads() == threads


def test_stopping_leaves_no_growing_file(tiny_model: StageModel, tmp_path: Path) -> None:
    def stop(phase: str, done: float, total: float) -> None:
        if phase == "generate" and done > total / 2:
            assert (tmp_path / "120bpm.drums.wav.part").exists()
            raise Cancelled

    with pytest.raises(Cancelled):
        write_stems(tiny_model, planned(tmp_path, NO_FILES.context, growing=True), AccompanySettings(), stop)
    assert list(tmp_path.iterdir()) == []


def test_the_files_own_decoding_does_not_see_the_pieces(
    tiny_model: StageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What reaches a file is the same to the bit, whether somebody listens or not."""
    stored: list[np.ndarray] = []
    flush = StoredTake.flush

    def keep(take: StoredTake) -> None:
        flush(take)
        stored.append(np.concatenate(list(take.blocks())))

    monkeypatch.setattr(StoredTake, "flush", keep)
    for growing in (False, True):
        request = planned(tmp_path / str(growing), MetronomeContext(95, duration=7.3), growing=growing)
        write_stems(tiny_model, request, AccompanySettings(GenerationConfig(seed=8)))
    assert np.array_equal(*stored)
