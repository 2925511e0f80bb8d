"""Performances of drummers on a grid of beats, as training items take them: MIDI with its tempo, style and metre."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from stage_cli.core.music.midi import read_midi
from stage_cli.core.music.notes import voice_of
from stage_cli.errors import StageError

INFO = "info.csv"
_SHORTEST_BARS = 4
_HARD_SWING = 0.6

FAMILIES: dict[str, str] = {
    "rock": "rock",
    "indie": "rock",
    "pop": "pop",
    "synth-pop": "pop",
    "funk": "funk",
    "soul": "soul",
    "gospel": "soul",
    "neworleans": "funk",
    "reggae": "reggae",
    "ska": "reggae",
    "disco": "disco",
    "dance": "disco",
    "house": "electronic",
    "trance": "electronic",
    "hip-hop": "hip-hop",
    "hiphop": "hip-hop",
    "trap": "hip-hop",
    "ballad": "ballad",
    "singer-songwriter": "ballad",
    "country": "country",
    "shuffle": "blues",
    "blues": "blues",
    "jazz": "jazz",
    "bossa": "latin",
    "latin": "latin",
    "afrocuban": "latin",
    "afrobeat": "latin",
    "highlife": "latin",
    "reggaeton": "latin",
    "metal": "metal",
    "punk": "punk",
    "drum'n'bass": "breakbeat",
    "breakbeat": "breakbeat",
    "waltz": "country",
    "rock waltz": "rock",
    "six-eight ballad": "ballad",
    "jig": "country",
}
"""Family of the tag style, by the composer's and Groove MIDI's names of styles."""

FITTING: dict[str, tuple[str, ...]] = {
    "rock": ("rock", "punk", "pop", "country"),
    "pop": ("pop", "rock", "soul", "disco"),
    "funk": ("funk", "soul", "hip-hop"),
    "soul": ("soul", "funk", "pop", "hip-hop"),
    "reggae": ("reggae",),
    "disco": ("disco", "pop", "funk"),
    "electronic": ("disco",),
    "hip-hop": ("hip-hop", "funk"),
    "ballad": ("pop", "rock", "soul", "country"),
    "country": ("country", "rock"),
    "jazz": ("jazz",),
    "latin": ("latin",),
    "metal": ("punk", "rock"),
    "punk": ("punk", "rock"),
    "breakbeat": ("funk", "hip-hop"),
    "blues": ("blues", "jazz"),
}
"""Families of performances that may be played over a song of each family."""


@dataclass(frozen=True)
class NotatedPerformance:
    """What a drummer played, on paper.

    Attributes:
        name: of the file.
        family: of its style.
        bpm: of the click that it was played to.
        strokes: `[strokes, 3]`: beats from the first downbeat, MIDI key, velocity; by time.
        beats: length, whole bars of four.
        swings: whether eighths swing.
    """

    name: str
    family: str
    bpm: float
    strokes: np.ndarray
    beats: int
    swings: bool


def read_drummers(folder: Path) -> list[NotatedPerformance]:
    """Return the performances in 4/4 of a folder in the layout of the Groove MIDI Dataset, fills left out.

    Test performances are left out, too; so are files that are not there.

    Args:
        folder: with `info.csv`.

    Raises:
        OSError: there is no `info.csv`.
        StageError: a MIDI file is damaged.
    """
    with (folder / INFO).open(newline="", encoding="utf-8") as file:
        rows = [
            row
            for row in csv.DictReader(file)
            if row["split"] != "test" and row["beat_type"] == "beat" and row["time_signature"] == "4-4"
        ]
    performances = (_read(folder, row) for row in rows if (folder / row["midi_filename"]).exists())
    return [performance for performance in performances if performance is not None]


def _read(folder: Path, row: dict[str, str]) -> NotatedPerformance | None:
    style = row["style"].split("/")[0]
    bpm = float(row["bpm"])
    try:
        song = read_midi(folder / row["midi_filename"])
    except StageError:
        raise
    strokes = np.array(
        [
            (note.onset * bpm / 60, note.pitch, note.velocity)
            for track in song.tracks
            for note in track.notes
            if voice_of(note.pitch) is not None
        ]
    ).reshape(-1, 3)
    if not len(strokes):
        return None
    strokes = strokes[np.argsort(strokes[:, 0], kind="stable")]
    beats = 4 * int(np.ceil((strokes[-1, 0] - 0.25) / 4))
    if beats < 4 * _SHORTEST_BARS:
        return None
    return NotatedPerformance(
        row["midi_filename"], FAMILIES.get(style, "rock"), bpm, strokes, beats, swing_of(strokes[:, 0]) >= _HARD_SWING
    )


def swing_of(beats: np.ndarray) -> float:
    """Return where the second of two eighths lies on the whole, 0.5 (straight) to 0.67; 0.5 where there are none.

    Args:
        beats: places of strokes in beats.
    """
    place = beats % 1
    straight = int(((place > 0.44) & (place < 0.56)).sum())
    swung = place[(place >= 0.56) & (place < 0.72)]
    return float(np.median(swung)) if len(swung) > max(4, 1.5 * straight) else 0.5
