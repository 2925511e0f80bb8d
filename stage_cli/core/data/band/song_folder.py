"""One song on disk, in MoisesDB's layout: `data.json` and `<stem>/<track>.wav`, whole or not there at all."""

from __future__ import annotations

import json
import shutil
import statistics
import uuid
import wave
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from stage_cli.core.data.band.composition.score import Score
from stage_cli.core.data.band.composition.theory import PITCH_CLASSES
from stage_cli.core.data.band.instruments import SAMPLE_RATE
from stage_cli.core.data.band.rendering.mixing import Track

DATA_FILE = "data.json"
RECIPE = "demo_data"
"""Entry of `data.json` that says what the song was made by: equal recipes, equal songs."""
_NAMESPACE = uuid.UUID("5c0e1f60-7e3b-5d0a-9a3e-2d6f1b8c4a11")
_BYTES_PER_FRAME = 4  # stereo, 16 bit
_HEADER = 44


def song_id(seed: int, index: int) -> str:
    """Return the song's id, the name of its folder."""
    return str(uuid.uuid5(_NAMESPACE, f"song {seed} {index}"))


def annotations(score: Score) -> dict[str, Any]:
    """Return what is exactly known of a song, ready for JSON. Times are seconds from its first sample.

    Keys: bpm (of the median beat interval), beats, downbeats, beats_per_bar, time_signature, swing, key (tonic,
    scale, mode), style, sections (kind, start, end), chords (chord, start, end).
    """
    times = [round(time, 6) for time in score.beat_times]
    intervals = [after - before for before, after in pairwise(score.beat_times)]
    bpm = 60 / statistics.median(intervals) if intervals else score.bpm
    bar = score.meter.beats_per_bar

    def seconds(beat: float) -> float:
        return round(float(np.interp(beat, range(len(times) + 1), [*times, score.duration])), 6)

    return {
        "bpm": round(bpm, 4),
        "beats": times,
        "downbeats": times[::bar],
        "beats_per_bar": bar,
        "time_signature": score.meter.name,
        "swing": round(score.swing, 4),
        "key": {"tonic": PITCH_CLASSES[score.key.tonic], "scale": score.key.scale, "mode": score.key.mode},
        "style": score.style,
        "sections": [
            {"kind": s.kind, "start": seconds(s.first_bar * bar), "end": seconds((s.first_bar + s.bars) * bar)}
            for s in score.sections
        ],
        "chords": [
            {"chord": span.chord.name, "start": seconds(span.beat), "end": seconds(span.beat + span.beats)}
            for span in score.chords
        ],
    }


def write_song(folder: Path, score: Score, tracks: Sequence[Track], recipe: dict[str, Any]) -> None:
    """Write a song's folder; one that exists is replaced.

    All is written to a hidden folder beside it, `data.json` last, which then gets its name.

    Raises:
        OSError: it cannot be written; nothing is left, and an older song keeps its place.
    """
    part, old = _unfinished(folder)
    remove_unfinished(folder)
    try:
        part.mkdir(parents=True)
        stems: dict[str, dict[str, Any]] = {}
        for number, track in enumerate(tracks):
            name = str(uuid.uuid5(_NAMESPACE, f"{folder.name} {number} {track.stem} {track.track_type}"))
            stem_id = str(uuid.uuid5(_NAMESPACE, f"{folder.name} {track.stem}"))
            stem = stems.setdefault(track.stem, {"id": stem_id, "stemName": track.stem, "tracks": []})
            stem["tracks"].append({"id": name, "trackType": track.track_type, "extension": "wav", "has_bleed": False})
            (part / track.stem).mkdir(exist_ok=True)
            _write_wav(part / track.stem / f"{name}.wav", track.audio)
        content = {
            "song": score.title,
            "artist": score.artist,
            "genre": score.genre,
            "stems": list(stems.values()),
            "annotations": annotations(score),
            RECIPE: recipe,
        }
        (part / DATA_FILE).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        if folder.exists():
            folder.rename(old)
            part.rename(folder)
            shutil.rmtree(old)
        else:
            part.rename(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def remove_unfinished(folder: Path) -> None:
    """Delete what a killed run has left of a song beside its folder."""
    for left in _unfinished(folder):
        shutil.rmtree(left, ignore_errors=True)


def _unfinished(folder: Path) -> tuple[Path, Path]:
    """Return the hidden folders of a song: what is being written, and what is being replaced."""
    return folder.with_name(f".{folder.name}.part"), folder.with_name(f".{folder.name}.old")


def read_recipe(folder: Path) -> dict[str, Any] | None:
    """Return what a song was made by; None unless it is a whole demo song."""
    try:
        content = json.loads((folder / DATA_FILE).read_text(encoding="utf-8"))
        recipe = content[RECIPE]
        frames = round(recipe["seconds"] * SAMPLE_RATE)
        size = _HEADER + frames * _BYTES_PER_FRAME
        whole = all(
            (folder / stem["stemName"] / f"{track['id']}.wav").stat().st_size == size
            for stem in content["stems"]
            for track in stem["tracks"]
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return recipe if whole else None


def _write_wav(path: Path, audio: np.ndarray) -> None:
    """Write `[2, frames]` within ±1 as 16-bit PCM, rounded to the nearest step."""
    scaled = audio * np.float32(32767)
    np.rint(scaled, out=scaled)
    left, right = np.clip(scaled, -32768, 32767, out=scaled).astype("<i2")
    samples = np.empty((audio.shape[1], 2), dtype="<i2")
    samples[:, 0], samples[:, 1] = left, right
    # The standard library's writer: it reports a full disk as the system does.
    with path.open("xb") as file, wave.open(file, "wb") as sound:
        sound.setnchannels(2)
        sound.setsampwidth(2)
        sound.setframerate(SAMPLE_RATE)
        sound.writeframes(samples.data)
