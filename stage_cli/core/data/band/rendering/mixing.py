"""The mix of a song: tracks with their place, their room and their loudness."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from stage_cli.core.audio.loudness import LoudnessMeter
from stage_cli.core.data.band.composition.score import Part, Score
from stage_cli.core.data.band.instruments import DRUM_TRACKS, INSTRUMENTS, KICK, OPEN_HAT, RIDE, SAMPLE_RATE, SNARE
from stage_cli.core.data.band.randomness import chance, generator, pick
from stage_cli.core.data.band.rendering import effects
from stage_cli.core.data.band.rendering.sequencing import place_notes, place_strokes
from stage_cli.core.data.band.rendering.sound_banks import SoundBank

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
class Track:
    """One recorded track: its stem, its type in MoisesDB, and audio `[2, frames]` float32 at 44.1 kHz."""

    stem: str
    track_type: str
    audio: np.ndarray


def render(score: Score, bank: SoundBank, key: tuple[int | str, ...]) -> list[Track]:
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
    tracks: list[Track] = []
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
            tracks.append(Track(part.stem, part.track_type, audio if gain is None else audio * gain))
    return _balanced(tracks, float(generator(*key, "loudness").uniform(-18.0, -14.5)))


def _player(
    part: Part, bank: SoundBank, key: tuple[int | str, ...], frames: int, reverb: np.ndarray, wetness: float, bpm: float
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
    part: Part, bank: SoundBank, key: tuple[int | str, ...], frames: int, reverb: np.ndarray, wetness: float
) -> list[Track]:
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
        tracks.append(Track("drums", name, stereo))
    send = float(rng.uniform(0.15, 0.5)) * (0.4 + 0.6 * wetness)
    response = effects.strip(effects.equalizer(effects.curve(rng, 120.0)), reverb, 1.0, 0.0) * np.float32(send)
    response[:, :64] = 0  # the room only: the direct sound is in the other tracks
    tracks.append(Track("drums", "overheads", effects.convolve(overheads, response)))
    return tracks


def _percussion(
    part: Part, bank: SoundBank, key: tuple[int | str, ...], frames: int, reverb: np.ndarray, wetness: float
) -> Track:
    rng = generator(*key, part.name, "timbre")
    by_key = place_strokes(part.notes, bank.hand_percussion(rng), frames, (*key, part.name))
    level = 10 ** ((INSTRUMENTS["percussion"].level + part.level) / 20)
    mono = sum(by_key.values(), np.zeros(frames, dtype=np.float32))
    response = effects.strip(effects.equalizer(effects.curve(rng, 100.0)), reverb, 0.3 * wetness, part.pan)
    return Track(part.stem, part.track_type, effects.convolve(mono, response * np.float32(level)))


def _drum_pan(drum: int) -> float:
    """Return where a drum stands, −1 to 1, seen by the drummer: hi-hat left, ride and low tom right."""
    if drum in (KICK, SNARE):
        return 0.0
    if drum in DRUM_TRACKS["hi-hat"] or drum == OPEN_HAT:
        return -0.35
    return {43: 0.45, 47: 0.05, 50: -0.3, 49: -0.5, 57: 0.5, RIDE: 0.4, 53: 0.4, 52: 0.6, 55: -0.2, 37: -0.1}.get(
        drum, 0.0
    )


def _balanced(tracks: list[Track], loudness: float) -> list[Track]:
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
