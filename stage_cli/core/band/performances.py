"""Drummers from MIDI: a folder of drum performances, and how one of them becomes the drums of a composed song.

    library = DrumLibrary.open(Path("gmd"))                     # Groove MIDI's layout, or any folder of MIDI files
    performer = library.hire((0, 3, "drums"), style, meter, 104.0)   # None: nobody there plays this
    played = performer.play(section, following, "full", number)      # strokes, their timing and loudness as performed

A performance keeps its timing in proportion: each stroke has a place on paper (a sixteenth, swung as the drummer
swings) and a deviation from it in beats, so that stretching it to another tempo stretches both. Only its average
distance from the beat is taken away, for the band plays where its drummer does.

Groove MIDI Dataset: Gillick et al., "Learning to Groove with Inverse Sequence Transformations", 2019 (CC-BY 4.0).
"""

from __future__ import annotations

import csv
import hashlib
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np

from stage_cli.core.band.grooves import DrumTiming, Groove, Hit
from stage_cli.core.band.instruments import (
    CLOSED_HAT,
    CRASH,
    DRUM_TRACKS,
    HIGH_TOM,
    KICK,
    LOW_TOM,
    MIDDLE_TOM,
    OPEN_HAT,
    PEDAL_HAT,
    RIDE,
    RIDE_BELL,
    SECOND_CRASH,
    SIDE_STICK,
    SNARE,
)
from stage_cli.core.band.randomness import chance, generator, pick
from stage_cli.core.band.score import METERS, Feel, ScoreMeter, ScoreNote, Section
from stage_cli.core.music.midi import DRUM_CHANNEL, MidiSong, read_midi
from stage_cli.errors import StageError, UsageError

MOST_STRETCH = 1.15
"""A performance is played at most so many times as fast, or as slow, as it was."""
INFO_FILE = "info.csv"
_SHORTEST = 4
"""Bars that a performance must have to accompany a song."""
_OFF_GRID = 0.72
"""Mean deviation, as a share of what strokes at random would have, from which on a performance does not keep time."""
_SWINGS = tuple(round(0.53 + 0.02 * i, 2) for i in range(9))
_FILL_BEATS = 0.35

KIT_KEYS = {
    36: KICK, 35: KICK, 38: SNARE, 40: SNARE, 37: SIDE_STICK, 39: SIDE_STICK,
    42: CLOSED_HAT, 22: CLOSED_HAT, 44: PEDAL_HAT, 46: OPEN_HAT, 26: OPEN_HAT,
    48: HIGH_TOM, 50: HIGH_TOM, 45: MIDDLE_TOM, 47: MIDDLE_TOM, 43: LOW_TOM, 41: LOW_TOM, 58: LOW_TOM,
    49: CRASH, 55: CRASH, 57: SECOND_CRASH, 52: SECOND_CRASH, 51: RIDE, 59: RIDE, 53: RIDE_BELL,
}  # fmt: skip
"""Keys of General MIDI and of Roland's TD-11 (rims, edges and bows) as the drums of the band's kits."""

_TOMS = DRUM_TRACKS["toms"]
_HATS = DRUM_TRACKS["hi-hat"]
_LEADING = (*_HATS, *DRUM_TRACKS["cymbals"])

_STYLES: dict[str, tuple[str, ...]] = {
    "rock": ("rock", "pop", "gospel"),
    "indie": ("rock", "pop", "dance"),
    "pop": ("pop", "soul", "rock", "dance", "gospel"),
    "funk": ("funk", "soul", "neworleans", "jazz/funk"),
    "soul": ("soul", "funk", "gospel", "pop", "hiphop"),
    "reggae": ("reggae",),
    "ska": ("reggae", "rock/rockabilly", "punk"),
    "disco": ("dance", "soul", "funk", "pop"),
    "hip-hop": ("hiphop", "funk/purdieshuffle", "funk"),
    "ballad": ("pop", "rock", "soul", "gospel"),
    "singer-songwriter": ("rock/folk", "pop", "country", "rock"),
    "country": ("country", "rock/folk", "rock/rockabilly", "rock"),
    "shuffle": ("blues", "rock/shuffle", "funk/purdieshuffle", "neworleans/shuffle", "country"),
    "jazz": ("jazz",),
    "bossa": ("latin/brazilian-bossa", "latin/brazilian", "latin", "highlife"),
    "punk": ("punk", "rock"),
    "breakbeat": ("dance/breakbeat", "funk", "hiphop"),
    "latin": ("latin", "afrocuban", "afrobeat", "highlife"),
    "waltz": ("jazz", "latin", "rock", "pop"),
    "rock waltz": ("rock", "pop", "jazz"),
    "six-eight ballad": ("rock", "soul", "blues", "gospel", "afrocuban"),
    "jig": ("rock", "country", "afrocuban"),
}
"""By the composer's style: styles of Groove MIDI that fit it. Metal and electronic styles keep invented grooves."""
_SWUNG_ONLY = ("shuffle", "jazz")
_BACKBEAT = ("rock", "pop", "hiphop", "soul", "punk", "country", "gospel", "blues", "jazz")
"""Styles of Groove MIDI whose kick and snare tell which beat of a bar is its first."""


@dataclass(frozen=True)
class PerformanceFile:
    """One file of a library, as far as it is known without being read.

    Attributes:
        path: relative to the library's folder, with slashes.
        drummer: who plays; "" if unknown.
        style: in Groove MIDI's words ("rock/halftime"); "" if unknown, which fits every style.
        bpm: beats of the meter in a minute.
        meter: name of its time signature, such as "4/4".
        bars: about how many.
        fill: it is a fill and no groove.
    """

    path: str
    drummer: str
    style: str
    bpm: float
    meter: str
    bars: float
    fill: bool = False


@dataclass(frozen=True, slots=True)
class PlayedStroke:
    """One stroke as a drummer plays it.

    Attributes:
        beat: place on paper, a whole number of sixteenths, in beats from the first downbeat.
        deviation: beats by which it is played behind its (swung) place.
        key: General MIDI key of the band's kits.
        velocity: 0 to 1, as it was struck.
    """

    beat: float
    deviation: float
    key: int
    velocity: float


@dataclass(frozen=True, eq=False)
class DrumPerformance:
    """A performance, bar by bar.

    Attributes:
        file: what was known before.
        feel: how it swings; its looseness is 0, for the deviations are the drummer's.
        bars: strokes of each bar, beats counted from its downbeat; silent bars before and after are left out.
        tightness: mean deviation as a share of what strokes at random would have.
    """

    file: PerformanceFile
    feel: Feel
    bars: tuple[tuple[PlayedStroke, ...], ...]
    tightness: float

    @cached_property
    def intensities(self) -> np.ndarray:
        """How hard and busily each bar is played, 0 to 1 by rank within the performance, `[bars]`."""
        effort = np.array([sum(stroke.velocity for stroke in bar) for bar in self.bars])
        return np.argsort(np.argsort(effort, kind="stable"), kind="stable") / max(len(effort) - 1, 1)

    @cached_property
    def accent(self) -> float:
        """Velocity of the stronger strokes of kick and snare (their 90th percentile)."""
        struck = [s.velocity for bar in self.bars for s in bar if s.key in (KICK, SNARE)]
        return float(np.percentile(struck or [0.8], 90))

    def fill_bars(self) -> list[int]:
        """Return the bars that sound like fills: a third of their strokes or more on toms, and something before."""
        found = []
        for number, bar in enumerate(self.bars):
            toms = sum(stroke.key in _TOMS for stroke in bar)
            if number and len(bar) >= 6 and toms >= _FILL_BEATS * len(bar):
                found.append(number)
        return found

    def stretches(self, bars: int) -> list[int]:
        """Return the bars at which a stretch of a length can begin, every second one; none if it is too short."""
        last = len(self.bars) - bars
        return [first for first in range(0, last + 1, 2) if all(self.bars[first : first + bars])]


@dataclass(frozen=True)
class PlayedSection:
    """What a drummer plays in a section.

    Attributes:
        strokes: in order of their place; beats from the song's first.
        groove: the section's bars as the other players see them.
        timing: where kick and other drums are, and how far off their places.
    """

    strokes: tuple[PlayedStroke, ...]
    groove: Groove
    timing: DrumTiming


@dataclass(frozen=True, eq=False)
class Performer:
    """A drummer of a song: performances of one person, one of them for quiet sections and maybe another for loud ones.

    Attributes:
        key: of the song and the drums, for what is chosen.
        meter: of the song.
        main: performance of verses.
        other: of choruses; often the same.
        fills: last bars of this drummer's fills; may be empty.
        fill_every: bars of a phrase.
        crash: probability of a crash on a section's first beat where the performance has none.
    """

    key: tuple[int | str, ...]
    meter: ScoreMeter
    main: DrumPerformance
    other: DrumPerformance
    fills: tuple[tuple[PlayedStroke, ...], ...]
    fill_every: int
    crash: float

    @property
    def feel(self) -> Feel:
        """How the drummer swings, which the band follows."""
        return self.main.feel

    @property
    def level(self) -> float:
        """DB by which the drums are raised: velocities stay as played, and drummers differ in strength."""
        return float(np.clip(30 * math.log10(0.88 / self.main.accent), -3, 6))

    def plays_at(self, bpm: float) -> bool:
        """Say whether a tempo is within 15 % of the performances'."""
        return all(_stretch(performance.file.bpm, bpm) <= MOST_STRETCH for performance in (self.main, self.other))

    def play(self, section: Section, following: Section | None, manner: str, number: int) -> PlayedSection:
        """Return a section's strokes.

        Args:
            section: what is played.
            following: the next section, which a fill leads to; None at the end.
            manner: "full", "hats" (leading hand only), "no kick", "kick", "rim" or "out".
            number: of the section in the song.
        """
        rng = generator(*self.key, "section", number)
        bars = self._bars(section, rng)
        groove = Groove(tuple(self._on_paper(bar) for bar in bars), "", "")
        timing = self._timing(section, bars)
        played = [_thinned(bar, manner) for bar in bars]
        enters = following is not None and following.intensity >= 0.4
        for bar in range(section.bars):
            last = bar == section.bars - 1
            phrase_end = (bar + 1) % self.fill_every == 0
            wanted = (last and enters and chance(rng, 0.85)) or (
                phrase_end and not last and manner == "full" and chance(rng, 0.35)
            )
            if wanted and self.fills:
                played[bar] = self._with_fill(played[bar], rng, whole=last and section.intensity > 0.5)
        if manner == "full" and section.intensity >= 0.4 and played and chance(rng, self.crash):
            played[0] = _with_crash(played[0], rng, self.main.accent)
        strokes = [
            replace(stroke, beat=stroke.beat + (section.first_bar + number) * self.meter.beats_per_bar)
            for number, bar in enumerate(played)
            for stroke in bar
        ]
        return PlayedSection(tuple(sorted(strokes, key=lambda s: (s.beat, s.key, s.deviation))), groove, timing)

    def _bars(self, section: Section, rng: np.random.Generator) -> list[tuple[PlayedStroke, ...]]:
        """Return as many bars as the section has, of about its intensity; the same ones for each section of a kind."""
        performance = self.other if section.kind in ("chorus", "drop", "solo") else self.main
        length = min(section.bars, max(1, len(performance.bars) // 2 * 2))
        while length > 1 and not performance.stretches(length):
            length = length // 2
        starts = performance.stretches(length)
        if not starts:
            return [performance.bars[bar % len(performance.bars)] for bar in range(section.bars)]
        effort = [float(performance.intensities[first : first + length].mean()) for first in starts]
        place = np.argsort(np.argsort(effort, kind="stable"), kind="stable") / max(len(starts) - 1, 1)
        same = generator(*self.key, "stretch", section.kind)
        target = section.intensity if section.kind != "chorus" else 0.9
        distance = np.abs(place - target) + same.uniform(0, 0.3, size=len(starts))
        nearest = np.argsort(distance, kind="stable")
        # Mostly the same stretch again; now and then another one that is played alike.
        first = starts[int(nearest[0 if chance(rng, 0.6) else int(rng.integers(min(3, len(nearest))))])]
        return [performance.bars[first + bar % length] for bar in range(section.bars)]

    def _on_paper(self, bar: Sequence[PlayedStroke]) -> tuple[Hit, ...]:
        loudest: dict[tuple[float, int], Hit] = {}
        for stroke in bar:
            place = (round(stroke.beat * self.meter.steps_per_beat, 3), stroke.key)
            if place not in loudest or loudest[place].velocity < stroke.velocity:
                loudest[place] = Hit(place[0], stroke.key, stroke.velocity)
        return tuple(loudest[place] for place in sorted(loudest))

    def _timing(self, section: Section, bars: Sequence[Sequence[PlayedStroke]]) -> DrumTiming:
        kicks: dict[float, float] = {}
        loudest: dict[float, PlayedStroke] = {}
        for number, bar in enumerate(bars):
            first = (section.first_bar + number) * self.meter.beats_per_bar
            for stroke in bar:
                beat = round(first + stroke.beat, 4)
                if stroke.key == KICK and stroke.velocity > 0.2:
                    kicks.setdefault(beat, stroke.deviation)
                if beat not in loudest or loudest[beat].velocity < stroke.velocity:
                    loudest[beat] = stroke
        return DrumTiming(kicks, {beat: stroke.deviation for beat, stroke in loudest.items()})

    def _with_fill(
        self, bar: Sequence[PlayedStroke], rng: np.random.Generator, *, whole: bool
    ) -> tuple[PlayedStroke, ...]:
        fill = pick(rng, self.fills)
        begins = math.floor(min(stroke.beat for stroke in fill))
        half = self.meter.beats_per_bar // 2
        start = begins if whole or begins >= half else half
        return (*(s for s in bar if s.beat < start - 0.01), *(s for s in fill if s.beat >= start - 0.01))


class DrumLibrary:
    """The drum performances of a folder; files are read when they are first played.

    Attributes:
        folder: where they lie.
        files: what there is.
        skipped: names of files that are missing, unreadable or no performances, each with the reason.
        fingerprint: of the folder's content: equal fingerprints, equal drummers.
    """

    def __init__(self, folder: Path, files: Sequence[PerformanceFile], skipped: Sequence[str], fingerprint: str):
        self.folder = folder
        self.files = tuple(files)
        self.skipped = list(skipped)
        self.fingerprint = fingerprint
        self._performances: dict[str, DrumPerformance | None] = {}

    @classmethod
    def open(cls, folder: Path) -> DrumLibrary:
        """Look through a folder: by its `info.csv` if it has one (Groove MIDI's), else by reading all MIDI files in it.

        Raises:
            UsageError: no such folder, or no MIDI file in it can be read.
        """
        digest = hashlib.sha256()
        broken: dict[str, str] = {}
        names = find_midi_files(folder, "drummers", digest, broken)
        info = folder / INFO_FILE
        if info.is_file():
            digest.update(info.read_bytes())
            files, skipped = _from_info(folder, info, broken)
        else:
            files, skipped = _from_files(folder, names, broken)
        if not files:
            raise UsageError(
                f"cannot read drummers from {folder}", why=skipped[0] if skipped else "it lists no performances"
            )
        return cls(folder, files, skipped, f"{folder.name} {len(files)} {digest.hexdigest()[:16]}")

    def performance(self, file: PerformanceFile) -> DrumPerformance | None:
        """Return a file's performance; None if it cannot be read or does not keep time."""
        if file.path not in self._performances:
            self._performances[file.path] = self._read(file)
        return self._performances[file.path]

    def _read(self, file: PerformanceFile) -> DrumPerformance | None:
        try:
            song = read_midi(self.folder / file.path)
        except StageError as error:
            self.skipped.append(f"{file.path}: {error.why or error.what}")
            return None
        return transcribe(song, file)

    def hire(self, key: tuple[int | str, ...], style: str, meter: ScoreMeter, bpm: float) -> Performer | None:
        """Return a drummer for a song; None if nobody plays its style and meter within 15 % of its tempo.

        Args:
            key: of the song and the drums.
            style: name of the composer's style.
            meter: of the song.
            bpm: of the song.
        """
        rng = generator(*key, "performance")
        main = next(self._fitting(rng, style, meter, bpm), None)
        if main is None:
            return None
        other = main
        if chance(rng, 0.4):
            alike = (
                found
                for found in self._fitting(rng, style, meter, bpm)
                if found.file.drummer == main.file.drummer
                and found.file.style == main.file.style
                and abs(found.feel.swing - main.feel.swing) < 0.03
                and found.feel.swing_unit == main.feel.swing_unit
            )
            other = next(alike, main)
        fills = self._fills(rng, main, meter)
        return Performer(
            key,
            meter,
            main,
            other,
            tuple(fills),
            fill_every=pick(rng, (4, 4, 8, 8, 8)),
            crash=float(rng.uniform(0.3, 0.9)),
        )

    def _fitting(
        self, rng: np.random.Generator, style: str, meter: ScoreMeter, bpm: float
    ) -> Iterator[DrumPerformance]:
        wanted = _STYLES.get(style, ())
        files = [
            file
            for file in self.files
            if not file.fill
            and file.meter == meter.name
            and file.bars >= _SHORTEST
            and _stretch(file.bpm, bpm) <= MOST_STRETCH
            and wanted
            and (not file.style or any(_is_style(file.style, name) for name in wanted))
        ]
        # Long performances have more to choose from.
        weights = np.array([min(file.bars, 48.0) for file in files])
        order = np.argsort(-np.log(rng.uniform(1e-12, 1, size=len(files))) / np.maximum(weights, 1e-9), kind="stable")
        for number in order:
            found = self.performance(files[int(number)])
            if found is None or len(found.bars) < _SHORTEST or found.tightness > _OFF_GRID:
                continue
            if style in _SWUNG_ONLY and found.file.style and found.feel.swing < 0.55:
                continue
            yield found

    def _fills(
        self, rng: np.random.Generator, main: DrumPerformance, meter: ScoreMeter
    ) -> list[tuple[PlayedStroke, ...]]:
        """Return bars that lead to a next section: the same drummer's fills in a like style, else the performance's."""
        family = main.file.style.split("/")[0]
        files = [
            file
            for file in self.files
            if file.fill
            and file.meter == meter.name
            and file.drummer == main.file.drummer
            and file.style.split("/")[0] == family
            and _stretch(file.bpm, main.file.bpm) <= MOST_STRETCH
        ]
        found = []
        for number in rng.permutation(len(files)):
            performance = self.performance(files[int(number)])
            if performance is not None and performance.bars and len(performance.bars[-1]) >= 4:
                found.append(performance.bars[-1])
            if len(found) == 4:
                break
        own = main.fill_bars()
        return found or [main.bars[own[int(number)]] for number in rng.permutation(len(own))[:4]]


@lru_cache(maxsize=4)
def open_drummers(folder: Path) -> DrumLibrary:
    """Return a folder's drummers, which are looked through once in a process; see `DrumLibrary.open`."""
    return DrumLibrary.open(folder)


def find_midi_files(folder: Path, what: str, digest: hashlib._Hash, broken: dict[str, str]) -> list[str]:
    """Return the MIDI files of a folder and the folders in it: paths relative to it, with slashes, sorted.

    Args:
        folder: to look through.
        what: is looked for, as errors call it.
        digest: gets the names and the content of the files.
        broken: gets those that are no whole MIDI files, with the reason.

    Raises:
        UsageError: no such folder, or no MIDI file in it.
    """
    if not folder.is_dir():
        raise UsageError(f"cannot read {what} from {folder}", why="it is no folder")
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".mid", ".midi"))
    if not paths:
        raise UsageError(f"cannot read {what} from {folder}", why="it holds no MIDI files")
    names = []
    for path in paths:
        name = path.relative_to(folder).as_posix()
        names.append(name)
        try:
            data = path.read_bytes()
        except OSError as error:
            broken[name] = error.strerror or str(error)
            continue
        digest.update(f"{name} {len(data)}\n".encode() + data)
        if why := _defect(data):
            broken[name] = why
    return names


def transcribe(song: MidiSong, file: PerformanceFile) -> DrumPerformance | None:
    """Return the performance of a MIDI song: its strokes on the grid that fits them best, straight or swung.

    Returns: None if there are no drums in it, or no beats.
    """
    quarters, keys, velocities = _strokes(song)
    if not len(quarters):
        return None
    meter = METERS[file.meter]
    beats = quarters / (1.5 if meter.steps_per_beat == 6 else 1.0)
    if meter.name == "4/4" and _is_backbeat(file.style):
        beats = beats + _bar_shift(beats, keys, velocities)
    near = beats - np.rint(beats)
    on_beat = np.abs(near) < 0.12
    if on_beat.sum() >= 4:  # the band plays where its drummer does
        beats = beats - float(np.median(near[on_beat]))
    feel, paper, deviation, tightness = _fit(beats, meter)
    numbers = np.floor(paper / meter.beats_per_bar + 1e-6).astype(int)
    paper = paper - numbers * meter.beats_per_bar
    bars: dict[int, list[PlayedStroke]] = defaultdict(list)
    for number, beat, late, key, velocity in zip(
        numbers.tolist(), paper.tolist(), deviation.tolist(), keys.tolist(), velocities.tolist(), strict=True
    ):
        bars[number].append(PlayedStroke(round(beat, 4), late, key, velocity))
    usual = float(np.median([len(bar) for bar in bars.values()]))
    full = [number for number, bar in bars.items() if len(bar) >= 0.35 * usual]
    played = tuple(tuple(bars.get(number, ())) for number in range(min(full), max(full) + 1))
    return DrumPerformance(file, feel, played, tightness)


def strokes_to_notes(strokes: Sequence[PlayedStroke], beat_times: Sequence[float], feel: Feel) -> list[ScoreNote]:
    """Return strokes in seconds: the swing of the feel, and each stroke's own deviation in proportion to the tempo.

    Args:
        strokes: what is played.
        beat_times: seconds of every beat, from the song's first to the end of the section.
        feel: of the performance.
    """
    if not strokes:
        return []
    places = feel.warp(np.array([stroke.beat for stroke in strokes]))
    places = places + np.array([stroke.deviation for stroke in strokes])
    onsets = beats_to_seconds(places, beat_times)
    beat = beat_times[-1] - beat_times[-2]
    hats = sorted(onset for onset, s in zip(onsets.tolist(), strokes, strict=True) if s.key in _HATS)
    notes = []
    for stroke, onset in zip(strokes, onsets.tolist(), strict=True):
        duration = beat
        if stroke.key == OPEN_HAT:  # it rings until the hi-hat is struck again
            after = int(np.searchsorted(hats, onset + 1e-6))
            duration = hats[after] - onset if after < len(hats) else 2 * beat
        notes.append(ScoreNote(max(onset, 0.0), max(duration, 0.02), stroke.key, stroke.velocity, stroke.beat))
    return notes


def beats_to_seconds(places: np.ndarray, beat_times: Sequence[float]) -> np.ndarray:
    """Return the seconds of places in beats; before the first beat and after the last one the tempo goes on."""
    times = np.asarray(beat_times)
    seconds = np.interp(places, np.arange(len(times)), times)
    seconds += np.minimum(places, 0) * (times[1] - times[0])
    return seconds + np.maximum(places - (len(times) - 1), 0) * (times[-1] - times[-2])


def _from_info(folder: Path, info: Path, broken: Mapping[str, str]) -> tuple[list[PerformanceFile], list[str]]:
    """Return what Groove MIDI's table lists and the folder has, and what is left out and why."""
    files, skipped = [], []
    try:
        with info.open(encoding="utf-8", newline="") as table:
            rows = list(csv.DictReader(table))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"cannot read {info}", why=str(error)) from None
    for number, row in enumerate(rows, 2):
        name = row.get("midi_filename") or ""
        try:
            meter = (row["time_signature"] or "").replace("-", "/")
            bpm, seconds = float(row["bpm"]), float(row["duration"])
            entry = PerformanceFile(name, row["drummer"], row["style"], bpm, meter, 0.0, row["beat_type"] == "fill")
        except (KeyError, TypeError, ValueError) as error:
            skipped.append(f"{name or INFO_FILE}: line {number} of {INFO_FILE} cannot be read ({error})")
            continue
        if not (folder / name).is_file():
            skipped.append(f"{name}: no such file")
        elif name in broken:
            skipped.append(f"{name}: {broken[name]}")
        elif meter in METERS and bpm > 0:
            if meter == "6/8":
                bpm /= 1.5
            bars = seconds * bpm / 60 / METERS[meter].beats_per_bar
            files.append(replace(entry, bpm=bpm, bars=bars))
    return files, skipped


def _from_files(
    folder: Path, names: Sequence[str], broken: Mapping[str, str]
) -> tuple[list[PerformanceFile], list[str]]:
    files, skipped = [], []
    for name in names:
        if name in broken:
            skipped.append(f"{name}: {broken[name]}")
            continue
        try:
            song = read_midi(folder / name)
        except StageError as error:
            skipped.append(f"{name}: {error.why or error.what}")
            continue
        signature = song.time_signatures[0] if song.time_signatures else None
        meter = f"{signature.numerator}/{signature.denominator}" if signature else "4/4"
        quarters, *_ = _strokes(song)
        beats = song.grid.beats if song.grid else ()
        if not len(quarters) or len(beats) < 2:
            skipped.append(f"{name}: it has no drums (channel 10)")
        elif meter not in METERS:
            skipped.append(f"{name}: nothing is composed in {meter}")
        else:
            bpm = 60 / float(np.median(np.diff(beats)))
            bars = len(beats) / METERS[meter].beats_per_bar
            files.append(PerformanceFile(name, "", "", bpm, meter, bars))
    return files, skipped


def _defect(data: bytes) -> str:
    """Return what is wrong with a MIDI file's chunks; "" if nothing is."""
    if data[:4] == b"RIFF":
        return ""
    if data[:4] != b"MThd":
        return "it is no MIDI file"
    at = 0
    while at + 8 <= len(data):
        at += 8 + int.from_bytes(data[at + 4 : at + 8], "big")
    return "it is cut off" if at > len(data) else ""


def _strokes(song: MidiSong) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return quarter notes, the band's keys, and velocities (0 to 1) of a song's drum strokes, by time."""
    tracks = [track for track in song.tracks if track.channel == DRUM_CHANNEL]
    notes = sorted(note for track in tracks or song.tracks if tracks or len(song.tracks) == 1 for note in track.notes)
    notes = [note for note in notes if note.pitch in KIT_KEYS]
    tempo = song.tempo
    if not notes or tempo.ticks_per_quarter is None:
        return np.zeros(0), np.zeros(0, int), np.zeros(0)
    seconds = np.array([note.onset for note in notes])
    at = np.searchsorted(tempo.seconds, seconds, side="right") - 1
    ticks = tempo.ticks[at] + (seconds - tempo.seconds[at]) / tempo.seconds_per_tick[at]
    keys = np.array([KIT_KEYS[note.pitch] for note in notes])
    return ticks / tempo.ticks_per_quarter, keys, np.array([note.velocity / 127 for note in notes])


def _fit(beats: np.ndarray, meter: ScoreMeter) -> tuple[Feel, np.ndarray, np.ndarray, float]:
    """Return the feel whose grid of sixteenths is nearest to strokes, their places on paper, deviations, tightness."""
    straight = Feel(0.5, 1.0, 0.0)
    feels = [straight]
    if meter.steps_per_beat == 4:
        feels += [Feel(swing, unit, 0.0) for unit in (1.0, 0.5) for swing in _SWINGS]
    best = None
    for feel in feels:
        paper, deviation = _on_grid(beats, feel, meter.steps_per_beat)
        error = float(np.abs(deviation).mean())
        # A swung grid must be clearly nearer: it has one number more to fit with.
        if best is None or error < (0.92 if best[0] is straight else 1.0) * best[3]:
            best = (feel, paper, deviation, error)
    assert best is not None
    feel, paper, deviation, error = best
    return feel, paper, deviation, error * 4 * meter.steps_per_beat


def _on_grid(beats: np.ndarray, feel: Feel, steps_per_beat: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the nearest sixteenth of each beat on paper, and how far behind its swung place it is."""
    steps = round(feel.swing_unit * steps_per_beat)
    places = feel.warp(np.arange(steps) / steps_per_beat)
    places = np.append(places, feel.swing_unit)
    pair, place = np.divmod(beats, feel.swing_unit)
    nearest = np.abs(place[:, None] - places[None]).argmin(axis=1)
    return pair * feel.swing_unit + nearest / steps_per_beat, place - places[nearest]


def _bar_shift(beats: np.ndarray, keys: np.ndarray, velocities: np.ndarray) -> float:
    """Return the beats (0, 1 or 3) by which a recording in 4/4 began late: the backbeat tells, if it tells clearly."""

    def shares(of: np.ndarray) -> np.ndarray:
        return np.bincount(np.rint(beats[of]).astype(int) % 4, minlength=4) / max(int(of.sum()), 1)

    near = np.abs(beats - np.rint(beats)) < 0.15
    kick = shares((keys == KICK) & near)
    snare = shares(np.isin(keys, (SNARE, SIDE_STICK)) & (velocities > 0.4) & near)
    scores = [
        float(np.roll(kick, shift) @ (1, -0.5, 0.5, -0.5) + np.roll(snare, shift) @ (-1, 1, -0.3, 1))
        for shift in range(4)
    ]
    best = int(np.argmax(scores))
    return float(best) if best in (1, 3) and scores[best] > max(scores[0], scores[2]) + 0.9 else 0.0


def _thinned(bar: Sequence[PlayedStroke], manner: str) -> tuple[PlayedStroke, ...]:
    if manner == "out":
        return ()
    if manner == "hats":
        return tuple(stroke for stroke in bar if stroke.key in _LEADING)
    if manner == "no kick":
        return tuple(stroke for stroke in bar if stroke.key != KICK)
    if manner == "kick":
        return tuple(stroke for stroke in bar if stroke.key == KICK)
    if manner == "rim":
        return tuple(
            replace(stroke, key=SIDE_STICK) if stroke.key == SNARE else stroke
            for stroke in bar
            if stroke.key != SNARE or stroke.velocity > 0.4
        )
    return tuple(bar)


def _with_crash(bar: Sequence[PlayedStroke], rng: np.random.Generator, accent: float) -> tuple[PlayedStroke, ...]:
    """Return a bar with a crash on its first beat, together with what is struck there, unless it has one."""
    first = [stroke for stroke in bar if stroke.beat == 0]
    if not first or any(stroke.key in (CRASH, SECOND_CRASH) for stroke in first):
        return tuple(bar)
    strongest = max(first, key=lambda stroke: stroke.velocity)
    velocity = min(1.0, max(strongest.velocity, accent * float(rng.uniform(0.85, 1.05))))
    late = strongest.deviation + float(rng.normal(0, 0.004))
    crash = PlayedStroke(0.0, late, pick(rng, (CRASH, CRASH, SECOND_CRASH)), velocity)
    kept = [stroke for stroke in bar if not (stroke.beat == 0 and stroke.key in (CLOSED_HAT, OPEN_HAT, RIDE))]
    return (crash, *kept)


def _stretch(one: float, other: float) -> float:
    return max(one / other, other / one)


def _is_style(style: str, name: str) -> bool:
    """Say whether a style of Groove MIDI ("rock/halftime") is one of a family ("rock"), or begins as a finer name."""
    return style.startswith(name) if "/" in name else style.split("/")[0] == name


def _is_backbeat(style: str) -> bool:
    return style.split("/")[0] in _BACKBEAT
