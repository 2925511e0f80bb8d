from __future__ import annotations

import io
import struct
from pathlib import Path

import mido
import numpy as np
import pretty_midi
import pytest

from stage_cli.core.music.beats import BeatGrid, constant_grid
from stage_cli.core.music.midi import (
    MidiTrack,
    midi_bytes,
    parse_midi,
    read_midi,
    split_stems,
    stem_notes,
    stem_of_program,
    write_midi,
)
from stage_cli.core.music.notes import Note, notes_to_array, separate_notes
from stage_cli.core.music.tempo import TempoMap, lay_out
from stage_cli.core.stems import STEMS
from stage_cli.errors import MidiError

HALF_A_MILLISECOND = 0.0005


def _random_notes(rng: np.random.Generator, count: int, seconds: float) -> list[Note]:
    return separate_notes(
        Note(float(onset), float(duration), int(pitch), int(velocity))
        for onset, duration, pitch, velocity in zip(
            rng.uniform(0, seconds - 2, count),
            rng.uniform(0.005, 2, count),
            rng.integers(30, 90, count),
            rng.integers(1, 128, count),
            strict=True,
        )
    )


def _drifting_grid(rng: np.random.Generator, first: float, upbeats: int, per_bar: int, seconds: float) -> BeatGrid:
    """A tempo that wanders between 40 and 210 a minute, as one that was tracked does."""
    beats = [first]
    period = 0.5
    while beats[-1] < seconds:
        period = float(np.clip(period * np.exp(rng.normal(0, 0.04)), 60 / 210, 1.5))
        beats.append(beats[-1] + period)
    return BeatGrid(tuple(beats[:-1]), tuple(beats[upbeats:-1:per_bar]))


def _rows(notes: list[Note] | tuple[Note, ...]) -> np.ndarray:
    """By pitch, then onset, so that notes that rounding puts on one tick stay comparable; columns: onset, end, …"""
    rows = notes_to_array(notes)
    rows[:, 1] += rows[:, 0]
    return rows[np.lexsort((rows[:, 0], rows[:, 2]))]


def _file(*tracks: list[mido.Message | mido.MetaMessage], ticks: int = 480, kind: int = 1) -> bytes:
    file = mido.MidiFile(type=kind, ticks_per_beat=ticks)
    file.tracks.extend(mido.MidiTrack(track) for track in tracks)
    out = io.BytesIO()
    file.save(file=out)
    return out.getvalue()


def _on(pitch: int, time: int = 0, velocity: int = 64, channel: int = 0) -> mido.Message:
    return mido.Message("note_on", note=pitch, velocity=velocity, time=time, channel=channel)


def _off(pitch: int, time: int = 0, channel: int = 0) -> mido.Message:
    return mido.Message("note_off", note=pitch, time=time, channel=channel)


GRIDS = {
    "none": None,
    "120": constant_grid(120, 4, 600),
    "odd tempo, 3/4, silence first": constant_grid(123.456, 3, 600, 1.2),
    "slow": constant_grid(20, 4, 600, 0.03),
    "fast": constant_grid(400, 7, 600, 11.0),
    "drifting, upbeats": _drifting_grid(np.random.default_rng(1), 0.37, 2, 3, 600),
    "drifting, from the start": _drifting_grid(np.random.default_rng(2), 0.0, 0, 4, 600),
    "one beat": BeatGrid((7.0,), ()),
}


@pytest.mark.parametrize("name", GRIDS)
def test_notes_keep_their_seconds_over_ten_minutes(name: str) -> None:
    """Read back by mido's own clock, by pretty_midi, and by `parse_midi`."""
    rng = np.random.default_rng(0)
    notes = _random_notes(rng, 800, 600)
    data = midi_bytes({"drums": notes, "piano": notes}, GRIDS[name], duration=600)
    truth = _rows(notes)

    song = parse_midi(data)
    for track in song.tracks:
        back = _rows(track.notes)
        np.testing.assert_array_equal(back[:, 2:], truth[:, 2:])
        assert np.abs(back[:, :2] - truth[:, :2]).max() < HALF_A_MILLISECOND
    assert song.duration == pytest.approx(600, abs=HALF_A_MILLISECOND)

    by_pretty_midi = pretty_midi.PrettyMIDI(io.BytesIO(data))
    for instrument in by_pretty_midi.instruments:
        back = _rows([Note(note.start, note.end - note.start, note.pitch, note.velocity) for note in instrument.notes])
        np.testing.assert_array_equal(back[:, 2:], truth[:, 2:])
        assert np.abs(back[:, :2] - truth[:, :2]).max() < HALF_A_MILLISECOND

    now, onsets = 0.0, []
    for message in mido.MidiFile(file=io.BytesIO(data)):
        now += message.time
        if message.type == "note_on" and message.channel == 9:
            onsets.append(now)
    assert np.abs(np.array(onsets) - np.sort(truth[:, 0])).max() < HALF_A_MILLISECOND


@pytest.mark.parametrize("name", [name for name, grid in GRIDS.items() if grid and len(grid.beats) > 1])
def test_the_grid_comes_back(name: str) -> None:
    grid = GRIDS[name]
    assert grid is not None
    back = parse_midi(midi_bytes({"bass": [Note(2.0, 1.0, 40, 80)]}, grid, duration=600)).grid
    assert back is not None
    for times, truth in ((back.beats, grid.beats), (back.downbeats, grid.downbeats)):
        assert len(times) == len(truth)
        assert np.abs(np.array(times) - np.array(truth)).max() < 0.00011


@pytest.mark.parametrize("name", [name for name, grid in GRIDS.items() if grid and len(grid.beats) > 1])
def test_pretty_midi_finds_the_beats_and_bars(name: str) -> None:
    """It also counts the bars before the first beat, and reads no further than the last note."""
    grid = GRIDS[name]
    assert grid is not None
    data = midi_bytes({"bass": [Note(599.0, 1.0, 40, 80)]}, grid, duration=600)
    reader = pretty_midi.PrettyMIDI(io.BytesIO(data))
    for times, truth in ((reader.get_beats(), grid.beats), (reader.get_downbeats(), grid.downbeats)):
        inside = np.array([time for time in truth if time < 599])
        assert len(inside) >= 50
        assert np.abs(times[:, None] - inside).min(axis=0).max() < 0.0002


def test_a_constant_tempo_is_one_tempo() -> None:
    layout = lay_out(constant_grid(120, 4, 600))
    assert layout.tempos == {0: 500_000}
    assert layout.signatures == ((0, 4, 4),)
    # 3 beats a minute more are 487804.878 microseconds: a few corrections in ten minutes.
    assert len(lay_out(constant_grid(123, 4, 600)).tempos) < 5


def test_bars() -> None:
    """0.5 s of silence and two upbeats fill a bar of three; later a bar of four."""
    beats = tuple(0.5 + 0.5 * number for number in range(16))
    layout = lay_out(BeatGrid(beats, (beats[2], beats[5], beats[8], beats[12])))
    ticks = layout.ticks_per_quarter
    assert layout.tempos == {0: 500_000}
    assert (layout.first_beat, layout.last_beat) == (ticks, 16 * ticks)
    assert layout.signatures == ((0, 3, 4), (9 * ticks, 4, 4))


def test_the_bar_before_the_first_beat() -> None:
    """A beat of 0.5 s; 0.13 s of silence are a quarter of it, a sixteenth note."""
    layout = lay_out(constant_grid(120, 4, 60, 0.13))
    assert layout.signatures == ((0, 1, 16), (layout.ticks_per_quarter // 4, 4, 4))
    assert layout.tempos[0] == 520_000
    assert layout.first_beat == layout.ticks_per_quarter // 4


@pytest.mark.parametrize("offset", [0.004, 0.01, 0.0333, 0.1, 0.31, 0.7, 1.9, 47.123])
def test_any_silence_before_the_first_beat(offset: float) -> None:
    grid = constant_grid(97, 4, 80, offset)
    layout = lay_out(grid)
    assert float(layout.tempo.to_seconds(np.array(layout.first_beat))) == pytest.approx(offset, abs=0.00011)
    back = parse_midi(midi_bytes({"bass": [Note(2.0, 1.0, 40, 80)]}, grid, duration=80)).grid
    assert back is not None
    assert np.abs(np.array(back.downbeats) - np.array(grid.downbeats)).max() < 0.00011


def test_a_gap_between_beats() -> None:
    """Half a minute without beats gets quarter notes in between, and the beats after it still lie right."""
    grid = BeatGrid((1.0, 1.5, 2.0, 2.5, 32.7, 33.2, 33.7), (1.0, 32.7))
    back = parse_midi(midi_bytes({"bass": [Note(2.0, 1.0, 40, 80)]}, grid, duration=40)).grid
    assert back is not None
    for time in grid.beats:
        assert min(abs(time - beat) for beat in back.beats) < 0.00011
    assert min(abs(32.7 - beat) for beat in back.downbeats) < 0.00011
    assert max(np.diff(back.beats)) < 1


def test_beats_that_end_before_the_song() -> None:
    grid = constant_grid(100, 4, 30)
    back = parse_midi(midi_bytes({"bass": [Note(2.0, 1.0, 40, 80)]}, grid, duration=90)).grid
    assert back is not None
    assert len(back.beats) == len(grid.beats)


def test_beats_too_near_to_each_other_do_no_harm() -> None:
    grid = BeatGrid((0.0, 0.000001, 0.5, 1.0, 1.0000001, 1.5), (0.0,))
    notes = [Note(0.7, 0.2, 40, 80), Note(3.0, 0.2, 41, 80)]
    (track,) = parse_midi(midi_bytes({"bass": notes}, grid)).tracks
    assert np.abs(_rows(track.notes) - _rows(notes)).max() < HALF_A_MILLISECOND


def test_tracks_have_names_channels_and_programs(tmp_path: Path) -> None:
    note = [Note(0.5, 0.5, 40, 80)]
    write_midi(
        tmp_path / "song.mid", {"drums": note, "bass": note, "piano": note, "guitar": note}, programs={"bass": 38}
    )
    file = mido.MidiFile(tmp_path / "song.mid")
    assert file.type == 1
    assert [track.name for track in file.tracks] == ["", "drums", "bass", "piano", "guitar"]
    song = read_midi(tmp_path / "song.mid")
    assert [(track.name, track.channel, track.program, track.stem) for track in song.tracks] == [
        ("drums", 10, 0, "drums"), ("bass", 1, 38, "bass"), ("piano", 2, 0, "piano"), ("guitar", 3, 27, "guitar"),
    ]  # fmt: skip
    assert [path.name for path in tmp_path.iterdir()] == ["song.mid"]


def test_many_stems_and_odd_names() -> None:
    note = [Note(0.5, 0.5, 40, 80)]
    song = parse_midi(midi_bytes({f"Баян {number} ♫": note for number in range(15)}))
    assert [track.name for track in song.tracks] == [f"Баян {number} ♫" for number in range(15)]
    assert [track.channel for track in song.tracks] == [*range(1, 10), *range(11, 17)]
    with pytest.raises(ValueError, match="15"):
        midi_bytes({f"stem {number}": note for number in range(16)})


def test_notes_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="note 0"):
        write_midi(tmp_path / "song.mid", {"bass": [Note(0, 1, 200, 80)]})
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("")
    with pytest.raises(MidiError, match="cannot write"):
        write_midi(tmp_path / "file" / "song.mid", {"bass": [Note(0, 1, 40, 80)]})


def test_notes_shorter_than_a_tick_and_on_one_tick() -> None:
    notes = [Note(1.0, 0.0, 40, 80), Note(1.00001, 0.5, 40, 70), Note(1.00002, 0.5, 41, 60)]
    (track,) = parse_midi(midi_bytes({"bass": notes})).tracks
    assert [(note.pitch, note.velocity) for note in track.notes] == [(40, 80), (41, 60), (40, 70)]
    assert all(abs(note.onset - 1.0) < 0.0011 for note in track.notes)


def test_a_file_of_type_0_with_running_status() -> None:
    """Written by hand: status 0x90 once, note-offs as velocity 0, a tempo in the middle."""
    track = bytes.fromhex(
        "00 ff 58 04 03 02 18 08"  # 3/4
        "00 90 3c 40"  # C4 on
        "60 3c 00"  # off after 96 ticks, 1 quarter
        "00 3e 50"  # D4 on
        "00 ff 51 03 0f 42 40"  # 1 s a quarter note
        "60 90 3e 00"
        "00 ff 2f 00"
    )
    data = b"MThd" + struct.pack(">LHHH", 6, 0, 1, 96) + b"MTrk" + struct.pack(">L", len(track)) + track
    song = parse_midi(data)
    assert song.tracks[0].notes == (Note(0.0, 0.5, 60, 64), Note(0.5, 1.0, 62, 80))
    assert [(time.numerator, time.denominator) for time in song.time_signatures] == [(3, 4)]
    assert song.tempo_given
    assert song.grid == BeatGrid((0.0, 0.5), (0.0,))
    assert parse_midi(b"RIFF" + struct.pack("<L", len(data) + 12) + b"RMIDdata" + struct.pack("<L", len(data)) + data)


def test_compound_time_counts_dotted_quarters() -> None:
    grid = parse_midi(_file(
        [mido.MetaMessage("time_signature", numerator=6, denominator=8),
         mido.MetaMessage("time_signature", numerator=7, denominator=8, time=1440 * 2), _on(60), _off(60, 7 * 240)]
    )).grid  # fmt: skip
    assert grid is not None
    assert np.diff(grid.beats)[:4] == pytest.approx([0.75] * 4)
    assert np.diff(grid.beats)[4:] == pytest.approx([0.25] * 6)
    assert grid.downbeats == pytest.approx((0.0, 1.5, 3.0))


def test_a_note_struck_again_and_one_never_switched_off() -> None:
    data = _file(
        [_on(60), _on(60, 480), _off(60, 480), _on(62, 0), _off(64, 100), mido.MetaMessage("end_of_track", time=380)]
    )
    (track,) = parse_midi(data).tracks
    assert track.notes == (Note(0.0, 0.5, 60, 64), Note(0.5, 0.5, 60, 64), Note(1.0, 0.5, 62, 64))


def test_overlapping_notes_with_ends_of_their_own() -> None:
    (track,) = parse_midi(_file([_on(60), _on(60, 240), _off(60, 240), _off(60, 480)])).tracks
    assert track.notes == (Note(0.0, 0.25, 60, 64), Note(0.25, 0.75, 60, 64))


def test_the_pedal_holds_notes() -> None:
    down, up = (mido.Message("control_change", control=64, value=value) for value in (127, 0))
    data = _file([down, _on(60), _off(60, 240), _on(62), up.copy(time=480), _off(62, 240), _on(60), _off(60, 10)])
    (track,) = parse_midi(data).tracks
    assert [(note.pitch, note.onset, round(note.end, 3)) for note in track.notes] == [
        (60, 0.0, 0.75), (62, 0.25, 1.0), (60, 1.0, 1.01)
    ]  # fmt: skip


def test_film_time_has_seconds_but_no_beats() -> None:
    """25 frames a second of 40 ticks: a tick is a millisecond, whatever the tempo says."""
    data = bytearray(_file([mido.MetaMessage("set_tempo", tempo=999_999), _on(60, 1500), _off(60, 250)]))
    data[12:14] = struct.pack(">bB", -25, 40)
    song = parse_midi(bytes(data))
    assert song.tracks[0].notes[0][:2] == pytest.approx((1.5, 0.25))
    assert song.grid is None
    assert not song.tempo_given


def test_tempo_map() -> None:
    tempo = TempoMap.of({0: 500_000, 960: 250_000}, 480)
    assert tempo.to_seconds(np.array([0, 480, 960, 1440.0])).tolist() == [0.0, 0.5, 1.0, 1.25]
    assert tempo.to_ticks(np.array([0.0, 0.5, 1.0, 1.25, 1.2501])).tolist() == [0, 480, 960, 1440, 1440]


def test_stems_by_channel_program_and_name() -> None:
    assert [stem_of_program(program) for program in (0, 4, 19, 24, 31, 32, 39, 40, 46, 52, 56, 81, 105, 115, 127)] == [
        "piano", "other_keys", "other_keys", "guitar", "guitar", "bass", "bass", "bowed_strings", "other_plucked",
        "vocals", "wind", "other_keys", "other_plucked", "percussion", "other",
    ]  # fmt: skip
    assert {stem_of_program(program) for program in range(128)} <= set(STEMS)
    note = (Note(0, 1, 40, 80),)
    assert MidiTrack("Slap Bass 2", 3, None, note).stem == "bass"
    assert MidiTrack("Slap Bass 2", 3, 0, note).stem == "piano"
    assert MidiTrack("Bass", 10, 33, note).stem == "drums"
    assert MidiTrack("track 7", 3, None, note).stem == "piano"


def test_splitting_a_song() -> None:
    program = mido.Message("program_change", program=34)
    song = parse_midi(_file(
        [_on(36, channel=9), _off(36, 480, channel=9)],
        [program, _on(30), _off(30, 480)],
        [program.copy(channel=1, program=36), _on(31, 960, channel=1), _off(31, 480, channel=1)],
    ))  # fmt: skip
    assert {stem: [note.pitch for note in notes] for stem, notes in split_stems(song).items()} == {
        "drums": [36],
        "bass": [30, 31],
    }
    assert [note.pitch for note in stem_notes(song, "bass")] == [30, 31]
    with pytest.raises(MidiError, match=r"has no guitar.*drums, bass"):
        stem_notes(song, "guitar")


def test_the_only_track_is_the_stem() -> None:
    song = parse_midi(_file([_on(36), _off(36, 480)]))
    assert [note.pitch for note in stem_notes(song, "drums")] == [36]


GOOD = midi_bytes({"drums": [Note(0.5 * number, 0.1, 36, 80) for number in range(40)]}, constant_grid(120, 4, 20))


def _without_ticks() -> bytes:
    data = bytearray(GOOD)
    data[12:14] = bytes(2)
    return bytes(data)


@pytest.mark.parametrize(("data", "what"), [
    (b"", "is empty"),
    (b"[Verse 1]\nHello\n", "is no MIDI file"),
    (np.random.default_rng(0).bytes(4096), "is no MIDI file"),
    (b"MThd", "is cut off"),
    (GOOD[:100], "is cut off"),
    (GOOD[:-1], "is cut off"),
    (GOOD[:22] + np.random.default_rng(1).bytes(500), "is broken|is cut off"),
    (_without_ticks(), "0 ticks"),
    (_file([mido.MetaMessage("set_tempo", tempo=400_000)]), "holds no notes"),
    (_file(), "holds no notes"),
    (_file([_off(60), _on(60, velocity=0)]), "holds no notes"),
    (_file([_on(60), _off(60)], [_on(60), _off(60)], kind=2), "of type 2"),
    (_file([mido.MetaMessage("set_tempo", tempo=2**24 - 1), _on(60, 2**27), _off(60)], ticks=1), "up to 24"),
    (_file([mido.MetaMessage("set_tempo", tempo=1), _on(60, 2**27), _off(60)], ticks=1), "million beats"),
])  # fmt: skip
def test_bad_files(tmp_path: Path, data: bytes, what: str) -> None:
    path = tmp_path / "bad.mid"
    path.write_bytes(data)
    with pytest.raises(MidiError, match=what) as raised:
        read_midi(path)
    assert "bad.mid" in str(raised.value)
    assert "--" not in str(raised.value)


def test_files_that_are_not_there(tmp_path: Path) -> None:
    for path in (tmp_path / "none.mid", tmp_path):
        with pytest.raises(MidiError, match="cannot read"):
            read_midi(path)


def test_a_file_that_is_too_large(tmp_path: Path) -> None:
    path = tmp_path / "large.mid"
    with path.open("wb") as file:
        file.truncate(2**26)
    with pytest.raises(MidiError, match="64 MiB"):
        read_midi(path)


def test_damaged_files_never_end_in_a_traceback() -> None:
    """A thousand files with some bytes changed: each is read, or told to be bad."""
    rng = np.random.default_rng(5)
    good = np.frombuffer(
        _file(
            [mido.MetaMessage("set_tempo", tempo=400_000), mido.MetaMessage("key_signature", key="Bb"),
             mido.MetaMessage("time_signature", numerator=3), mido.MetaMessage("track_name", name="Bass"),
             mido.MetaMessage("smpte_offset"), mido.Message("sysex", data=(1, 2, 3)),
             mido.MetaMessage("marker", text="x")],
            [mido.Message("program_change", program=34), _on(60, 5), _on(64, 5), _off(60, 200), _off(64, 9),
             mido.Message("pitchwheel", pitch=100), mido.Message("control_change", control=64, value=127)],
        ), np.uint8
    )  # fmt: skip
    outcomes = {"read": 0, "bad": 0}
    for _ in range(1000):
        data = good.copy()
        at = rng.integers(4, len(data), rng.integers(1, 4))
        data[at] = rng.integers(0, 256, len(at))
        try:
            song = parse_midi(data.tobytes())
        except MidiError:
            outcomes["bad"] += 1
        else:
            outcomes["read"] += 1
            assert all(note.onset >= 0 and note.duration >= 0 for track in song.tracks for note in track.notes)
    assert min(outcomes.values()) > 50
