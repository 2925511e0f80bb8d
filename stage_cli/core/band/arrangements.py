"""Full arrangements from MIDI as songs of a set: who plays what is known exactly, drums and bass too.

    library = ArrangementLibrary.open(Path("freedoom"))
    score = library.arrange((0, 7), 24.0)      # an excerpt of one of its files, at another tempo and in another key

Parts are split by channel and program (General MIDI), beats come from the file's tempo map. Sections and chords are
unknown. Pitch bends, volume changes and sound effects are left out.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise
from pathlib import Path

import numpy as np

from stage_cli.core.band.instruments import (
    CABASA,
    CHINA,
    CLAP,
    CLAVES,
    COWBELL,
    CRASH,
    HIGH_BONGO,
    INSTRUMENTS,
    LOW_BONGO,
    LOW_CONGA,
    MUTED_CONGA,
    OPEN_CONGA,
    SHAKER,
    SPLASH,
    TAMBOURINE,
    WOODBLOCK,
)
from stage_cli.core.band.performances import KIT_KEYS, beats_to_seconds, find_midi_files
from stage_cli.core.band.randomness import chance, generator, pick
from stage_cli.core.band.score import METERS, Score, ScoreMeter, ScoreNote, ScorePart
from stage_cli.core.music.midi import DRUM_CHANNEL, MidiSong, read_midi
from stage_cli.core.music.notes import Note
from stage_cli.errors import StageError, UsageError

STYLE = "arrangement"
"""Style of the songs that are no composition of the composer's."""
_SLOWEST_BPM, _FASTEST_BPM = 50.0, 210.0
"""Beats a minute that a listener counts; files that are faster are counted in halves."""
_TEMPO_RANGE = 0.12
"""Natural logarithm of the most by which a tempo is changed."""
_TRANSPOSITION = 5
"""Semitones, up or down."""
_LONGEST_NOTE = 12.0
"""Seconds; longer ones end there."""
_FEWEST_BEATS = 16
_OFF_GRID = 0.025
"""Median distance in beats of drum strokes from the nearest sixteenth or triplet; strokes at random have 0.035."""
_LOW = 46
"""Median pitch of a synthesizer below which it plays the bass."""

_PROGRAMS: tuple[tuple[int, str | None], ...] = (
    (0, "grand piano"), (4, "electric piano"), (6, "clavinet"), (8, "mallets"), (15, "harp"), (16, "organ"),
    (21, "accordion"), (22, "harmonica"), (23, "accordion"), (24, "acoustic guitar"), (26, "clean guitar"),
    (28, "muted guitar"), (29, "crunch guitar"), (30, "distorted guitar"), (31, "clean guitar"), (32, "upright bass"),
    (33, "finger bass"), (34, "pick bass"), (35, "fretless bass"), (36, "pick bass"), (38, "synth bass"),
    (40, "violin"), (42, "cello"), (44, "strings"), (45, "harp"), (47, "mallets"), (48, "strings"), (52, "choir"),
    (55, "brass section"), (56, "trumpet"), (57, "brass section"), (59, "trumpet"), (60, "brass section"),
    (62, "synth stab"), (64, "saxophone"), (68, "clarinet"), (72, "flute"), (80, "synth lead"), (84, "synth pluck"),
    (85, "synth lead"), (88, "pad"), (98, "synth pluck"), (99, "pad"), (104, "banjo"), (106, "mandolin"),
    (108, "mallets"), (109, "clarinet"), (110, "violin"), (111, "clarinet"), (112, "mallets"), (115, None),
)  # fmt: skip
"""The band's instrument of the first program of each run; None for drums and effects that have no pitch."""
_KITS: tuple[tuple[int, tuple[str, ...]], ...] = (
    (0, ("rock", "studio", "dry", "garage")), (8, ("studio",)), (16, ("rock",)), (24, ("electronic", "eighties")),
    (32, ("jazz",)), (48, ("studio",)),
)  # fmt: skip
_HAND_KEYS = {
    54: TAMBOURINE, 56: COWBELL, 60: HIGH_BONGO, 61: LOW_BONGO, 62: MUTED_CONGA, 63: OPEN_CONGA, 64: LOW_CONGA,
    65: HIGH_BONGO, 66: LOW_BONGO, 67: COWBELL, 68: COWBELL, 69: CABASA, 70: SHAKER, 73: CABASA, 74: CABASA,
    75: CLAVES, 76: WOODBLOCK, 77: WOODBLOCK, 82: SHAKER,
}  # fmt: skip
"""Hand percussion of General MIDI as the keys that every bank of the band has."""
_DRUM_KEYS = KIT_KEYS | {39: CLAP, 49: CRASH, 52: CHINA, 55: SPLASH}
"""Cymbals as General MIDI has them, where Roland's kits have edges."""


@dataclass(frozen=True, eq=False)
class Arrangement:
    """One file, ready to be played: a stretch of one meter, its times in beats.

    Attributes:
        name: of the file, without its ending.
        meter: of the stretch.
        beat_times: seconds of every beat as written, the one that ends the last bar included; whole bars.
        parts: instrument, kit and notes of each part; onsets and durations in beats from the first downbeat.
    """

    name: str
    meter: ScoreMeter
    beat_times: np.ndarray
    parts: tuple[ScorePart, ...]


class ArrangementLibrary:
    """The arrangements of a folder; files are read when they are first played.

    Attributes:
        folder: where they lie.
        files: paths relative to it.
        skipped: names of files that cannot be read or played, each with the reason.
        fingerprint: of the folder's content.
    """

    def __init__(self, folder: Path, files: Sequence[str], skipped: Sequence[str], fingerprint: str):
        self.folder = folder
        self.files = tuple(files)
        self.skipped = list(skipped)
        self.fingerprint = fingerprint
        self._arrangements: dict[str, Arrangement | None] = {}

    @classmethod
    def open(cls, folder: Path) -> ArrangementLibrary:
        """Look through a folder and the folders in it.

        Raises:
            UsageError: no such folder, or no whole MIDI file in it.
        """
        digest = hashlib.sha256()
        broken: dict[str, str] = {}
        names = find_midi_files(folder, "arrangements", digest, broken)
        files = [name for name in names if name not in broken]
        skipped = [f"{name}: {why}" for name, why in broken.items()]
        if not files:
            raise UsageError(f"cannot read arrangements from {folder}", why=skipped[0])
        return cls(folder, files, skipped, f"{folder.name} {len(files)} {digest.hexdigest()[:16]}")

    def arrangement(self, name: str) -> Arrangement | None:
        """Return a file's arrangement; None, and a line in `skipped`, if nothing can be made of it."""
        if name not in self._arrangements:
            try:
                self._arrangements[name] = transcribe_arrangement(read_midi(self.folder / name), Path(name).stem)
            except StageError as error:
                self.skipped.append(f"{name}: {error.why or error.what}")
                self._arrangements[name] = None
        return self._arrangements[name]

    def arrange(self, key: tuple[int | str, ...], seconds: float) -> Score:
        """Return a song: an excerpt of one of the files, its tempo and key changed.

        It begins on a downbeat in the first half of the piece, which starts again where it ends before `seconds`; so
        a shorter song is the beginning of a longer one.

        Args:
            key: of the song: decides file, excerpt, tempo (up to 12 % faster or slower) and transposition (up to five
                semitones).
            seconds: length.

        Raises:
            UsageError: none of the files can be played.
        """
        rng = generator(*key, "arrangement")
        for number in rng.permutation(len(self.files)):
            found = self.arrangement(self.files[int(number)])
            if found is not None:
                return _excerpt(found, key, seconds)
        raise UsageError(
            f"no file in {self.folder} can be played", why=self.skipped[0] if self.skipped else "nothing fits"
        )


@lru_cache(maxsize=4)
def open_arrangements(folder: Path) -> ArrangementLibrary:
    """Return a folder's arrangements, which are looked through once in a process; see `ArrangementLibrary.open`."""
    return ArrangementLibrary.open(folder)


def transcribe_arrangement(song: MidiSong, name: str) -> Arrangement:
    """Return the parts and the beats of a MIDI song: of the longest stretch that has one meter.

    Raises:
        StageError: it has no beats, fewer than 16, fewer than two parts, or drums that do not follow its tempo.
    """
    grid = song.grid
    if grid is None or len(grid.beats) < _FEWEST_BEATS:
        raise StageError(f"cannot play {name}", why=f"it has fewer than {_FEWEST_BEATS} beats")
    beats = np.array(grid.beats)
    meter, first, last = _longest_stretch(beats, np.array(grid.downbeats), song)
    times = beats[first : last + 1]
    bpm = 60 / float(np.median(np.diff(times)))
    if bpm > _FASTEST_BPM and meter.beats_per_bar % 2 == 0:
        half = meter.beats_per_bar // 2
        meter = ScoreMeter(f"{half}/2", half, meter.steps_per_beat * 2)
        times, bpm = times[::2], bpm / 2
    if not _SLOWEST_BPM <= bpm <= _FASTEST_BPM:
        raise StageError(f"cannot play {name}", why=f"its tempo is {bpm:.0f} beats a minute")
    parts = [*_drum_parts(song, times), *_pitched_parts(song, times)]
    if len(parts) < 2:
        raise StageError(f"cannot play {name}", why="it has fewer than two parts")
    strokes = np.array([note.beat for part in parts if part.stem == "drums" for note in part.notes])
    if len(strokes) and _distance(strokes) > _OFF_GRID:
        raise StageError(f"cannot play {name}", why="its drums do not follow its tempo")
    return Arrangement(name, meter, times, tuple(parts))


def _longest_stretch(beats: np.ndarray, downbeats: np.ndarray, song: MidiSong) -> tuple[ScoreMeter, int, int]:
    """Return the meter, the first and the last beat (a downbeat) of the longest run of bars of one length."""
    bars = np.unique(np.searchsorted(beats, downbeats - 1e-6))
    lengths = np.diff(bars)
    if not len(lengths):
        raise StageError("no bars", why="it is shorter than a bar")
    changes = [0, *(i for i, (one, other) in enumerate(pairwise(lengths), 1) if one != other), len(lengths)]
    begin, end = max(pairwise(changes), key=lambda run: bars[run[1]] - bars[run[0]])
    length = int(lengths[begin])
    at = beats[bars[begin]] + 1e-6
    signature = next((s for s in reversed(song.time_signatures) if s.onset <= at), None)
    name = f"{signature.numerator}/{signature.denominator}" if signature else "4/4"
    meter = METERS.get(name)
    if meter is None or meter.beats_per_bar != length:
        meter = ScoreMeter(name, length, 4)
    return meter, int(bars[begin]), int(bars[end])


def _drum_parts(song: MidiSong, times: np.ndarray) -> list[ScorePart]:
    """Return the kit and the hand percussion of a song's drum channel."""
    found: dict[str, list[Note]] = defaultdict(list)
    program = 0
    for track in song.tracks:
        if track.channel != DRUM_CHANNEL:
            continue
        program = track.program or 0
        for note in track.notes:
            if note.pitch in _DRUM_KEYS:
                found["drums"].append(note._replace(pitch=_DRUM_KEYS[note.pitch]))
            elif note.pitch in _HAND_KEYS:
                found["percussion"].append(note._replace(pitch=_HAND_KEYS[note.pitch]))
    parts = []
    if found["drums"]:
        kits = next(kits for first, kits in reversed(_KITS) if program >= first)
        notes = _in_beats(found["drums"], times)
        parts.append(ScorePart("drums", "drums", "full acoustic drumkit", "drums", notes, kit=" ".join(kits)))
    if found["percussion"]:
        notes = _in_beats(found["percussion"], times)
        parts.append(ScorePart("percussion", "percussion", INSTRUMENTS["percussion"].track_type, "percussion", notes))
    return [part for part in parts if part.notes]


def _pitched_parts(song: MidiSong, times: np.ndarray) -> list[ScorePart]:
    """Return a part for each channel and program, named by its instrument."""
    parts: list[ScorePart] = []
    numbers: dict[str, int] = defaultdict(int)
    for track in song.tracks:
        if track.channel == DRUM_CHANNEL:
            continue
        program = track.program or 0
        instrument = next(name for first, name in reversed(_PROGRAMS) if program >= first)
        notes = _in_beats(track.notes, times)
        if instrument is None or not notes:
            continue
        if instrument in ("synth lead", "synth pluck", "synth stab") and np.median([n.pitch for n in notes]) < _LOW:
            instrument = "synth bass"
        numbers[instrument] += 1
        known = INSTRUMENTS[instrument]
        name = f"{instrument} {numbers[instrument]}"
        parts.append(ScorePart(name, known.stem, known.track_type, instrument, notes))
    return parts


def _in_beats(notes: Sequence[Note], times: np.ndarray) -> tuple[ScoreNote, ...]:
    """Return the notes of a stretch with onset and duration in beats from its first; `beat` is the same place."""
    if not notes:
        return ()
    spans = np.array([(note.onset, note.end) for note in notes])
    places = np.interp(spans, times, np.arange(len(times)))
    return tuple(
        ScoreNote(begin, max(end - begin, 0.05), note.pitch, note.velocity / 127, begin)
        for note, (onset, _), (begin, end) in sorted(
            zip(notes, spans.tolist(), places.tolist(), strict=True), key=lambda item: (item[1][0], item[0].pitch)
        )
        if times[0] - 1e-6 <= onset < times[-1] - 1e-6
    )


def _distance(beats: np.ndarray) -> float:
    """Return the median distance of places from the nearest sixteenth or triplet."""
    return float(np.median(np.minimum(*(np.abs(beats * n - np.rint(beats * n)) / n for n in (4, 6)))))


def _excerpt(arrangement: Arrangement, key: tuple[int | str, ...], seconds: float) -> Score:
    rng = generator(*key, "excerpt")
    times = arrangement.beat_times
    meter = arrangement.meter
    total = len(times) - 1
    first = int(rng.integers(max(1, total // meter.beats_per_bar // 2))) * meter.beats_per_bar
    factor = float(np.exp(rng.uniform(-_TEMPO_RANGE, _TEMPO_RANGE)))
    steps = int(rng.integers(-_TRANSPOSITION, _TRANSPOSITION + 1))
    lead_in = 0.0 if chance(rng, 0.4) else float(rng.uniform(0.05, 0.8))
    # The beats go on from the beginning where the piece ends.
    lengths = np.diff(times) / factor
    beat_times = [lead_in]
    place = first
    while beat_times[-1] < seconds + _LONGEST_NOTE:
        beat_times.append(beat_times[-1] + float(lengths[place % total]))
        place += 1
    count = len(beat_times) - 1
    parts = []
    for part in arrangement.parts:
        own = generator(*key, "part", part.name)
        level, pan = float(np.clip(own.normal(0, 2.0), -5, 4)), float(np.clip(own.normal(0, 0.4), -0.85, 0.85))
        if part.stem in ("drums", "bass"):
            pan = 0.0
        kit = pick(own, part.kit.split()) if part.kit else ""
        shift = 0 if part.stem in ("drums", "percussion") and part.instrument != "mallets" else steps
        notes = _unrolled(part.notes, first, count, total, beat_times, shift)
        parts.append(replace(part, notes=notes, level=level, pan=pan, kit=kit))
    score = Score(
        title=arrangement.name,
        artist="",
        style=STYLE,
        genre="other",
        meter=meter,
        key=None,
        swing=0.5,
        swing_unit=1.0,
        bpm=60 / float(np.median(lengths)),
        beat_times=tuple(beat_times),
        sections=(),
        chords=(),
        parts=tuple(parts),
    )
    return score.crop(seconds)


def _unrolled(
    notes: Sequence[ScoreNote], first: int, count: int, total: int, beat_times: Sequence[float], shift: int
) -> tuple[ScoreNote, ...]:
    """Return the notes of `count` beats from beat `first` on, in seconds; after `total` beats the piece begins anew."""
    placed = []
    for turn in range((first + count) // total + 1):
        offset = turn * total - first
        placed += [(note.beat + offset, note) for note in notes if -1e-6 <= note.beat + offset < count]
    if not placed:
        return ()
    spans = np.array([(beat, beat + note.duration) for beat, note in placed])
    seconds = beats_to_seconds(np.maximum(spans, 0.0), beat_times)
    return tuple(
        ScoreNote(
            onset, min(max(end - onset, 0.02), _LONGEST_NOTE), min(max(note.pitch + shift, 0), 127), note.velocity, beat
        )
        for (onset, end), (beat, note) in sorted(
            zip(seconds.tolist(), placed, strict=True), key=lambda item: (item[0][0], item[1][1].pitch)
        )
    )
