"""A player on the path from a context to a stem: the same audio everywhere, and notes on the beats."""

from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import mido
import numpy as np
import pytest
import soundfile

from stage_cli.core.accompany import AccompanySettings, accompany, generate_blocks, generation_for, read_context
from stage_cli.core.contexts import ArrayContext, FileContext, MetronomeContext
from stage_cli.core.generation.config import GenerationConfig
from stage_cli.core.music.beats import BeatGrid, constant_grid
from stage_cli.core.music.notes import Note
from stage_cli.core.players.accompanist import ALONE, BALANCE, StagePlayer, usual_loudness
from stage_cli.core.stem_files import StemRequest, plan_requests, write_stems
from stage_cli.errors import UsageError, WeightsError

Write = Callable[..., Path]
KIT = "electronic"  # the smallest: the tests' time is its decoding


@pytest.fixture(scope="module")
def player(tiny_player_dir: Path) -> StagePlayer:
    return StagePlayer.from_pretrained(str(tiny_player_dir), kit=KIT)


class _Recited:
    """Writes notes that are known before."""

    def __init__(self, player: Any, notes: list[Note]) -> None:
        self._player, self._notes = player, notes

    def __getattr__(self, name: str) -> Any:
        return getattr(self._player, name)

    def notes(self, *_: object, **__: object) -> list[Note]:
        return self._notes


def _reciting(player: StagePlayer, notes: list[Note]) -> StagePlayer:
    return StagePlayer(_Recited(player.player, notes), player.instrument)  # ty: ignore[invalid-argument-type]


@pytest.mark.parametrize(("rate", "channels"), [(44_100, 2), (48_000, 1), (22_050, 2), (96_000, 1), (192_000, 1)])
def test_rate_and_length_are_the_contexts(player: StagePlayer, write_music: Write, rate: int, channels: int) -> None:
    context = write_music(seconds=2.137, sample_rate=rate, channels=channels)
    stem = player.accompany(context, seed=1)
    assert (stem.audio.shape, stem.sample_rate) == ((2, round(2.137 * rate)), rate)
    assert stem.audio.dtype == np.float32
    assert np.abs(stem.audio).max() > 0.01
    assert stem.notes


def test_live_blocks_are_the_stem_to_the_last_bit(player: StagePlayer, write_music: Write) -> None:
    context = FileContext(write_music(seconds=4.0))
    settings = AccompanySettings(GenerationConfig(seed=3, temperature=1.0, variations=2))
    takes: dict[tuple[int, bool], list[np.ndarray]] = {}
    for block in generate_blocks(player, read_context(player, context, settings), settings, live=True):
        assert not (block.live and block.notes)
        if block.audio.shape[1]:
            takes.setdefault((block.take, block.live), []).append(block.audio)
    for take in (0, 1):
        live, final = (np.concatenate(takes[take, kind], axis=1) for kind in (True, False))
        assert np.array_equal(live, final)
        assert len(takes[take, True]) > 4
    (alone,) = accompany(player, context, replace(settings, generation=GenerationConfig(seed=4)))
    np.testing.assert_allclose(alone.audio * 10 ** (alone.turned_down / 20), final, atol=1e-6)


def test_notes_alone_are_those_of_the_stem(player: StagePlayer, write_music: Write) -> None:
    context = FileContext(write_music(seconds=3.0))
    settings = AccompanySettings(generation_for(player, context, {}, seed=5))
    (stem,) = accompany(player, context, settings)
    reading = read_context(player, context, settings)
    blocks = list(generate_blocks(player, reading, settings, final=False))
    assert not any(block.audio.shape[1] for block in blocks)
    assert tuple(note for block in blocks for note in block.notes) == stem.notes
    assert list(stem.notes) == sorted(stem.notes)


def test_a_seed_fixes_the_stem(player: StagePlayer, write_music: Write) -> None:
    context = write_music(seconds=3.0)
    first, again, other = (player.accompany(context, seed=seed) for seed in (7, 7, 8))
    assert np.array_equal(first.audio, again.audio)
    assert first.notes == again.notes
    assert first.notes != other.notes
    takes = player.accompany(context, seed=7, variations=2)
    assert [take.notes for take in takes] == [first.notes, other.notes]
    assert np.array_equal(takes[1].audio, other.audio)


def test_the_kit_changes_the_sound_and_no_note(player: StagePlayer, write_music: Write) -> None:
    context = write_music(seconds=2.0)
    stems = [player.accompany(context, seed=1, kit=kit) for kit in (KIT, "808")]
    assert stems[0].notes == stems[1].notes
    assert not np.array_equal(stems[0].audio, stems[1].audio)


def test_start_and_duration_cut_the_context(player: StagePlayer, write_music: Write) -> None:
    context = write_music(seconds=4.0)
    samples, rate = soundfile.read(context, dtype="float32")
    part = player.accompany(context, start=1.0, duration=2.0, seed=2)
    cut = player.accompany(samples[rate : 3 * rate].T, sample_rate=rate, seed=2)
    assert np.array_equal(part.audio, cut.audio)
    assert part.notes == cut.notes


def test_the_grid_of_a_metronome_is_exact(player: StagePlayer) -> None:
    stem = player.accompany(bpm=97, beats_per_bar=3, offset=0.25, duration=8.0, seed=0)
    assert stem.grid == constant_grid(97, 3, 8.0, 0.25)
    assert stem.beats is not None
    assert (stem.beats.bpm, stem.beats.beats_per_bar, stem.beats.confidence) == (pytest.approx(97), 3, 1.0)
    assert stem.remarks == ()


def test_a_given_grid_goes_before_the_heard_one(player: StagePlayer, write_music: Write) -> None:
    grid = BeatGrid((0.2, 0.9, 1.6, 2.3, 3.0), (0.2, 1.6, 3.0))
    stem = player.accompany(write_music(seconds=3.5), grid=grid, seed=0)
    assert stem.grid == grid
    assert not any("Beats" in remark for remark in stem.remarks)


def test_midi_has_the_songs_beats_and_the_notes_times(player: StagePlayer) -> None:
    stem = player.accompany(bpm=97, beats_per_bar=3, offset=0.25, duration=8.0, seed=0)
    file = mido.MidiFile(file=io.BytesIO(stem.midi()))
    seconds, heard = 0.0, []
    for message in file:
        seconds += message.time
        if message.type == "note_on" and message.velocity:
            heard.append((seconds, message.note, message.velocity))
    assert 8.0 <= file.length < 8.2, "a stroke at the end has a length"
    assert len(heard) == len({(note.onset, note.pitch) for note in stem.notes})
    for (onset, pitch, velocity), note in zip(sorted(heard), sorted(stem.notes), strict=True):
        assert onset == pytest.approx(note.onset, abs=0.001)
        assert (pitch, velocity) == (note.pitch, note.velocity)
    # From the marker on, the song's beats are the file's quarter notes, its bars the file's bars.
    ticks, at, tempo, marked, times = 0, 0.0, 500_000, None, {}
    for message in file.tracks[0]:
        for tick in range(ticks, ticks + message.time):
            times[tick] = at
            at += tempo / 1e6 / file.ticks_per_beat
        ticks += message.time
        if message.type == "set_tempo":
            tempo = message.tempo
        elif message.type == "marker" and message.text == "first beat":
            marked = ticks
        elif message.type == "time_signature":
            bar = (ticks, message.numerator, message.denominator)
    assert stem.grid is not None
    assert marked is not None
    assert bar == (marked, 3, 4)
    beats = [times[marked + number * file.ticks_per_beat] for number in range(len(stem.grid.beats))]
    assert beats == pytest.approx(stem.grid.beats, abs=0.001)


def test_a_hit_sounds_where_its_note_is(player: StagePlayer, write_music: Write) -> None:
    onsets = [0.5, 1.123, 1.9]
    notes = [Note(onset, 0.1, 36, 110) for onset in onsets]
    stem = _reciting(player, notes).accompany(write_music(seconds=2.5), seed=0)
    loud = np.abs(stem.audio).max(axis=0)
    first = float(np.flatnonzero(loud > 0.01 * loud.max())[0]) / stem.sample_rate
    assert first == pytest.approx(0.5, abs=0.004)
    assert loud[: round(0.499 * stem.sample_rate)].max() < 1e-6, "silence, as far as a room's transform can count"
    assert stem.notes == tuple(notes)


@pytest.mark.parametrize("gain", [0.0, -6.0])
def test_it_is_as_loud_as_usual_beside_the_context(player: StagePlayer, gain: float) -> None:
    """A plain groove for noise of known loudness, which is twice as loud from two speakers."""
    from stage_cli.core.audio.loudness import LoudnessMeter
    from stage_cli.core.players import accompanist

    rate, seconds = 44_100, accompanist._GROOVE_SECONDS
    noise = np.random.default_rng(0).normal(size=round(seconds * rate)).astype(np.float32) * np.float32(0.02)
    meter = LoudnessMeter(rate, 2)
    meter.push(np.stack([noise, noise], axis=1))
    stem = _reciting(player, list(accompanist._GROOVE)).accompany(noise, sample_rate=rate, seed=0, gain=gain)
    assert stem.loudness + stem.turned_down == pytest.approx(meter.integrated + BALANCE["drums"] + gain, abs=0.3)
    assert np.isfinite(usual_loudness(player.instrument, rate))


@pytest.mark.parametrize("kind", ["silence", "metronome"])
def test_alone_it_has_a_fixed_loudness(player: StagePlayer, kind: str) -> None:
    from stage_cli.core.players import accompanist

    alone = _reciting(player, list(accompanist._GROOVE))
    context = {"bpm": 100, "duration": 2.4} if kind == "metronome" else {}
    silence = np.zeros(round(2.4 * 44_100), dtype=np.float32)
    stem = alone.accompany(**context) if context else alone.accompany(silence, sample_rate=44_100)  # ty: ignore
    assert stem.loudness + stem.turned_down == pytest.approx(ALONE, abs=0.3)


def test_silence_is_told(player: StagePlayer) -> None:
    stem = player.accompany(np.zeros(3 * 44_100, dtype=np.float32), sample_rate=44_100, seed=0)
    assert stem.audio.shape == (2, 3 * 44_100)
    assert [remark for remark in stem.remarks if "silent" in remark]
    assert not [remark for remark in stem.remarks if "bpm" in remark]


def test_a_context_shorter_than_a_beat(player: StagePlayer) -> None:
    stem = player.accompany(np.full(500, 0.1, dtype=np.float32), sample_rate=44_100, seed=0)
    assert stem.audio.shape == (2, 500)
    assert stem.midi()[:4] == b"MThd"


def test_what_does_not_go_with_a_player_is_refused(
    player: StagePlayer, tiny_player_dir: Path, tiny_model_dir: Path, write_music: Write, tmp_path: Path
) -> None:
    context = FileContext(write_music(seconds=1.0))
    with pytest.raises(UsageError, match="`top_k` does not apply to this model"):
        generation_for(player, context, {"top_k": 5})
    with pytest.raises(UsageError, match="no `description`"):
        read_context(player, context, AccompanySettings(description="loud"))
    beginning = ArrayContext(np.zeros(4000, dtype=np.float32), 44_100)
    with pytest.raises(UsageError, match="no `continuation`"):
        accompany(player, context, AccompanySettings(continuation=beginning))
    for gain in (41.0, float("nan")):
        with pytest.raises(UsageError, match="`gain` cannot be"):
            player.with_sound(gain=gain)
    with pytest.raises(UsageError, match="kit"):
        player.with_sound(kit="bongo-bongo")
    with pytest.raises(UsageError, match="is no player"):
        StagePlayer.from_pretrained(str(tiny_model_dir))
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "config.json").write_bytes((tiny_player_dir / "config.json").read_bytes())
    (broken / "model.safetensors").write_bytes(b"none")
    with pytest.raises(WeightsError, match="cannot be used as a player"):
        StagePlayer.from_pretrained(str(broken))


def test_files_are_the_stem_and_its_notes(player: StagePlayer, write_music: Write, tmp_path: Path) -> None:
    context = FileContext(write_music(seconds=3.0))
    settings = AccompanySettings(generation_for(player, context, {}, seed=4))
    template = StemRequest(MetronomeContext(120), "drums", ())
    (request,) = plan_requests([context], template, output=tmp_path / "out", variations=1, mix=False, midi=True)
    (written,) = write_stems(player, request, settings).stems
    (stem,) = accompany(player, context, settings)
    samples, _ = soundfile.read(tmp_path / "out" / "mix.drums.wav", dtype="float32")
    np.testing.assert_allclose(samples.T, stem.audio, rtol=0, atol=2**-23)
    assert written.midi_path == tmp_path / "out" / "mix.drums.mid"
    assert written.midi_path.read_bytes() == stem.midi()
    assert stem.beats is not None
    assert (written.note_count, written.bpm) == (len(stem.notes), stem.beats.bpm)
    assert (written.beats, written.beat_confidence) == (len(stem.beats.grid.beats), stem.beats.confidence)


def test_no_torch_is_imported(tiny_player_dir: Path, write_music: Write) -> None:
    context = write_music(seconds=1.0)
    code = f"""
import sys
from stage_cli import StagePlayer
stem = StagePlayer.from_pretrained({str(tiny_player_dir)!r}, kit={KIT!r}).accompany({str(context)!r}, seed=1)
stem.midi()
print(*({{"torch", "librosa", "transformers", "matplotlib"}} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
