"""Small MIDI files: a drummer with habits of his own, and a band."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import mido
import numpy as np

TICKS = 480
Stroke = tuple[float, int, int]
"""Quarter note, key, velocity."""


def write_midi_file(
    path: Path,
    tracks: Sequence[tuple[int, int | None, Sequence[tuple[float, float, int, int]]]],
    *,
    bpm: float = 120.0,
    meter: tuple[int, int] = (4, 4),
    tempos: Sequence[tuple[float, float]] = (),
) -> None:
    """Write tracks of (channel from 0, program, notes of (quarter, quarters, key, velocity))."""
    file = mido.MidiFile(ticks_per_beat=TICKS)
    head = mido.MidiTrack()
    head.append(mido.MetaMessage("time_signature", numerator=meter[0], denominator=meter[1]))
    at = 0
    for quarter, tempo in [(0.0, bpm), *tempos]:
        tick = round(quarter * TICKS)
        head.append(mido.MetaMessage("set_tempo", tempo=mido.bpm2tempo(tempo), time=tick - at))
        at = tick
    file.tracks.append(head)
    for channel, program, notes in tracks:
        track = mido.MidiTrack()
        events = []
        if program is not None:
            events.append((0, 0, mido.Message("program_change", channel=channel, program=program)))
        for quarter, quarters, key, velocity in notes:
            begin = round(quarter * TICKS)
            end = max(begin + 1, round((quarter + quarters) * TICKS))
            events.append((begin, 2, mido.Message("note_on", channel=channel, note=key, velocity=velocity)))
            events.append((end, 1, mido.Message("note_off", channel=channel, note=key)))
        at = 0
        for tick, _, message in sorted(events, key=lambda event: event[:2]):
            track.append(message.copy(time=tick - at))
            at = tick
        file.tracks.append(track)
    path.parent.mkdir(parents=True, exist_ok=True)
    file.save(path)


def rock_groove(rng: np.random.Generator, bars: int, *, swing: float = 0.5, late: float = 0.0) -> list[Stroke]:
    """A beat in 4/4, its strokes up to 0.06 beats off the grid, with ghosts and another kick every second bar."""
    strokes: list[Stroke] = []
    for bar in range(bars):
        places = [(0.0, 36, 105), (1.0, 38, 112), (2.0, 36, 98), (3.0, 38, 115), (2.75, 38, 30)]
        places += [(eighth / 2, 22, 60 + 20 * (eighth % 2 == 0)) for eighth in range(8)]
        places += [(1.5, 36, 90)] if bar % 2 else [(3.5, 36, 84)]
        for place, key, velocity in places:
            off = place % 1
            place = place - off + (2 * off * swing if off <= 0.5 else swing + (off - 0.5) * 2 * (1 - swing))
            deviation = float(np.clip(rng.normal(0, 0.025), -0.06, 0.06)) + late
            loud = int(np.clip(velocity + rng.integers(-9, 10), 1, 127))
            strokes.append((max(0.0, 4 * bar + place + deviation), key, loud))
    return strokes


def write_strokes(
    path: Path, strokes: Sequence[Stroke], *, bpm: float = 120.0, meter: tuple[int, int] = (4, 4)
) -> None:
    write_midi_file(
        path, [(9, None, [(quarter, 0.1, key, velocity) for quarter, key, velocity in strokes])], bpm=bpm, meter=meter
    )


def write_drummers(folder: Path, *, tempos: Sequence[float] = (84, 100, 118, 138, 160), seed: int = 0) -> None:
    """Write Groove MIDI's layout: a rock and a soul groove of 24 bars at each tempo, and a fill on the toms."""
    rng = np.random.default_rng(seed)
    rows = []
    for tempo in tempos:
        for style in ("rock", "soul/motown"):
            name = f"drummer1/session1/{style.replace('/', '-')}_{tempo:g}_beat_4-4.mid"
            write_strokes(folder / name, rock_groove(rng, 24), bpm=tempo)
            rows.append((style, tempo, "beat", "4-4", name, 24 * 4 * 60 / tempo))
            name = f"drummer1/session1/{style.replace('/', '-')}_{tempo:g}_fill_4-4.mid"
            fill = [(0.25 * i, (38, 48, 45, 43)[i // 4], 80 + 3 * (i % 4)) for i in range(16)]
            write_strokes(folder / name, fill, bpm=tempo)
            rows.append((style, tempo, "fill", "4-4", name, 4 * 60 / tempo))
    write_info(folder, rows)


def write_info(folder: Path, rows: Sequence[tuple[str, float, str, str, str, float]]) -> None:
    """Write `info.csv` from (style, bpm, beat type, time signature, file, seconds)."""
    names = ("drummer", "session", "id", "style", "bpm", "beat_type", "time_signature", "midi_filename")
    with (folder / "info.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow([*names, "audio_filename", "duration", "split"])
        for style, bpm, kind, meter, name, seconds in rows:
            table.writerow(["drummer1", "session1", name, style, bpm, kind, meter, name, "", seconds, "train"])


def band_tracks(bars: int) -> list[tuple[int, int | None, list[tuple[float, float, int, int]]]]:
    """A band in 4/4: drums with a tambourine, a finger bass, a clean guitar, a synthesizer's bass and an effect."""
    drums = [
        (4.0 * bar + place, 0.1, key, 100)
        for bar in range(bars)
        for place, key in ((0, 36), (1, 38), (2, 36), (2.5, 36), (3, 40), (0, 49), (0.5, 42), (1.5, 46), (3.5, 54))
    ]
    bass = [(4.0 * bar + place, 0.9, 33 + bar % 3, 96) for bar in range(bars) for place in range(4)]
    guitar = [(4.0 * bar, 3.5, key, 80) for bar in range(bars) for key in (57, 60, 64)]
    synth = [(4.0 * bar, 1.0, 36, 90) for bar in range(bars)]
    effect = [(4.0 * bar, 1.0, 60, 90) for bar in range(bars)]
    return [(9, 0, drums), (0, 33, bass), (1, 27, guitar), (2, 81, synth), (3, 122, effect)]
