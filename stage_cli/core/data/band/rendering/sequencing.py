"""From notes to a mono track: each needed sound is made once and then placed wherever it is played."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from stage_cli.core.data.band.composition.score import Note
from stage_cli.core.data.band.instruments import CLAP, CLOSED_HAT, OPEN_HAT, PEDAL_HAT, SAMPLE_RATE
from stage_cli.core.data.band.randomness import generator
from stage_cli.core.data.band.rendering.synth.kits import LEVELS, Stroke
from stage_cli.core.data.band.rendering.synth.timbres import Voice

_VELOCITY_LAYERS = (0.3, 0.55, 0.8, 1.0)
_LENGTHS = (0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8)
_LONGEST = _LENGTHS[-1]
_VARIANTS = 3
_NOTE_WINDOW, _STROKE_WINDOW = 0.25, 0.05  # seconds over which loudness is measured
_STROKE_RMS = 0.5  # of the kick: a drum's peak is about twice that

_RELEASES = {
    "grand piano": 0.18,
    "electric piano": 0.12,
    "organ": 0.05,
    "pad": 0.5,
    "strings": 0.3,
    "choir": 0.25,
    "mallets": 1.0,
    "harp": 0.8,
    "male voice": 0.07,
    "female voice": 0.07,
    "acoustic guitar": 0.12,
    "clean guitar": 0.1,
    "finger bass": 0.05,
    "upright bass": 0.1,
}
"""Seconds in which a note dies away once it is let go; 0.06 for all others."""


def place_notes(
    notes: Sequence[Note],
    voice: Voice,
    instrument: str,
    frames: int,
    key: tuple[int | str, ...],
    *,
    variants: int = _VARIANTS,
) -> np.ndarray:
    """Return a player's track `[frames]` float32: a loud, sustained note has an RMS of 1.

    Args:
        notes: what is played.
        voice: what plays it.
        instrument: its name.
        frames: length of the track at 44.1 kHz.
        key: of the song and the player, for the sounds' small irregularities.
        variants: sounds of one pitch and loudness that alternate.
    """
    track = np.zeros(frames, dtype=np.float32)
    release = _RELEASES.get(instrument, 0.06)
    shots: dict[tuple[int, int, int, int], np.ndarray] = {}
    for note in notes:
        at = round(note.onset * SAMPLE_RATE)
        if at >= frames:
            continue
        layer = _layer(note.velocity)
        length = min(note.duration, _LONGEST)
        size = next(index for index, most in enumerate(_LENGTHS) if length <= most + 1e-9)
        # By its place on paper, so that a shorter excerpt of the song hears the same.
        variant = int(note.beat * 4 + note.pitch) % variants
        name = (note.pitch, layer, size, variant)
        if name not in shots:
            own = generator(*key, note.pitch, layer, size, variant)
            sound = voice(note.pitch, _VELOCITY_LAYERS[layer], _LENGTHS[size] + release, own)
            shots[name] = sound / _loudness(sound, _NOTE_WINDOW)
        _place(track, shots[name], at, note.velocity**1.3, length, release)
    return track


def place_strokes(
    notes: Sequence[Note], strokes: dict[int, Stroke], frames: int, key: tuple[int | str, ...]
) -> dict[int, np.ndarray]:
    """Return a drummer's tracks by General MIDI key, `[frames]` float32; a full stroke of the kick peaks near 1.

    Args:
        notes: strokes; those of keys that the kit lacks are left out.
        strokes: the kit.
        frames: length of the tracks at 44.1 kHz.
        key: of the song and the player.
    """
    tracks: dict[int, np.ndarray] = {}
    shots: dict[tuple[int, int, int], np.ndarray] = {}
    for note in notes:
        at = round(note.onset * SAMPLE_RATE)
        if at >= frames or note.pitch not in strokes:
            continue
        track = tracks.setdefault(note.pitch, np.zeros(frames, dtype=np.float32))
        layer, variant = _layer(note.velocity), int(note.beat * 4) % 2
        name = (note.pitch, layer, variant)
        if name not in shots:
            own = generator(*key, note.pitch, layer, variant)
            sound = strokes[note.pitch](_VELOCITY_LAYERS[layer], own)
            gain = _STROKE_RMS * 10 ** (LEVELS.get(note.pitch, -3.0) / 20)
            shots[name] = sound * np.float32(gain / _loudness(sound, _STROKE_WINDOW))
        hat = note.pitch in (OPEN_HAT, CLOSED_HAT, PEDAL_HAT)
        length = note.duration if note.pitch == OPEN_HAT else 10.0
        gain = note.velocity ** (1.5 if not hat and note.pitch != CLAP else 1.2)
        _place(track, shots[name], at, gain, length, 0.04)
    return tracks


def _layer(velocity: float) -> int:
    return int(np.searchsorted(_VELOCITY_LAYERS, velocity + 0.12, side="right").clip(1, len(_VELOCITY_LAYERS)) - 1)


def _place(track: np.ndarray, sound: np.ndarray, at: int, gain: float, length: float, release: float) -> None:
    """Add a sound to a track, let go after `length` seconds."""
    held = round(length * SAMPLE_RATE)
    stop = min(len(sound), held + round(release * SAMPLE_RATE))
    room = min(stop, len(track) - at)
    part = sound[:room] * np.float32(gain)
    # What is let go early fades; what ends by itself has its last 5 ms faded, so nothing ends with a click.
    begin = held if stop < len(sound) or held < stop else stop - 220
    begin = max(0, min(begin, stop - min(220, stop)))
    if begin < room:
        fade = np.cos(np.linspace(0, np.pi / 2, stop - begin, dtype=np.float32)) ** 2
        part[begin:] *= fade[: room - begin]
    track[at : at + room] += part


def _loudness(sound: np.ndarray, seconds: float) -> np.float32:
    """Return the RMS of the loudest stretch of a length; of a shorter sound as if silence followed."""
    window = min(len(sound), round(seconds * SAMPLE_RATE))
    energy = np.concatenate([[0.0], np.cumsum(np.square(sound, dtype=np.float64))])
    loudest = float((energy[window:] - energy[:-window]).max())
    return np.float32(max((loudest / round(seconds * SAMPLE_RATE)) ** 0.5, 1e-6))
