"""Melodies: phrases of a motif that comes back, over the chords."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from stage_cli.core.band.grooves import Passage
from stage_cli.core.band.randomness import chance, pick
from stage_cli.core.band.score import Event
from stage_cli.core.band.theory import nearest_pitch, snap

_PLANS = ("AABA", "ABAB", "AABC", "ABAC", "AAAB", "ABCB")


@dataclass(frozen=True)
class Motif:
    """A rhythm and a contour of two bars: (beat, beats) of each note, and scale steps from the note before."""

    rhythm: tuple[tuple[float, float], ...]
    contour: tuple[int, ...]


def invent_motif(rng: np.random.Generator, passage: Passage, density: float) -> Motif:
    """Return a motif of two bars; `density` is the share of eighths on which a note begins."""
    meter = passage.meter
    unit = 0.5 if meter.steps_per_beat == 4 else 1 / 3
    total = 2 * meter.beats_per_bar
    slots = round(total / unit)
    per_beat = round(1 / unit)
    sung = slots - int(rng.integers(per_beat // 2 + 1, per_beat * 3))  # a phrase ends with a breath
    begin = int(pick(rng, (0, 0, 0, 1, 2, per_beat)))
    starts = []
    for slot in range(begin, sung):
        weight = 1.5 if slot % per_beat == 0 else 0.8
        if chance(rng, density * weight) or slot == begin:
            starts.append(slot * unit)
            if chance(rng, 0.08) and meter.steps_per_beat == 4:
                starts.append((slot + 0.5) * unit)
    ends = [*starts[1:], min(sung * unit + unit, total)]
    lengths = [
        min(end - start, 2.5) * (0.95 if chance(rng, 0.7) else 0.6) for start, end in zip(starts, ends, strict=True)
    ]
    steps = [
        0,
        *(int(pick(rng, (-2, -1, -1, 0, 0, 1, 1, 2, 3, -3), (2, 5, 5, 3, 3, 5, 5, 2, 1, 1))) for _ in starts[1:]),
    ]
    return Motif(tuple(zip(starts, lengths, strict=True)), tuple(steps))


def play_melody(
    passage: Passage,
    lowest: int,
    highest: int,
    density: float,
    taste: np.random.Generator,
    rng: np.random.Generator,
    *,
    pentatonic: float = 0.5,
) -> list[Event]:
    """Return a section's tune: phrases of two bars by a plan such as AABA, chord tones on strong beats.

    Args:
        passage: the section.
        lowest: MIDI note of the instrument's range.
        highest: likewise.
        density: share of eighths on which a note begins.
        taste: decides the motifs; the same for every section of a kind.
        rng: decides what differs between repeats.
        pentatonic: probability that the tune keeps to five notes.
    """
    scale = passage.key.pentatonic if chance(taste, pentatonic) else passage.key.pitch_classes
    motifs = {letter: invent_motif(taste, passage, density * float(taste.uniform(0.7, 1.3))) for letter in "ABC"}
    plan = pick(taste, _PLANS)
    width = highest - lowest
    home = lowest + width * (0.3 + 0.35 * passage.section.intensity)
    starts = {letter: int(taste.integers(-3, 4)) for letter in "ABC"}
    at_home = {letter: chance(taste, 0.85) for letter in "ABC"}
    closes = chance(taste, 0.85)
    tonic = passage.key.tonic
    triad = (tonic, (tonic + 7) % 12, (tonic + (3 if passage.key.scale == "minor" else 4)) % 12)
    bars = passage.meter.beats_per_bar
    events: list[Event] = []
    for phrase in range(0, passage.section.bars, 2):
        letter = plan[(phrase // 2) % 4]
        motif = motifs[letter]
        first = passage.first_beat + phrase * bars
        pitch = snap(round(home) + starts[letter], triad if at_home[letter] else scale)
        closing = phrase % 4 == 2 and closes
        for number, ((at, beats), move) in enumerate(zip(motif.rhythm, motif.contour, strict=True)):
            beat = first + at
            if beat >= passage.first_beat + passage.beats or (beats < 0.4 and chance(rng, 0.06)):
                continue
            pitch = _step(pitch, move, scale)
            if pitch > highest or pitch < lowest:
                pitch = nearest_pitch(pitch % 12, round(home))
            strong = abs(beat - round(beat)) < 1e-6 and (beats >= 0.9 or at == 0)
            sounding = snap(pitch, passage.chord_at(beat).pitch_classes) if strong else pitch
            if closing and number == len(motif.rhythm) - 1:  # every second phrase comes home
                sounding = snap(pitch, triad[:1])
            if not lowest <= sounding <= highest:
                sounding = nearest_pitch(sounding % 12, round(home))
            velocity = (0.78 if strong else 0.68) * passage.loudness + rng.normal(0, 0.05)
            events.append(Event(beat, beats, int(sounding), float(np.clip(velocity, 0.2, 1.0))))
            pitch = sounding
    return events


def play_answers(
    passage: Passage, lowest: int, highest: int, taste: np.random.Generator, rng: np.random.Generator
) -> list[Event]:
    """Return short phrases in the gaps that a singer leaves: the second half of every second or fourth bar."""
    tune = play_melody(passage, lowest, highest, 0.6, taste, rng)
    bars = passage.meter.beats_per_bar
    every = int(pick(taste, (2, 2, 4)))
    full = passage.section.kind in ("solo", "intro")
    return [
        event
        for event in tune
        if full or ((event.beat - passage.first_beat) % (every * bars)) >= (every - 1) * bars + bars / 2 - 0.01
    ]


def play_riff(
    passage: Passage, lowest: int, highest: int, taste: np.random.Generator, rng: np.random.Generator
) -> list[Event]:
    """Return a figure of one or two bars that repeats, its notes bent to the chords."""
    bars = 1 if chance(taste, 0.5) else 2
    motif = invent_motif(taste, passage, float(taste.uniform(0.45, 0.75)))
    scale = passage.key.pentatonic
    home = lowest + (highest - lowest) // 2
    span = bars * passage.meter.beats_per_bar
    events: list[Event] = []
    for bar in range(0, passage.section.bars, bars):
        first = passage.first_beat + bar * passage.meter.beats_per_bar
        pitch = snap(home, scale)
        for (at, beats), move in zip(motif.rhythm, motif.contour, strict=True):
            if at >= span or first + at >= passage.first_beat + passage.beats:
                continue
            pitch = min(max(_step(pitch, move, scale), lowest), highest)
            sounding = snap(pitch, passage.chord_at(first + at).pitch_classes) if at == int(at) else pitch
            velocity = (0.8 if at == 0 else 0.7) * passage.loudness + rng.normal(0, 0.04)
            events.append(Event(first + at, beats, sounding, float(np.clip(velocity, 0.2, 1))))
    return events


def _step(pitch: int, steps: int, scale: tuple[int, ...]) -> int:
    """Go some steps up or down a scale from a note."""
    for _ in range(abs(steps)):
        pitch += 1 if steps > 0 else -1
        while pitch % 12 not in scale:
            pitch += 1 if steps > 0 else -1
    return pitch
