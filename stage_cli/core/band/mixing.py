"""From notes to tracks: sounds placed where they are played, and the mix with its places, rooms and levels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from stage_cli.core.audio.loudness import LoudnessMeter
from stage_cli.core.band import effects
from stage_cli.core.band.instruments import (
    CLAP,
    CLOSED_HAT,
    DRUM_TRACKS,
    INSTRUMENTS,
    KICK,
    OPEN_HAT,
    PEDAL_HAT,
    RIDE,
    SAMPLE_RATE,
    SNARE,
)
from stage_cli.core.band.randomness import chance, generator, pick
from stage_cli.core.band.score import Score, ScoreNote, ScorePart
from stage_cli.core.band.sounds import SoundBank
from stage_cli.core.band.synth_drums import LEVELS, Stroke
from stage_cli.core.band.timbres import Voice

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
    notes: Sequence[ScoreNote],
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
    notes: Sequence[ScoreNote], strokes: dict[int, Stroke], frames: int, key: tuple[int | str, ...]
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


HIGHEST_PEAK = 0.97
_CLUB = ("house", "trance", "disco", "synth-pop", "breakbeat")
_WET = {
    "vocals": 0.22,
    "wind": 0.22,
    "bowed_strings": 0.3,
    "piano": 0.14,
    "guitar": 0.12,
    "other_keys": 0.18,
    "other_plucked": 0.18,
    "percussion": 0.12,
    "bass": 0.015,
}
_DRUM_SENDS = {"kick drum": 0.15, "snare drum": 0.8, "hi-hat": 0.5, "toms": 0.8, "cymbals": 0.8}
_LOW_CUTS = {"bass": 32.0, "guitar": 80.0, "vocals": 90.0, "piano": 45.0}


@dataclass(frozen=True)
class RenderedPart:
    """One recorded track of a part; drums have several.

    Attributes:
        stem: one of the project's stem names.
        track_type: as MoisesDB spells it.
        audio: `[2, frames]` float32 at 44.1 kHz.
        part: name of the score's part.
    """

    stem: str
    track_type: str
    audio: np.ndarray
    part: str


def render(score: Score, bank: SoundBank, key: tuple[int | str, ...]) -> list[RenderedPart]:
    """Return a song's tracks; their sum peaks at 0.97 or below and has a usual loudness.

    A shorter excerpt of a song sounds the same but for one gain over all.

    Args:
        score: what is played; its duration decides the length.
        bank: where sounds come from.
        key: of the song: decides timbres, places and rooms.
    """
    frames = round(score.duration * SAMPLE_RATE)
    rng = generator(*key, "room")
    electronic = any(part.kit in ("electronic", "eighties") for part in score.parts)
    seconds = float(rng.uniform(0.25, 0.9)) * (0.7 if electronic else 1.0)
    room = effects.room(rng, seconds, float(rng.uniform(2000, 6000)))
    hall = effects.room(rng, float(rng.uniform(0.9, 1.5)), float(rng.uniform(2000, 5000)))
    wetness = float(rng.uniform(0.3, 1.6))
    ducked = score.style in _CLUB and chance(rng, 0.6)
    depth, release = float(rng.uniform(0.3, 0.8)), float(rng.uniform(0.12, 0.3))
    kicks = [note.onset for part in score.parts if part.stem == "drums" for note in part.notes if note.pitch == KICK]
    gain = effects.ducking(frames, kicks, depth, release) if ducked and kicks else None
    tracks: list[RenderedPart] = []
    for part in score.parts:
        if not part.notes:
            continue
        if part.stem == "drums":
            tracks += _drums(part, bank, key, frames, room, wetness)
        elif part.instrument == "percussion":
            tracks.append(_percussion(part, bank, key, frames, room, wetness))
        else:
            far = part.stem in ("vocals", "bowed_strings", "wind") or part.instrument == "pad"
            audio = _player(part, bank, (*key, part.name), frames, hall if far else room, wetness, score.bpm)
            mixed = audio if gain is None else audio * gain
            tracks.append(RenderedPart(part.stem, part.track_type, mixed, part.name))
    return _balanced(tracks, float(generator(*key, "loudness").uniform(-18.0, -14.5)))


def _player(
    part: ScorePart,
    bank: SoundBank,
    key: tuple[int | str, ...],
    frames: int,
    reverb: np.ndarray,
    wetness: float,
    bpm: float,
) -> np.ndarray:
    rng = generator(*key, "timbre")
    # Two takes of one player have one guitar.
    same = generator(*key[:-1], str(key[-1]).split(",")[0], "timbre")
    voice = bank.voice(part.instrument, same)
    sounds = INSTRUMENTS[part.instrument]
    variants = 2 if sounds.stem in ("vocals", "wind", "guitar", "bass") else 1
    mono = place_notes(part.notes, voice, part.instrument, frames, key, variants=variants)
    level = 10 ** ((sounds.level + part.level) / 20)
    points = effects.curve(rng, _LOW_CUTS.get(part.stem, 60.0))
    if part.instrument in ("distorted guitar", "crunch guitar"):
        drive = float(same.uniform(12, 40) if part.instrument == "distorted guitar" else same.uniform(2, 7))
        mono = effects.amplifier(mono, 1.0, drive)
        points = effects.cabinet(same)
    elif part.stem == "bass" and chance(rng, 0.4):
        mono = effects.amplifier(mono, 1.0, float(rng.uniform(1.0, 3.0)))
    echo = None
    echoes = part.stem in ("vocals", "wind") or part.instrument in ("synth lead", "synth pluck", "clean guitar")
    if echoes and chance(rng, 0.3):
        beats = pick(rng, (0.5, 0.75, 1.0))
        echo = (min(beats * 60 / bpm, 0.5), float(rng.uniform(0.12, 0.35)))
    send = _WET.get(part.stem, 0.12) * wetness * float(rng.uniform(0.5, 1.6)) * 2
    response = effects.strip(effects.equalizer(points), reverb, send, part.pan, echo) * np.float32(level)
    audio = effects.convolve(mono, response)
    if part.instrument in ("pad", "electric piano", "organ", "strings", "choir") or (
        part.instrument == "clean guitar" and chance(rng, 0.4)
    ):
        audio = effects.chorus(audio, float(rng.uniform(0.2, 1.0)), float(rng.uniform(0.001, 0.004)))
    return audio


def _drums(
    part: ScorePart, bank: SoundBank, key: tuple[int | str, ...], frames: int, reverb: np.ndarray, wetness: float
) -> list[RenderedPart]:
    rng = generator(*key, "kit")
    strokes = bank.kit(part.kit, rng)
    by_key = place_strokes(part.notes, strokes, frames, (*key, "strokes"))
    level = 10 ** ((INSTRUMENTS["drums"].level + part.level) / 20)
    side = 1 if chance(rng, 0.5) else -1  # the drummer's view or the audience's
    punch = float(rng.uniform(1.0, 3.0))
    balance = {name: float(np.clip(rng.normal(0, 1.8), -4, 4)) for name in DRUM_TRACKS}
    overheads = np.zeros(frames, dtype=np.float32)
    scaled = np.empty(frames, dtype=np.float32)
    tracks = []
    for name, keys in DRUM_TRACKS.items():
        present = [drum for drum in keys if drum in by_key]
        if not present:
            continue
        stereo = np.zeros((2, frames), dtype=np.float32)
        for drum in present:
            mono = by_key[drum]
            if drum in (KICK, SNARE):  # a tape or a limiter takes the points off
                mono *= np.float32(punch)
                np.tanh(mono, out=mono)
                mono /= np.float32(np.tanh(punch))
            gain = level * 10 ** (balance[name] / 20)
            angle = (side * _drum_pan(drum) + 1) * np.pi / 4
            sides = (stereo[0], gain * np.cos(angle) * 2**0.5), (stereo[1], gain * np.sin(angle) * 2**0.5)
            for target, share in (*sides, (overheads, gain * _DRUM_SENDS[name])):
                target += np.multiply(mono, np.float32(share), out=scaled)
        tracks.append(RenderedPart("drums", name, stereo, part.name))
    send = float(rng.uniform(0.15, 0.5)) * (0.4 + 0.6 * wetness)
    response = effects.strip(effects.equalizer(effects.curve(rng, 120.0)), reverb, 1.0, 0.0) * np.float32(send)
    response[:, :64] = 0  # the room only: the direct sound is in the other tracks
    tracks.append(RenderedPart("drums", "overheads", effects.convolve(overheads, response), part.name))
    return tracks


def _percussion(
    part: ScorePart, bank: SoundBank, key: tuple[int | str, ...], frames: int, reverb: np.ndarray, wetness: float
) -> RenderedPart:
    rng = generator(*key, part.name, "timbre")
    by_key = place_strokes(part.notes, bank.hand_percussion(rng), frames, (*key, part.name))
    level = 10 ** ((INSTRUMENTS["percussion"].level + part.level) / 20)
    mono = sum(by_key.values(), np.zeros(frames, dtype=np.float32))
    response = effects.strip(effects.equalizer(effects.curve(rng, 100.0)), reverb, 0.3 * wetness, part.pan)
    audio = effects.convolve(mono, response * np.float32(level))
    return RenderedPart(part.stem, part.track_type, audio, part.name)


def _drum_pan(drum: int) -> float:
    """Return where a drum stands, −1 to 1, seen by the drummer: hi-hat left, ride and low tom right."""
    if drum in (KICK, SNARE):
        return 0.0
    if drum in DRUM_TRACKS["hi-hat"] or drum == OPEN_HAT:
        return -0.35
    return {43: 0.45, 47: 0.05, 50: -0.3, 49: -0.5, 57: 0.5, RIDE: 0.4, 53: 0.4, 52: 0.6, 55: -0.2, 37: -0.1}.get(
        drum, 0.0
    )


def _balanced(tracks: list[RenderedPart], loudness: float) -> list[RenderedPart]:
    """Bring the mix to a loudness (LUFS), or as near as its peak allows."""
    if not tracks:
        return tracks
    mix = np.zeros_like(tracks[0].audio)
    for track in tracks:
        mix += track.audio
    meter = LoudnessMeter(SAMPLE_RATE, 2)
    for first in range(0, mix.shape[1], SAMPLE_RATE):
        meter.push(mix[:, first : first + SAMPLE_RATE].T)
    peak = float(max(mix.max(), -mix.min()))
    if peak <= 0:
        return tracks
    wanted = 10 ** ((loudness - meter.integrated) / 20) if np.isfinite(meter.integrated) else 1.0
    gain = np.float32(min(wanted, HIGHEST_PEAK / peak))
    for track in tracks:
        np.multiply(track.audio, gain, out=track.audio)
    return tracks
