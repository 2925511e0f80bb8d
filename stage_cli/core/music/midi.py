"""MIDI files: notes in, notes out, and the beats of the song with them.

    song = read_midi("song.mid")
    song.grid                                  # BeatGrid: the file's beats and bars, in seconds
    stem_notes(song, "bass")                   # the bass's notes, found by channel and program
    write_midi("out.mid", {"drums": notes}, grid, duration=180.0)

A file that is written has the song's beats on its quarter notes and the song's downbeats on its bar lines, so a DAW's
grid fits the recording; notes keep their time in seconds to less than half a millisecond. Ticks, beats and seconds
are never mixed: ticks stay inside this file and `core/music/tempo.py`, everything else counts in seconds.

Source: The Complete MIDI 1.0 Detailed Specification (MMA, 1996), Standard MIDI Files 1.0 and General MIDI level 1.
"""

from __future__ import annotations

import io
import math
import struct
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from stage_cli.core.files import display_name, write_whole
from stage_cli.core.music.beats import LONGEST_DURATION, BeatGrid
from stage_cli.core.music.notes import Note, check_notes, separate_notes
from stage_cli.core.music.tempo import DEFAULT_TEMPO, TempoMap, lay_out
from stage_cli.core.stems import parse_stem
from stage_cli.errors import MidiError, StageError, UsageError

if TYPE_CHECKING:
    import mido

LARGEST_FILE = 32 * 2**20
"""Bytes. An hour of an orchestra takes less than two million."""
MOST_BEATS = 1_000_000

DRUM_CHANNEL = 10
"""Of 1 to 16, as General MIDI counts them."""
_PEDAL = 64
_PEDAL_DOWN = 64

_FIRST_BEAT = "first beat"
_FIRST_DOWNBEAT = "first downbeat"
_LAST_BEAT = "last beat"
"""Markers that keep what the grid says apart from bars that only fill the time before and after."""


class TimeSignature(NamedTuple):
    """A time signature and when it begins to hold."""

    onset: float
    """Seconds."""
    numerator: int
    denominator: int


@dataclass(frozen=True)
class MidiTrack:
    """What one track of a file plays on one channel with one program (General MIDI's instruments)."""

    name: str
    """May be empty."""
    channel: int
    """1 to 16; 10 is the drum kit."""
    program: int | None
    """0 to 127 (0 is a grand piano, which General MIDI also means where a file says nothing: None)."""
    notes: tuple[Note, ...]
    """In the order in which they sound; at least one."""

    @property
    def stem(self) -> str:
        """The stem, one of `core.stems.STEMS`, by channel, then program, then name. See `stem_of_program`.

        The name decides only where the file gives no program; an unknown name there means a piano, as in General
        MIDI.
        """
        if self.channel == DRUM_CHANNEL:
            return "drums"
        if self.program is not None:
            return stem_of_program(self.program)
        for text in (self.name, *self.name.split()):
            try:
                return parse_stem(text)
            except UsageError:
                continue
        return "piano"


@dataclass(frozen=True)
class MidiSong:
    """What a MIDI file says. All times are seconds from its start."""

    tracks: tuple[MidiTrack, ...]
    """Tracks without notes are left out."""
    tempo: TempoMap
    tempo_given: bool
    """False where the file has no tempo, so that 120 quarter notes a minute are only MIDI's default."""
    time_signatures: tuple[TimeSignature, ...]
    """Those that the file gives; without any, music is in 4/4."""
    grid: BeatGrid | None
    """Beats and downbeats; None where the file has none (SMPTE time). A beat is the time signature's unit, in 6/8,
    9/8 and 12/8 three of them."""
    duration: float
    """Seconds, to the last event of any track."""


def stem_of_program(program: int) -> str:
    """Return the stem, one of `core.stems.STEMS`, whose instrument a General MIDI program (0 to 127) is."""
    return next(stem for first, stem in reversed(_FIRST_PROGRAMS) if program >= first)


# The first program of each run: electric pianos and harpsichords are other_keys, as in MoisesDB's taxonomy.
_FIRST_PROGRAMS: tuple[tuple[int, str], ...] = (
    (0, "piano"), (4, "other_keys"), (8, "other"), (16, "other_keys"), (22, "wind"), (23, "other_keys"),
    (24, "guitar"), (32, "bass"), (40, "bowed_strings"), (46, "other_plucked"), (47, "percussion"),
    (48, "bowed_strings"), (52, "vocals"), (55, "other"), (56, "wind"), (80, "other_keys"), (96, "other"),
    (104, "other_plucked"), (109, "wind"), (110, "bowed_strings"), (111, "wind"), (112, "percussion"),
    (120, "other"),
)  # fmt: skip

# Fingered bass, grand piano, clean guitar, electric piano, choir, banjo, string ensemble, flute.
_PROGRAM_OF: dict[str, int] = {
    "bass": 33, "piano": 0, "guitar": 27, "other_keys": 4, "vocals": 52, "other_plucked": 105, "bowed_strings": 48,
    "wind": 73,
}  # fmt: skip
_ON_DRUM_CHANNEL = ("drums", "percussion")


def split_stems(song: MidiSong) -> dict[str, list[Note]]:
    """Return the notes of each stem that a song has, in order: `{"drums": [...], "bass": [...]}`.

    Tracks of one stem are put together; notes of one pitch that overlap by that are cut (`separate_notes`).
    """
    found: dict[str, list[Note]] = defaultdict(list)
    for track in song.tracks:
        found[track.stem].extend(track.notes)
    return {stem: separate_notes(notes) for stem, notes in found.items()}


def stem_notes(song: MidiSong, stem: str) -> list[Note]:
    """Return the notes of one stem, one of `core.stems.STEMS`.

    A file with a single track is taken to be the stem whatever its channel and program say: drum patterns are often
    on channel 1.

    Raises:
        MidiError: the song has several tracks, and none is this stem.
    """
    stems = split_stems(song)
    if stem in stems:
        return stems[stem]
    if len(song.tracks) == 1:
        return list(song.tracks[0].notes)
    raise MidiError(
        f"the MIDI file has no {stem}",
        why=f"its tracks are: {', '.join(stems)}",
        next_step=f"give a file whose only track is the {stem}, or set the track's channel (drums: 10) or program",
    )


def read_midi(path: str | Path) -> MidiSong:
    """Read a MIDI file of type 0 or 1; see `parse_midi`.

    Raises:
        MidiError: the file cannot be read, or is no MIDI file, or is broken.
    """
    path = Path(path)
    try:
        size = path.stat().st_size
        data = path.read_bytes() if size <= LARGEST_FILE else b""
    except OSError as error:
        raise MidiError(f"cannot read {display_name(path)}", why=error.strerror or str(error)) from None
    if size > LARGEST_FILE:
        raise MidiError(f"cannot read {display_name(path)}", why=f"at {size / 2**20:.0f} MiB it is no song")
    return parse_midi(data, name=display_name(path))


def parse_midi(data: bytes, *, name: str = "the MIDI data") -> MidiSong:
    """Return what the bytes of a MIDI file of type 0 or 1 say.

    What is not right but clear is put right: of two overlapping notes of one pitch the first ends where the second
    begins; a note that is never switched off lasts as long as its track; a note that the sustain pedal holds lasts
    until the pedal is released. Pitch bends, effects and program changes while a note sounds leave notes as they are.

    Args:
        data: the file's bytes.
        name: how errors call it.

    Raises:
        MidiError: it is no MIDI file, is cut off or broken, has 0 ticks a quarter note, lasts longer than a day, or
            holds no notes.
    """
    file = _parsed(data, name)
    events = sorted(_events(file), key=lambda event: event[0])
    tempo, tempo_given = _tempo_map(file, events)
    last = max((tick for tick, _, _ in events), default=0)
    duration = float(tempo.to_seconds(np.array(last)))
    if duration > LONGEST_DURATION:
        raise MidiError(f"cannot read {name}", why=f"it lasts {duration / 3600:.0f} hours; allowed: up to 24")
    tracks = _tracks(file, events, tempo)
    if not tracks:
        raise MidiError(f"{name} holds no notes", next_step="give a MIDI file with notes")
    signatures = _signatures(events)
    return MidiSong(
        tracks=tracks,
        tempo=tempo,
        tempo_given=tempo_given,
        time_signatures=tuple(TimeSignature(float(tempo.to_seconds(np.array(t))), n, d) for t, n, d in signatures),
        grid=_grid(events, signatures, tempo, last, name),
        duration=duration,
    )


def _parsed(data: bytes, name: str) -> mido.MidiFile:
    """Let mido read the bytes, and turn what it makes of bad ones into a MidiError."""
    import mido

    if data[:4] == b"RIFF" and data[8:12] == b"RMID":
        data = data[20:]
    if not data:
        raise MidiError(f"{name} is empty", next_step="give a MIDI file (.mid)")
    if data[:4] != b"MThd":
        raise MidiError(f"{name} is no MIDI file", why="it does not begin with MThd", next_step="give a .mid file")
    try:
        file = mido.MidiFile(file=io.BytesIO(data), clip=True)
    except EOFError:
        raise MidiError(
            f"{name} is cut off", why="it ends in the middle of a track", next_step="export or copy it again"
        ) from None
    except (OSError, ValueError, TypeError, LookupError, AttributeError, struct.error, mido.KeySignatureError) as error:
        raise MidiError(f"{name} is broken", why=str(error), next_step="export it again") from None
    if file.ticks_per_beat == 0 or (file.ticks_per_beat < 0 and file.ticks_per_beat & 0xFF == 0):
        raise MidiError(f"{name} is broken", why="it has 0 ticks a quarter note", next_step="export it again")
    if file.type != 0 and file.type != 1 and len(file.tracks) != 1:
        raise MidiError(
            f"cannot read {name}",
            why=f"it is of type {file.type}, whose tracks are pieces of their own",
            next_step="export it as type 1 (or 0)",
        )
    return file


def _events(file: mido.MidiFile) -> Iterable[tuple[int, int, mido.Message | mido.MetaMessage]]:
    """Yield (tick, number of the track, message) of all tracks, one track after the other."""
    for number, track in enumerate(file.tracks):
        tick = 0
        for message in track:
            tick += message.time
            yield tick, number, message


def _tempo_map(file: mido.MidiFile, events: list) -> tuple[TempoMap, bool]:
    """Return the tempo map, and whether the file gives a tempo at all."""
    division = file.ticks_per_beat
    if division < 0:
        rate = -(division >> 8)
        per_second = (30_000 / 1001 if rate == 29 else rate) * (division & 0xFF)
        return TempoMap(np.zeros(1, np.int64), np.zeros(1), np.array([1 / per_second]), None), False
    # A tempo of 0 microseconds would stop time. Of several at one tick the last one counts.
    given = {tick: message.tempo for tick, _, message in events if message.type == "set_tempo" and message.tempo > 0}
    return TempoMap.of({0: DEFAULT_TEMPO} | given, division), bool(given)


def _tracks(file: mido.MidiFile, events: list, tempo: TempoMap) -> tuple[MidiTrack, ...]:
    """Pair the events that switch notes on and off; one track for each track, channel and program of the file."""
    programs: dict[int, int] = {}
    pedals: dict[int, list[tuple[int, bool]]] = defaultdict(list)
    ons: dict[tuple[int, int, int], list[tuple[int, int, int, int | None]]] = defaultdict(list)
    offs: dict[tuple[int, int, int], list[tuple[int, int]]] = defaultdict(list)
    last: dict[int, int] = {}
    for order, (tick, number, message) in enumerate(events):
        last[number] = tick
        kind = message.type
        if kind == "note_on" and message.velocity > 0:
            key = (number, message.channel, message.note)
            ons[key].append((order, tick, message.velocity, programs.get(message.channel)))
        elif kind in ("note_on", "note_off"):
            offs[number, message.channel, message.note].append((order, tick))
        elif kind == "program_change":
            programs[message.channel] = message.program
        elif kind == "control_change" and message.control == _PEDAL and message.channel != DRUM_CHANNEL - 1:
            pedals[message.channel].append((tick, message.value >= _PEDAL_DOWN))
    found: dict[tuple[int, int, int | None], list[tuple[int, int, int, int]]] = defaultdict(list)
    for (number, channel, pitch), begun in ons.items():
        ends = _note_ends(begun, offs[number, channel, pitch], last[number])
        held = _held_until(ends, pedals[channel], last[number])
        for (_, tick, velocity, program), end in zip(begun, held, strict=True):
            found[number, channel, program].append((tick, end, pitch, velocity))
    tracks = []
    for (number, channel, program), rows in sorted(found.items(), key=lambda item: (item[0][:2], item[0][2] or 0)):
        begins, ends = (tempo.to_seconds(np.array([row[column] for row in rows])).tolist() for column in (0, 1))
        notes = separate_notes(
            Note(begin, end - begin, pitch, velocity)
            for begin, end, (_, _, pitch, velocity) in zip(begins, ends, rows, strict=True)
        )
        tracks.append(MidiTrack(_track_name(file.tracks[number]), channel + 1, program, tuple(notes)))
    return tuple(tracks)


def _note_ends(begun: list, ended: list[tuple[int, int]], last: int) -> list[int]:
    """Return the tick at which each of a key's notes ends.

    Where every note has its own end, the first that began ends first. Else (a note that was struck again, one that is
    never switched off) an end holds for all that sound, and what has none lasts to the end of the track.
    """
    if len(begun) == len(ended) and all(on[0] < off[0] for on, off in zip(begun, ended, strict=True)):
        return [tick for _, tick in ended]
    orders = [order for order, _ in ended]
    at = np.searchsorted(orders, [on[0] for on in begun])
    return [ended[place][1] if place < len(ended) else last for place in at]


def _held_until(ends: list[int], pedal: list[tuple[int, bool]], last: int) -> list[int]:
    """Return when notes really end whose keys are released at `ends`: later where the pedal is down."""
    if not pedal:
        return ends
    changes = [tick for tick, _ in pedal]
    # When the pedal is up again, seen from each of its changes.
    up = [last] * (len(pedal) + 1)
    for number in reversed(range(len(pedal))):
        up[number] = up[number + 1] if pedal[number][1] else changes[number]
    after = np.searchsorted(changes, ends, side="right")
    return [up[at] if at and pedal[at - 1][1] else end for end, at in zip(ends, after.tolist(), strict=True)]


def _track_name(track: mido.MidiTrack) -> str:
    """Return a track's name; mido reads bytes as Latin-1, and today's programs write UTF-8."""
    try:
        return track.name.encode("latin-1").decode("utf-8").strip("\0 ")
    except UnicodeDecodeError:
        return track.name.strip("\0 ")


def _signatures(events: list) -> list[tuple[int, int, int]]:
    """Return (tick, numerator, denominator) of the time signatures that make sense, in order."""
    found = {
        tick: (message.numerator, message.denominator)
        for tick, _, message in events
        if message.type == "time_signature" and message.numerator > 0 and message.denominator <= 64
    }
    return [(tick, *signature) for tick, signature in found.items()]


def _grid(
    events: list, signatures: list[tuple[int, int, int]], tempo: TempoMap, last: int, name: str
) -> BeatGrid | None:
    """Return the beats up to the last tick; without those before and after that our own markers set apart."""
    if tempo.ticks_per_quarter is None:
        return None
    changes = signatures if signatures and signatures[0][0] == 0 else [(0, 4, 4), *signatures]
    beats: list[np.ndarray] = []
    downbeats: list[np.ndarray] = []
    for (tick, numerator, denominator), end in zip(changes, [*(tick for tick, *_ in changes[1:]), last], strict=True):
        compound = denominator >= 8 and numerator > 3 and numerator % 3 == 0
        per_bar = numerator // 3 if compound else numerator
        per_beat = tempo.ticks_per_quarter * 4 / denominator * (3 if compound else 1)
        count = max(0, math.ceil((end - tick) / per_beat))
        if count > MOST_BEATS:
            raise MidiError(f"cannot read {name}", why="it has more than a million beats")
        times = tick + np.arange(count) * per_beat
        beats.append(times)
        downbeats.append(times[::per_bar])
    marks = {message.text: tick for tick, _, message in events if message.type == "marker"}
    first_beat, last_beat = marks.get(_FIRST_BEAT, 0), marks.get(_LAST_BEAT, last)
    first_downbeat = marks.get(_FIRST_DOWNBEAT, first_beat)
    kept = []
    for times, first in ((np.concatenate(beats), first_beat), (np.concatenate(downbeats), first_downbeat)):
        inside = times[(times >= first) & (times <= last_beat)]
        kept.append(tuple(tempo.to_seconds(inside).tolist()))
    return BeatGrid(beats=kept[0], downbeats=kept[1])


def write_midi(
    path: str | Path,
    stems: Mapping[str, Sequence[Note]],
    grid: BeatGrid | None = None,
    *,
    duration: float | None = None,
    programs: Mapping[str, int] | None = None,
) -> None:
    """Write stems as a MIDI file of type 1, whole or not at all; the arguments are those of `midi_bytes`.

    Raises:
        ValueError: as in `midi_bytes`.
        MidiError: the file cannot be written.
    """
    path = Path(path)
    data = midi_bytes(stems, grid, duration=duration, programs=programs)
    try:
        write_whole(path, lambda temporary: temporary.write_bytes(data))
    except StageError as error:
        raise MidiError(error.what, why=error.why, next_step="free some space, or choose another folder") from None


def midi_bytes(
    stems: Mapping[str, Sequence[Note]],
    grid: BeatGrid | None = None,
    *,
    duration: float | None = None,
    programs: Mapping[str, int] | None = None,
) -> bytes:
    """Return a MIDI file of type 1: a track of tempos and time signatures, then one track for each stem.

    The song's beats fall on quarter notes (each within 0.1 ms), its downbeats on bar lines. What lies before the first
    beat fills bars of its own, whose tempo makes the first beat come in time; markers name the first beat there, the
    first downbeat after an upbeat, and the last beat where the song goes on after it. `core.music.tempo.lay_out` says
    what happens where the grid has gaps, or no beats at all.

    Notes keep their times to 0.5 ms. Of two overlapping notes of one pitch the first ends where the second begins.

    Args:
        stems: stem name → notes in any order. The name becomes the track's name. Drums and percussion go to
            channel 10, other stems to the channels from 1 on, with General MIDI's program for their name.
        grid: the song's beats, or None.
        duration: seconds of the song; by default it ends with the last note or beat.
        programs: stem name → program (0 to 127) in place of the usual one.

    Raises:
        ValueError: a note that MIDI cannot hold (`check_notes`), or more than 15 pitched stems.
    """
    import mido

    layout = lay_out(grid)
    tempo = layout.tempo
    file = mido.MidiFile(type=1, ticks_per_beat=layout.ticks_per_quarter)
    end = max([duration or 0.0, *(note.end for notes in stems.values() for note in notes)])
    last = max(int(tempo.to_ticks(np.array(end))), layout.last_beat + 1)
    markers = [(layout.first_beat, _FIRST_BEAT)] if layout.first_beat else []
    if layout.first_downbeat > layout.first_beat:
        markers.append((layout.first_downbeat, _FIRST_DOWNBEAT))
    if layout.last_beat and layout.last_beat + layout.ticks_per_quarter < last:
        markers.append((layout.last_beat, _LAST_BEAT))
    conductor = [
        *((tick, mido.MetaMessage("time_signature", numerator=n, denominator=d)) for tick, n, d in layout.signatures),
        *((tick, mido.MetaMessage("set_tempo", tempo=micros)) for tick, micros in layout.tempos.items()),
        *((tick, mido.MetaMessage("marker", text=text)) for tick, text in markers),
        (last, mido.MetaMessage("end_of_track")),
    ]
    file.tracks.append(_delta_timed(sorted(conductor, key=lambda event: event[0])))
    channels = iter(channel for channel in range(1, 17) if channel != DRUM_CHANNEL)
    for stem, notes in stems.items():
        check_notes(notes)
        drums = stem in _ON_DRUM_CHANNEL
        channel = DRUM_CHANNEL if drums else next(channels, 0)
        if channel == 0:
            raise ValueError("at most 15 pitched stems fit into a MIDI file")
        # mido writes Latin-1; the bytes are to be UTF-8.
        name = stem.encode("utf-8").decode("latin-1")
        track: list[tuple[int, mido.Message | mido.MetaMessage]] = [(0, mido.MetaMessage("track_name", name=name))]
        program = (programs or {}).get(stem, _PROGRAM_OF.get(stem, 0))
        track.append((0, mido.Message("program_change", channel=channel - 1, program=program)))
        track.extend(_note_events(notes, tempo, channel - 1))
        track.append((max(last, track[-1][0]), mido.MetaMessage("end_of_track")))
        file.tracks.append(_delta_timed(track))
    out = io.BytesIO()
    file.save(file=out)
    return out.getvalue()


def _note_events(notes: Sequence[Note], tempo: TempoMap, channel: int) -> list[tuple[int, mido.Message]]:
    """Return (tick, message) in order; each note lasts a tick at least, and ends before its pitch is struck again."""
    import mido

    separate = separate_notes(notes)
    begins = tempo.to_ticks(np.array([note.onset for note in separate])).tolist()
    ends = tempo.to_ticks(np.array([note.end for note in separate])).tolist()
    free: dict[int, int] = {}
    events = []
    for note, begin, end in zip(separate, begins, ends, strict=True):
        start = max(begin, free.get(note.pitch, 0))
        stop = max(end, start + 1)
        free[note.pitch] = stop
        # Checked above; mido's own checks take half of the time.
        values = {"skip_checks": True, "channel": channel, "note": int(note.pitch), "time": 0}
        events.append((start, 1, mido.Message("note_on", velocity=int(note.velocity), **values)))
        events.append((stop, 0, mido.Message("note_off", velocity=0, **values)))
    events.sort(key=lambda event: event[:2])
    return [(tick, message) for tick, _, message in events]


def _delta_timed(events: Iterable[tuple[int, mido.Message | mido.MetaMessage]]) -> mido.MidiTrack:
    """Return a track of new messages at rising ticks, each timed from the one before, as files do."""
    import mido

    track = mido.MidiTrack()
    at = 0
    for tick, message in events:
        message.time = tick - at
        track.append(message)
        at = tick
    return track
