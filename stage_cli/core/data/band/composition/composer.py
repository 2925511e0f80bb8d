"""The composer: a song from a seed and an index."""

from __future__ import annotations

import numpy as np

from stage_cli.core.data.band.composition.drumming import Drummer, hire, play_drums
from stage_cli.core.data.band.composition.form import drum_manner, sections
from stage_cli.core.data.band.composition.names import invent_names
from stage_cli.core.data.band.composition.passage import Passage
from stage_cli.core.data.band.composition.performance import FASTEST_BPM, SLOWEST_BPM, Feel, TempoMap, perform
from stage_cli.core.data.band.composition.players import hire_players, play
from stage_cli.core.data.band.composition.progressions import choose, settle
from stage_cli.core.data.band.composition.score import METERS, ChordSpan, Meter, Note, Part, Score, Section
from stage_cli.core.data.band.composition.styles import Style, styles
from stage_cli.core.data.band.composition.theory import Chord, Key, progression
from stage_cli.core.data.band.randomness import chance, generator, pick

_ELECTRONIC_KITS = ("electronic", "eighties")
# How often a song changes its tempo between sections, and how often a band plays without a click, by setting.
_TEMPO_CHANGES = {"never": 0.0, "some": 0.1, "always": 1.0}


def compose(seed: int, index: int, seconds: float, *, tempo_changes: str = "some") -> Score:
    """Return the `index`-th song of a seed, as far as `seconds`.

    The song for 20 s is the beginning of the song for 200 s: everything is drawn by name (song, section, player) and
    not in the order of playing.

    Args:
        seed: of the set, 0 or more.
        index: of the song, 0 or more.
        seconds: length of the excerpt; the song goes on as long as it takes.
        tempo_changes: "never", "some" or "always": songs whose tempo changes between sections.
    """
    key = (seed, index)
    rng = generator(*key, "song")
    style = pick(rng, styles(), [style.weight for style in styles()])
    meter = METERS[style.meter]
    bpm = _tempo(rng, style)
    song_key = Key(int(rng.integers(12)), pick(rng, style.modes))
    swing = float(rng.uniform(*style.swing))
    kit = pick(rng, style.kits)
    electronic = kit in _ELECTRONIC_KITS
    looseness = 0.0005 if electronic else float(rng.uniform(0.001, 0.009))
    feel = Feel(0.5 if swing < 0.515 else swing, style.swing_unit, looseness)
    title, artist = invent_names(generator(*key, "names"))
    lead_in = 0.0 if chance(rng, 0.4) else float(rng.uniform(0.05, 0.8))
    drift = float(rng.uniform(0.001, 0.004)) if not electronic and chance(rng, 0.2) else 0.0
    changing = chance(rng, _TEMPO_CHANGES[tempo_changes])
    drummer = hire(key, style, meter, electronic=electronic)
    harmony = _harmony(generator(*key, "harmony"), style, song_key)
    players = hire_players(key, style)
    tempo = TempoMap(bpm, meter, lead_in, 0.0 if tempo_changes == "never" else drift, generator(*key, "drift"))

    played: list[Section] = []
    chords: list[ChordSpan] = []
    notes: dict[str, list[Note]] = {"drums": [], **{player.name: [] for player in players}}
    cycle = len(harmony["verse"])
    following = sections(key, style, cycle, meter)
    section = next(following)
    while tempo.times[-1] < seconds:
        number, after = len(played), next(following)
        tempo.add(section, _factor(generator(*key, "tempo", number), changing and number > 0))
        spans = _chord_spans(harmony.get(section.kind, harmony["verse"]), section, meter)
        passage = Passage(section, meter, song_key, spans, drummer.groove(section.kind))
        manner = drum_manner(generator(*key, "drums", section.kind), section.kind)
        events = play_drums(drummer, section, manner, after, generator(*key, "drums", number))
        tight = Feel(feel.swing, feel.swing_unit, looseness * 0.6)
        notes["drums"] += perform(events, tempo.times, tight, 0.0, generator(*key, "timing", "drums", number))
        for player in players:
            events = play(player, passage, key, number)
            timing = generator(*key, "timing", player.name, number)
            notes[player.name] += perform(events, tempo.times, feel, player.lag, timing)
        played.append(section)
        chords += spans
        section = after

    parts = [Part("drums", "drums", "full acoustic drumkit", "drums", _by_onset(notes["drums"]), kit=kit)]
    for player in players:
        sounds = player.sounds
        part = Part(player.name, sounds.stem, sounds.track_type, player.instrument, _by_onset(notes[player.name]))
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
        groove=_groove_of(drummer),
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


def _harmony(rng: np.random.Generator, style: Style, key: Key) -> dict[str, list[list[Chord]]]:
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


def _chord_spans(bars: list[list[Chord]], section: Section, meter: Meter) -> tuple[ChordSpan, ...]:
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


def _by_onset(notes: list[Note]) -> tuple[Note, ...]:
    return tuple(sorted(notes, key=lambda note: (note.onset, note.pitch)))


def _groove_of(drummer: Drummer) -> frozenset[tuple[int, int]]:
    return drummer.grooves["verse"].signature
