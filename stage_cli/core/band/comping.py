"""Comping: how guitars, keys, strings and horns play chords behind a melody."""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from stage_cli.core.band.grooves import Passage
from stage_cli.core.band.randomness import chance, pick
from stage_cli.core.band.score import Event
from stage_cli.core.band.theory import Chord, voicing

# X strong, x weaker, m muted (short), by sixteenths of 4/4; the first twelve serve for 3/4.
RHYTHMS: dict[str, tuple[str, ...]] = {
    "blocks": (
        "X-------X-------",
        "X---------------",
        "X-----X---X-----",
        "X---x---X---x---",
        "X-----X---------",
        "X--X------X--X--",
    ),
    "pulses": ("X-x-X-x-X-x-X-x-", "X---x---x---x---"),
    "offbeats": ("--X---X---X---X-", "----X-------X---", "--X---X---X--XX-"),
    "skank": ("----X-------X---", "--X---X---X---X-", "--Xm--Xm--Xm--Xm", "----Xm------Xm--"),
    "bubble": ("--XX--XX--XX--XX", "-xX--xX--xX--xX-", "--Xx--Xx--Xx--Xx"),
    "charleston": ("X-----X---------", "X-----x-------X-", "------X-----X---", "--X-----X-----X-", "X---------X-----"),
    "stabs": (
        "X--X--X---------",
        "---X--X---X--X--",
        "X-----X--X------",
        "--X--X--X--X----",
        "X--X--X--X--X-X-",
        "X-------------X-",
        "------X---X-----",
    ),
    "sixteenths": ("XmxmXmxXmmXmxmXm", "mmXmmmXmmXmmXmmm", "X-mxm-XmX-mxmmXm", "xmXxmXxmXxmXxmXm", "--Xm--XmmmX---Xm"),
    "strum": (
        "X---X-xxX-x-X-xx",
        "X---X-x---x-X-x-",
        "X-x-X-x-X-x-X-x-",
        "X---X---X-x-X-x-",
        "X-xxx-xxX-xxx-xx",
        "X-------X-x---x-",
    ),
    "quarters": ("X---X---X---X---",),
    "boom-chick": ("----X-------X---", "----X-x-----X-x-"),
    "bossa": ("X--X--X---X--X--", "X-xX--X-X-xX--X-", "X-----X-X-----X-", "X--X---X--X---X-"),
    "montuno": ("X-XX-XX-XX-XX-X-", "X-X-XX-X-XX-X-X-", "X--X-XX--X-X-XX-"),
    "hits": ("X--X------------", "------X---X-----", "X-----------X-X-", "----------X--X--", "--X---X-X-------"),
}
_IN_SIX: dict[str, tuple[str, ...]] = {
    "pulses": ("X-x-x-X-x-x-",),
    "strum": ("X-x-xxX-x-xx", "X---x-X---x-", "X---xxX---xx"),
    "blocks": ("X-----X-----", "X-----------"),
    "oom-pah": ("--x-x---x-x-",),
}
_SHORT = {"skank", "stabs", "sixteenths", "offbeats", "bubble", "boom-chick", "oom-pah", "hits", "charleston"}


def play_chords(
    manner: str,
    passage: Passage,
    center: int,
    voices: int,
    spread: float,
    taste: np.random.Generator,
    rng: np.random.Generator,
) -> list[Event]:
    """Return a section's chords in a rhythm.

    Args:
        manner: a rhythm of the tables above, or "held" (long notes, tied over equal chords).
        passage: the section.
        center: MIDI note around which the chords lie.
        voices: notes in a chord.
        spread: seconds from the first to the last note of a strummed chord.
        taste: decides the pattern; the same for every section of a kind.
        rng: decides what differs from bar to bar.
    """
    if manner == "held":
        return _held(passage, center, voices, rng)
    pattern = _pattern(manner, passage, taste)
    short = manner in _SHORT
    length = float(taste.uniform(0.25, 0.6)) if short else float(taste.uniform(0.8, 1.0))
    push = chance(taste, 0.25) and not short
    events: list[Event] = []
    previous: tuple[int, ...] = ()
    places = list(passage.grid(pattern))
    end = passage.first_beat + passage.beats
    step = 1 / passage.meter.steps_per_beat
    for number, (beat, symbol) in enumerate(places):
        if symbol == "x" and chance(rng, 0.12):
            continue
        after = places[number + 1][0] if number + 1 < len(places) else end
        chord = passage.chord_at(beat + (step * 2 if push and number % 4 == 3 else 0))
        previous = voicing(chord, previous, center, voices)
        beats = min(after - beat, 0.25 if symbol == "m" else max(length, step) if short else (after - beat) * length)
        velocity = {"X": 0.8, "x": 0.62, "m": 0.3}[symbol] * passage.loudness
        down = round(beat / step) % 4 in (0, 2)
        events += _strum(
            beat, beats, previous if symbol != "m" else previous[-2:], velocity, spread if down else -spread, rng
        )
    return events


def play_power_chords(
    manner: str, passage: Passage, lowest: int, taste: np.random.Generator, rng: np.random.Generator
) -> list[Event]:
    """Return a section of driven guitar: "chugs" (muted eighths with accents), "gallop", "held" or "boogie"."""
    six = passage.meter.beats_per_bar == 2
    if manner == "boogie":
        pattern = "X-X-X-X-X-X-X-X-"
    elif manner == "gallop" and not six:
        pattern = pick(taste, ("M-mmM-mmM-mmM-mm", "M-mmM-mmM-mmX-X-", "MmmMmmMmMmmMmmX-", "M-mmM-M-M-mmX---"))
    elif six:
        pattern = pick(taste, ("X-m-m-X-m-m-", "X-----------", "X-----X---X-"))
    else:
        pattern = pick(
            taste,
            (
                "X-m-m-m-X-m-m-m-",
                "X-X-X-X-X-X-X-X-",
                "X-m-m-X-m-m-X-m-",
                "M-m-X-m-m-X-m-X-",
                "X---m-m-X---m-m-",
                "X-----X-----X---",
                "MmmmX-mmMmmmX-X-",
            ),
        )
    if manner == "held":
        pattern = "X" + "-" * (passage.meter.steps_per_bar - 1)
    loud = passage.section.kind in ("chorus", "drop", "solo") and manner == "chugs" and chance(taste, 0.6)
    events: list[Event] = []
    places = list(passage.grid(pattern))
    end = passage.first_beat + passage.beats
    for number, (beat, symbol) in enumerate(places):
        after = places[number + 1][0] if number + 1 < len(places) else end
        chord = passage.chord_at(beat)
        root = lowest + (chord.root - lowest) % 12
        muted = symbol in "Mm" and not loud
        if manner == "boogie":
            notes = [root, root + (chord.fifth if number % 4 < 2 else 9)]
        else:
            notes = [root, root + chord.fifth] if muted else [root, root + chord.fifth, root + 12]
        beats = min(after - beat, 0.22) if muted else (after - beat) * 0.96
        velocity = (0.85 if symbol in "XM" else 0.65) * passage.loudness
        events += _strum(beat, beats, notes, velocity, 0.006, rng)
    return events


def play_arpeggio(
    manner: str, passage: Passage, center: int, taste: np.random.Generator, rng: np.random.Generator
) -> list[Event]:
    """Return broken chords: "arpeggio" (a fixed figure), "broken" (low note first, ringing), "rolls" (sixteenths)."""
    meter = passage.meter
    step = 1 / meter.steps_per_beat
    every = (
        1
        if manner == "rolls"
        else 2
        if manner == "broken"
        else int(pick(taste, (1, 2, 2, 3 if meter.steps_per_bar % 3 else 2)))
    )
    length = int(pick(taste, (4, 6, 8, 3)))
    figure = [int(value) for value in taste.integers(0, 5, size=length)]
    if chance(taste, 0.4):
        figure = pick(taste, ([0, 1, 2, 3], [0, 2, 1, 2], [0, 1, 2, 3, 2, 1], [3, 2, 1, 0], [0, 2, 3, 2, 4, 3, 2, 1]))
    rests = {index for index in range(1, len(figure)) if chance(taste, 0.12)}
    ring = float(taste.uniform(0.9, 3.0)) if manner != "arpeggio" else float(taste.uniform(0.5, 2.0))
    restart = chance(taste, 0.7)
    events: list[Event] = []
    previous: tuple[int, ...] = ()
    position = 0
    end = passage.first_beat + passage.beats
    for _, first in passage.bars():
        position = 0 if restart else position
        for at in range(0, meter.steps_per_bar, every):
            beat = first + at * step
            chord = passage.chord_at(beat)
            previous = voicing(chord, previous, center, 4)
            index = position % len(figure)
            position += 1
            if index in rests:
                continue
            degree = figure[index]
            notes = sorted(previous)
            pitch = notes[degree % len(notes)] + 12 * (degree // len(notes))
            if manner == "broken" and at == 0:
                pitch = center - 19 + (chord.root - (center - 19)) % 12
            velocity = (0.75 if at == 0 else 0.6) * passage.loudness + rng.normal(0, 0.03)
            beats = min(every * step * ring, end - beat)
            events.append(Event(beat, beats, pitch, float(np.clip(velocity, 0.15, 1))))
    return events


def play_oom_pah(passage: Passage, center: int, rng: np.random.Generator) -> list[Event]:
    """Return a waltz's second and third beats (a jig's second and third eighths)."""
    pattern = "----X---x---" if passage.meter.beats_per_bar == 3 else "--X-x---X-x-"
    events: list[Event] = []
    previous: tuple[int, ...] = ()
    for beat, symbol in passage.grid(pattern):
        previous = voicing(passage.chord_at(beat), previous, center, 3)
        events += _strum(beat, 0.5, previous, (0.7 if symbol == "X" else 0.6) * passage.loudness, 0.012, rng)
    return events


def follow_kick(events: Sequence[Event], passage: Passage, rng: np.random.Generator) -> list[Event]:
    """Return a section's chords drawn towards the kick: louder on it, struck again where it plays, thinner elsewhere.

    Args:
        events: chords in a rhythm; notes of one chord share their beat.
        passage: the section, with a human drummer's timing.
        rng: decides which strokes come and go.
    """
    if passage.timing is None or not events:
        return list(events)
    kicks = passage.timing.kicks
    chords: dict[float, list[Event]] = {}
    for event in events:
        chords.setdefault(round(event.beat, 4), []).append(event)
    starts = sorted(chords)
    played: list[Event] = []
    for beat, notes in chords.items():
        on_kick = beat in kicks
        weak = beat not in passage.timing.strokes or notes[0].velocity < 0.5
        if not on_kick and weak and chance(rng, 0.4):
            continue
        factor = 1.08 if on_kick else 0.97
        played += [replace(note, velocity=min(1.0, note.velocity * factor)) for note in notes]
    for kick in sorted(kicks):
        at = bisect.bisect_right(starts, kick) - 1
        if kick in chords or at < 0 or not chance(rng, 0.3):
            continue
        before = chords[starts[at]]
        after = starts[at + 1] if at + 1 < len(starts) else passage.first_beat + passage.beats
        if passage.chord_at(kick) == passage.chord_at(starts[at]) and after - kick >= 0.24:
            length = min(after - kick, before[0].beats)
            played += [replace(n, beat=kick, beats=length, velocity=0.9 * n.velocity) for n in before]
    return sorted(played, key=lambda event: event.beat)


def _pattern(manner: str, passage: Passage, taste: np.random.Generator) -> str:
    if passage.meter.beats_per_bar == 2:
        return pick(taste, _IN_SIX.get(manner, ("X-----X-----", "X---x-X---x-", "X-----X---x-")))
    pattern = pick(taste, RHYTHMS.get(manner, RHYTHMS["blocks"]))
    if passage.meter.beats_per_bar == 3:
        return pattern[:12] if set(pattern[:12]) != {"-"} else "X-----------"
    if chance(taste, 0.3):  # an own variation: one stroke more, or one less
        at = int(taste.integers(1, 16))
        pattern = pattern[:at] + ("-" if pattern[at] != "-" else "x") + pattern[at + 1 :]
    return pattern if set(pattern) != {"-"} else "X---------------"


def _held(passage: Passage, center: int, voices: int, rng: np.random.Generator) -> list[Event]:
    events: list[Event] = []
    previous: tuple[int, ...] = ()
    spans = list(passage.chords)
    merged: list[tuple[float, float, Chord]] = []
    for span in spans:
        if merged and merged[-1][2] == span.chord and merged[-1][1] < 2 * passage.meter.beats_per_bar:
            beat, beats, chord = merged[-1]
            merged[-1] = (beat, beats + span.beats, chord)
        else:
            merged.append((span.beat, span.beats, span.chord))
    for beat, beats, chord in merged:
        previous = voicing(chord, previous, center, voices)
        events += _strum(beat, beats * 0.99, previous, 0.65 * passage.loudness, 0.0, rng)
    return events


def _strum(
    beat: float, beats: float, notes: Sequence[int], velocity: float, spread: float, rng: np.random.Generator
) -> list[Event]:
    """Return a chord whose notes follow each other over `spread` seconds, upwards, or downwards if negative."""
    count = max(len(notes) - 1, 1)
    ordered = notes if spread >= 0 else tuple(reversed(notes))
    accent = float(rng.normal(0, 0.05))
    return [
        Event(beat, beats, note, float(np.clip(velocity + accent, 0.1, 1)), late=abs(spread) * index / count)
        for index, note in enumerate(ordered)
    ]
