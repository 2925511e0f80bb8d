"""The composer: a song from a seed and an index, by players who each have an instrument and a manner."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from stage_cli.core.band.bass import play_bass
from stage_cli.core.band.comping import (
    RHYTHMS,
    follow_kick,
    play_arpeggio,
    play_chords,
    play_oom_pah,
    play_power_chords,
)
from stage_cli.core.band.drumming import hire, play_drums, play_percussion
from stage_cli.core.band.grooves import Passage, lean_on_drums
from stage_cli.core.band.instruments import INSTRUMENTS, BandInstrument
from stage_cli.core.band.melody import play_answers, play_melody, play_riff
from stage_cli.core.band.performances import DrumLibrary, strokes_to_notes
from stage_cli.core.band.randomness import chance, generator, pick
from stage_cli.core.band.score import (
    FASTEST_BPM,
    METERS,
    SLOWEST_BPM,
    ChordSpan,
    Event,
    Feel,
    Score,
    ScoreMeter,
    ScoreNote,
    ScorePart,
    ScoreTempo,
    Section,
    perform,
)
from stage_cli.core.band.styles import Role, Style, drum_manner, invent_names, plays, sections, styles
from stage_cli.core.band.theory import Chord, ScoreKey, choose, progression, settle

_DRIVEN = ("crunch guitar", "distorted guitar")
_CHORD_ROLES = ("rhythm guitar", "keys", "pad")
_TUNES = ("song", "tune", "line")
_CENTERS = {
    "guitar": 57,
    "piano": 60,
    "other_keys": 61,
    "bowed_strings": 64,
    "wind": 64,
    "vocals": 64,
    "other_plucked": 66,
}


@dataclass(frozen=True)
class BandPlayer:
    """One player of a song, or one take of a player who is recorded twice."""

    name: str
    role: str
    instrument: str
    manner: str
    late_entry: float
    level: float
    pan: float
    lag: float
    leads: bool = False

    @property
    def sounds(self) -> BandInstrument:
        """What is known of the instrument."""
        return INSTRUMENTS[self.instrument]


def hire_players(key: tuple[int | str, ...], style: Style) -> list[BandPlayer]:
    """Return a song's players, with who stands where and how loud. There is always someone who plays chords."""
    present = {role.name for role in style.roles if chance(generator(*key, "present", role.name), role.probability)}
    harmony = [role for role in style.roles if role.name in _CHORD_ROLES]
    if present.isdisjoint(role.name for role in harmony):
        present.add(max(harmony, key=lambda role: role.probability).name)
    leader = next((role.name for role in harmony if role.name in present), "")
    players = []
    for role in style.roles:
        if role.name not in present:
            continue
        rng = generator(*key, "player", role.name)
        instrument, manner = pick(rng, role.instruments), pick(rng, role.manners)
        level = float(np.clip(rng.normal(0, 2.0), -5, 4))
        lag = float(rng.normal(0, 0.003))
        leads = role.name == leader
        player = BandPlayer(
            role.name, role.name, instrument, manner, role.late_entry, level, _pan(rng, role), lag, leads
        )
        if instrument in _DRIVEN and role.name == "rhythm guitar" and chance(rng, 0.6):
            players.append(replace(player, level=level - 2, pan=-0.7))
            player = replace(player, name="rhythm guitar, second take", level=level - 2, pan=0.7, lag=-lag)
        players.append(player)
    return players


def play(player: BandPlayer, passage: Passage, song: tuple[int | str, ...], number: int) -> list[Event]:
    """Return what a player plays in the `number`-th section of the song that `song` is the key of.

    The pattern belongs to the kind of section and so comes back with it; small variations belong to the section.
    """
    kind = passage.section.kind
    like = "verse" if kind in ("intro", "outro", "pre-chorus", "break") else kind
    if not plays(
        generator(*song, "presence", player.role, kind), player.role, kind, player.late_entry, leads=player.leads
    ):
        return []
    # Players often keep their pattern in the chorus.
    keep = generator(*song, "keep", player.role)
    if chance(keep, 0.45) and player.role not in ("singer", "solo"):
        like = "verse"
    taste = generator(*song, "taste", player.role, like)
    rng = generator(*song, "section", player.name, number)
    return _play(player, passage, taste, rng)


def _play(player: BandPlayer, passage: Passage, taste: np.random.Generator, rng: np.random.Generator) -> list[Event]:
    sounds, manner = player.sounds, player.manner
    low, high = sounds.lowest, sounds.highest
    if sounds.stem == "bass":
        return play_bass(manner, passage, low, taste, rng)
    if player.instrument == "percussion":
        return play_percussion(manner, passage, taste, rng)
    if player.role == "singer":
        density = float(taste.uniform(0.4, 0.85))
        return play_melody(passage, low + 2, high - 3, density, taste, rng, pentatonic=0.7)
    if manner in _TUNES:
        density = {"tune": 0.85, "line": 0.3}.get(manner, float(taste.uniform(0.4, 0.75)))
        return play_melody(passage, low + 3, high - 4, density, taste, rng, pentatonic=0.3)
    if manner == "answers":
        return play_answers(passage, low + 3, high - 3, taste, rng)
    if manner == "riff":
        top = low + 19 if player.instrument in _DRIVEN else high - 6
        return play_riff(passage, max(low, top - 19), top, taste, rng)
    if player.instrument in _DRIVEN:
        return play_power_chords("chugs" if manner in ("strum", "arpeggio") else manner, passage, low, taste, rng)
    if manner in ("chugs", "boogie", "gallop"):
        return play_power_chords(manner, passage, max(low, 40), taste, rng)
    center = _CENTERS.get(sounds.stem, 62) + int(
        generator(player.name, player.instrument, passage.key.tonic).integers(-3, 6)
    )
    if manner == "oom-pah":
        return play_oom_pah(passage, center, rng)
    if manner in ("arpeggio", "broken", "rolls"):
        return play_arpeggio(manner, passage, center, taste, rng)
    strummed = sounds.stem in ("guitar", "other_plucked")
    spread = float(taste.uniform(0.008, 0.03)) if strummed else 0.0
    if manner == "sixteenths":
        spread *= 0.4
    events = play_chords(manner, passage, center, 4 if not strummed else 5, spread, taste, rng)
    if sounds.stem == "piano" and manner in ("blocks", "pulses", "held"):
        events += _left_hand(passage)
    return events


def _left_hand(passage: Passage) -> list[Event]:
    """Return a pianist's left hand: roots in octaves, as long as the chord."""
    events = []
    for span in passage.chords:
        root = 36 + span.chord.root
        events += [Event(span.beat, span.beats * 0.95, note, 0.55 * passage.loudness) for note in (root, root + 12)]
    return events


def _pan(rng: np.random.Generator, role: Role) -> float:
    if role.name in ("bass", "singer"):
        return float(rng.normal(0, 0.04))
    if role.name == "solo":
        return float(rng.normal(0, 0.2))
    return float(np.clip(rng.normal(0, 0.45), -0.85, 0.85))


_ELECTRONIC_KITS = ("electronic", "eighties")
_INVENTED = 0.3
"""Share of songs whose drums are invented although performances may fit them."""
_LOOSEST_WITH_DRUMMER = 0.004
"""Seconds; the drummer's own timing is the larger part of the band's."""
# How often a song changes its tempo between sections, and how often a band plays without a click, by setting.
_TEMPO_CHANGES = {"never": 0.0, "some": 0.1, "always": 1.0}


def compose(
    seed: int, index: int, seconds: float, *, tempo_changes: str = "some", drummers: DrumLibrary | None = None
) -> Score:
    """Return the `index`-th song of a seed, as far as `seconds`.

    The song for 20 s is the beginning of the song for 200 s: everything is drawn by name (song, section, player) and
    not in the order of playing.

    Args:
        seed: of the set, 0 or more.
        index: of the song, 0 or more.
        seconds: length of the excerpt; the song goes on as long as it takes.
        tempo_changes: "never", "some" or "always": songs whose tempo changes between sections.
        drummers: performances that are played where one fits the song's style, meter and tempo, in seven of ten such
            songs; the band swings as its drummer does and leans on the kick. Without them all grooves are invented.
    """
    key = (seed, index)
    rng = generator(*key, "song")
    style = pick(rng, styles(), [style.weight for style in styles()])
    meter = METERS[style.meter]
    bpm = _tempo(rng, style)
    song_key = ScoreKey(int(rng.integers(12)), pick(rng, style.modes))
    swing = float(rng.uniform(*style.swing))
    kit = pick(rng, style.kits)
    electronic = kit in _ELECTRONIC_KITS
    looseness = 0.0005 if electronic else float(rng.uniform(0.001, 0.009))
    feel = Feel(0.5 if swing < 0.515 else swing, style.swing_unit, looseness)
    performer = None
    if drummers is not None and not electronic and not chance(generator(*key, "invented drums"), _INVENTED):
        performer = drummers.hire((*key, "performer"), style.name, meter, bpm)
    if performer is not None:
        feel = Feel(performer.feel.swing, performer.feel.swing_unit, min(looseness, _LOOSEST_WITH_DRUMMER))
    title, artist = invent_names(generator(*key, "names"))
    lead_in = 0.0 if chance(rng, 0.4) else float(rng.uniform(0.05, 0.8))
    drift = float(rng.uniform(0.001, 0.004)) if not electronic and chance(rng, 0.2) else 0.0
    changing = chance(rng, _TEMPO_CHANGES[tempo_changes])
    drummer = hire(key, style, meter, electronic=electronic)
    harmony = _harmony(generator(*key, "harmony"), style, song_key)
    players = hire_players(key, style)
    tempo = ScoreTempo(bpm, meter, lead_in, 0.0 if tempo_changes == "never" else drift, generator(*key, "drift"))

    played: list[Section] = []
    chords: list[ChordSpan] = []
    notes: dict[str, list[ScoreNote]] = {"drums": [], **{player.name: [] for player in players}}
    cycle = len(harmony["verse"])
    following = sections(key, style, cycle, meter)
    section = next(following)
    groove = drummer.groove("verse")
    while tempo.times[-1] < seconds:
        number, after = len(played), next(following)
        factor = _factor(generator(*key, "tempo", number), changing and number > 0)
        tempo.add(section, factor)
        spans = _chord_spans(harmony.get(section.kind, harmony["verse"]), section, meter)
        passage = Passage(section, meter, song_key, spans, drummer.groove(section.kind))
        manner = drum_manner(generator(*key, "drums", section.kind), section.kind)
        if performer is not None and manner != "build" and performer.plays_at(bpm * factor):
            performed = performer.play(section, after, manner, number)
            notes["drums"] += strokes_to_notes(performed.strokes, tempo.times, performer.feel)
            passage = replace(passage, groove=performed.groove, timing=performed.timing)
            groove = performed.groove if not played else groove
        else:
            events = play_drums(drummer, section, manner, after, generator(*key, "drums", number))
            tight = Feel(feel.swing, feel.swing_unit, looseness * 0.6)
            notes["drums"] += perform(events, tempo.times, tight, 0.0, generator(*key, "timing", "drums", number))
        beat = (tempo.times[-1] - tempo.times[-2]) if passage.timing else 0.0
        for player in players:
            events = play(player, passage, key, number)
            if passage.timing is not None:
                events = _with_drums(player, events, passage, beat, generator(*key, "lean", player.name, number))
            timing = generator(*key, "timing", player.name, number)
            notes[player.name] += perform(events, tempo.times, feel, player.lag, timing)
        played.append(section)
        chords += spans
        section = after

    level = 0.0 if performer is None else performer.level
    drums = _by_onset(notes["drums"])
    parts = [ScorePart("drums", "drums", "full acoustic drumkit", "drums", drums, level=level, kit=kit)]
    for player in players:
        sounds = player.sounds
        part = ScorePart(player.name, sounds.stem, sounds.track_type, player.instrument, _by_onset(notes[player.name]))
        parts.append(part.placed(player.level, player.pan))
    score = Score(
        title=title,
        artist=artist,
        style=style.name,
        genre=style.genre,
        meter=meter,
        key=song_key,
        swing=feel.swing,
        swing_unit=feel.swing_unit,
        bpm=bpm,
        beat_times=tuple(tempo.times),
        sections=tuple(played),
        chords=tuple(chords),
        parts=tuple(parts),
        groove=groove.signature,
        drummer="" if performer is None else performer.main.file.path,
    )
    return score.crop(seconds)


def _tempo(rng: np.random.Generator, style: Style) -> float:
    low, high = style.tempo
    middle = (low + high) / 2
    # Half of the songs near the middle of the style's range; half of them at whole numbers, as computers suggest.
    bpm = float(rng.uniform(low, high)) if chance(rng, 0.5) else float(rng.triangular(low, middle, high))
    bpm = round(bpm) if chance(rng, 0.5) else round(bpm, 2)
    return float(min(max(bpm, SLOWEST_BPM), FASTEST_BPM))


def _factor(rng: np.random.Generator, changes: bool) -> float:
    """Return a section's tempo relative to the song's."""
    if not changes or chance(rng, 0.35):
        return 1.0
    return float(pick(rng, (0.85, 0.9, 0.94, 0.97, 1.03, 1.06, 1.1, 1.15)))


def _harmony(rng: np.random.Generator, style: Style, key: ScoreKey) -> dict[str, list[list[Chord]]]:
    """Return the chords of each kind of section, bar by bar."""

    def one() -> list[list[Chord]]:
        bars = progression(choose(rng, style.harmony, key.mode, style.freedom), key.tonic)
        return bars if style.form == "blues" or style.harmony == "jazz" else settle(rng, bars, home)

    home = Chord(key.tonic, "5" if style.harmony == "metal" else "min" if key.scale == "minor" else "maj")

    verse = one()
    chorus = verse if style.form == "blues" or chance(rng, 0.3) else one()
    bridge = verse if style.form == "blues" else one()
    harmony = {"verse": verse, "chorus": chorus, "drop": chorus, "solo": verse if chance(rng, 0.5) else chorus}
    if chance(rng, 0.25):  # the chords of a slow song's verse last two bars each
        harmony["verse"] = (
            [bar for bar in verse for _ in range(2)] if len(verse) <= 4 and style.form != "blues" else verse
        )
    return harmony | {"bridge": bridge, "build": chorus, "outro": chorus, "pre-chorus": bridge}


def _chord_spans(bars: list[list[Chord]], section: Section, meter: ScoreMeter) -> tuple[ChordSpan, ...]:
    spans = []
    for bar in range(section.bars):
        chords = bars[bar % len(bars)]
        first = float((section.first_bar + bar) * meter.beats_per_bar)
        # Two chords share a bar: of 3/4 the first has two beats.
        half = float((meter.beats_per_bar + 1) // 2) if len(chords) > 1 else float(meter.beats_per_bar)
        spans.append(ChordSpan(first, half, chords[0]))
        if len(chords) > 1:
            spans.append(ChordSpan(first + half, meter.beats_per_bar - half, chords[1]))
    return tuple(spans)


def _by_onset(notes: list[ScoreNote]) -> tuple[ScoreNote, ...]:
    return tuple(sorted(notes, key=lambda note: (note.onset, note.pitch)))


def _with_drums(
    player: BandPlayer, events: list[Event], passage: Passage, beat: float, rng: np.random.Generator
) -> list[Event]:
    """Return a player's notes as someone plays them who listens to a human drummer; `beat` is in seconds."""
    if player.sounds.stem == "bass":
        return lean_on_drums(events, passage, beat, on_kick=0.95, elsewhere=0.6)
    if player.role in _CHORD_ROLES:
        if player.manner in RHYTHMS:
            events = follow_kick(events, passage, rng)
        return lean_on_drums(events, passage, beat, on_kick=0.7, elsewhere=0.5)
    return lean_on_drums(events, passage, beat, on_kick=0.4, elsewhere=0.4)
