"""Bass lines: what a bass plays under a chord, and when."""

from __future__ import annotations

import numpy as np

from stage_cli.core.band.grooves import Passage
from stage_cli.core.band.randomness import chance, pick
from stage_cli.core.band.score import Event
from stage_cli.core.band.theory import Chord, nearest_pitch

_Places = list[tuple[float, float]]  # (beat in the bar, beats)

_RHYTHMS: dict[str, tuple[str, ...]] = {
    "roots": ("X-X-X-X-X-X-X-X-", "X---X---X---X---", "X-X-X-X-X-X-X-X-", "X-xxX-xxX-xxX-xx", "X--X--X-X--X--X-"),
    "octaves": ("X-x-X-x-X-x-X-x-", "X-xxX-xxX-xxX-xx", "--X---X---X---X-", "X--xX--xX--xX--x"),
    "pulses": ("XXXXXXXXXXXXXXXX", "-XXX-XXX-XXX-XXX", "X-X-X-X-X-X-X-X-"),
    "offbeats": ("--X---X---X---X-", "--X---X---X--XX-", "--XX--XX--XX--XX", "--X--XX---X--X-X"),
    "syncopated": ("X--X--X---X--X--", "X-----X--X--X---", "---X--X---X--X--", "X--X---X--X-----", "X-X---X---XX----"),
    "gallop": ("X-XXX-XXX-XXX-XX", "XX-XXX-XXX-XXX-X"),
    "sub": ("X-----------o---", "X---------X-----", "X-----X---------", "X--------------o"),
    "reggae": (
        "X-----X-X---X---",
        "--X-X---X-X-----",
        "X---X-X-----X-X-",
        "X-X---X-X-------",
        "----X-X-X---X---",
        "X-----XXX-X-----",
    ),
    "bossa": ("X-----X-X-----X-", "X-----X-X-------", "X---------X---X-"),
    "tumbao": ("------X-----X---", "X-----X-----X---"),
    "boogie": ("X-X-X-X-X-X-X-X-",),
}

_STEADY = ("walking", "boogie", "locked")
"""Manners whose rhythm does not bend to the kick: they keep the beat, or are the kick's already."""


def play_bass(
    manner: str, passage: Passage, lowest: int, taste: np.random.Generator, rng: np.random.Generator
) -> list[Event]:
    """Return a section's bass line.

    Args:
        manner: "roots", "root fifth", "octaves", "walking", "locked", "sustained", …; see the code.
        passage: the section.
        lowest: MIDI note that the instrument does not go below.
        taste: decides the pattern; the same for every section of a kind.
        rng: decides what differs from bar to bar.
    """
    rhythm = _choose_rhythm(manner, passage, taste)
    fifths = float(taste.uniform(0.0, 0.5))
    approach = float(taste.uniform(0.1, 0.7))
    staccato = float(taste.uniform(0.45, 0.97))
    # Drawn after all else, so that songs without a human drummer are what they were.
    follow = float(taste.uniform(0.5, 0.9)) if passage.timing is not None and manner not in _STEADY else 0.0
    events: list[Event] = []
    previous = lowest + 8
    for bar, first in passage.bars():
        places = _places(manner, rhythm, passage, bar, first)
        if follow:
            places = _with_kick(places, passage, bar, follow, rng)
        for number, (at, beats) in enumerate(places):
            beat = first + at
            tones = passage.chord_at(beat)
            root = _root(tones, lowest)
            is_last = number == len(places) - 1
            following = passage.next_chord(beat)
            changes = is_last and following.root != tones.root
            pitch = _pitch(
                manner, tones, following, root, number, len(places), previous, changes, fifths, approach, rng
            )
            previous = pitch
            strong = at == int(at)
            velocity = (0.85 if number == 0 else 0.75 if strong else 0.68) * passage.loudness
            long = manner in ("sustained", "sub", "root fifth", "walking", "bossa", "tumbao")
            length = beats * (max(staccato, 0.88) if long else staccato)
            events.append(Event(beat, max(length, 0.1), pitch, float(np.clip(velocity + rng.normal(0, 0.04), 0.2, 1))))
    return events


def _choose_rhythm(manner: str, passage: Passage, taste: np.random.Generator) -> str:
    steps = passage.meter.steps_per_bar
    if manner == "locked":
        return ""
    options = _RHYTHMS.get(manner)
    if options is None:
        return ""
    pattern = pick(taste, options)
    if steps == 12:
        if passage.meter.beats_per_bar == 3:
            return pattern[:12]
        return pick(taste, ("X-X-X-X-X-X-", "X---X-X---X-", "X-----X-----", "X-----X---X-"))
    return pattern


def _places(manner: str, rhythm: str, passage: Passage, bar: int, first: float) -> _Places:
    meter = passage.meter
    beats = float(meter.beats_per_bar)
    if rhythm:
        starts = [step / meter.steps_per_beat for step, symbol in enumerate(rhythm) if symbol in "Xx"]
    elif manner == "locked":
        starts = sorted({0.0, *passage.kick_beats(bar)})
    elif manner == "walking":
        starts = [float(beat) for beat in range(meter.beats_per_bar)]
    elif manner == "root fifth":
        starts = [0.0, beats / 2] if meter.beats_per_bar != 3 else [0.0, 2.0] if bar % 2 else [0.0]
    else:  # sustained
        starts = [0.0]
    # A chord that changes within the bar is met on its first beat.
    if manner in ("sustained", "locked", "root fifth", "sub"):
        starts = sorted({*starts, *(s.beat - first for s in passage.chords if first < s.beat < first + beats)})
    ends = [*starts[1:], beats]
    if not starts:
        return []
    return [(start, end - start) for start, end in zip(starts, ends, strict=True)]


def _with_kick(places: _Places, passage: Passage, bar: int, follow: float, rng: np.random.Generator) -> _Places:
    """Return a bar's places drawn towards the kick: most of its strokes are joined, some others left out."""
    kicks = passage.kick_beats(bar)
    starts = {start for start, _ in places if start == 0 or start in kicks or not chance(rng, 0.9 * follow)}
    starts |= {kick for kick in kicks if chance(rng, follow)}
    if not starts:
        return places
    ordered = sorted(starts)
    ends = [*ordered[1:], float(passage.meter.beats_per_bar)]
    return [(start, end - start) for start, end in zip(ordered, ends, strict=True)]


def _pitch(
    manner: str,
    tones: Chord,
    following: Chord,
    root: int,
    number: int,
    count: int,
    previous: int,
    changes: bool,
    fifths: float,
    approach: float,
    rng: np.random.Generator,
) -> int:
    fifth = root + tones.fifth
    if manner == "walking":
        return _walk(tones, following, root, number, count, previous, changes, rng)
    if manner == "root fifth":
        return root if number % 2 == 0 else fifth - 12 if fifth - 12 >= root - 6 else fifth
    if manner == "octaves":
        return root if number % 2 == 0 else root + 12
    if manner == "boogie":
        figure = (0, 0, tones.fifth, tones.fifth, 9, 9, tones.fifth, tones.fifth)
        return root + figure[number % 8]
    if manner in ("bossa", "tumbao"):
        if manner == "tumbao" and number == count - 1:
            return nearest_pitch(following.root, root)
        return root if number % 2 == 0 else fifth
    if manner == "reggae" and number > 0:
        return root + int(pick(rng, (0, 0, tones.third, tones.fifth, tones.fifth - 12)))
    if changes and manner in ("locked", "roots", "syncopated") and number > 0 and chance(rng, approach):
        target = nearest_pitch(following.root, root)
        return target + int(pick(rng, (-1, 1, -2, 2)))
    if number > 0 and manner in ("locked", "syncopated") and chance(rng, fifths):
        return int(pick(rng, (fifth, root + 12, fifth - 12, root + 12)))
    return root


def _walk(
    tones: Chord,
    following: Chord,
    root: int,
    number: int,
    count: int,
    previous: int,
    changes: bool,
    rng: np.random.Generator,
) -> int:
    """Return a walking bass's next note: the root first, a step towards the next chord last, chord tones between."""
    if number == 0:
        return root
    if number == count - 1 and changes:
        target = nearest_pitch(following.root, previous)
        return target + int(pick(rng, (-1, 1, 2, -2)))
    options = [root + interval for interval in (0, tones.third, tones.fifth, 9, 12)]
    near = [pitch for pitch in options if 0 < abs(pitch - previous) <= 5]
    return pick(rng, near or options)


def _root(tones: Chord, lowest: int) -> int:
    """Return the chord's root in the bass's lower octave."""
    return lowest + (tones.root - lowest) % 12
