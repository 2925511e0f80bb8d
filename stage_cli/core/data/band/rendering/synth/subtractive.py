"""Analogue-style synthesizers: rich waves behind a low-pass filter that opens and closes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from stage_cli.core.data.band.rendering.synth.oscillators import (
    attack,
    decay,
    frequency,
    harmonics_below_limit,
    low_pass_spectra,
    read,
    running_phase,
    seconds_to_frames,
    time_axis,
    wavetables,
)

_CUTOFF_STEPS = 8


@dataclass(frozen=True)
class Patch:
    """A sound of the synthesizer.

    Attributes:
        wave: "saw", "square" or "pulse".
        voices: oscillators of a note.
        detune: cents between the outer ones.
        cutoff: Hz of the low-pass filter when closed.
        sweep: octaves that it opens by.
        sweep_time: seconds to −60 dB in which it closes again; 0: it opens slowly instead, with the sound.
        rise: seconds of the attack.
        ring: seconds to −60 dB; 0: the note is held.
        sub: level of a sine an octave below.
        drift: Hz of a slow movement of the filter; 0 for none.
    """

    wave: str
    voices: int
    detune: float
    cutoff: float
    sweep: float
    sweep_time: float
    rise: float
    ring: float
    sub: float = 0.0
    drift: float = 0.0


def spectrum(wave: str, harmonic: np.ndarray) -> np.ndarray:
    """Return the harmonics' amplitudes of a wave."""
    if wave == "square":
        return np.where(harmonic % 2 == 1, 1.3 / harmonic, 0.02)
    if wave == "pulse":
        return np.abs(np.sin(np.pi * harmonic * 0.22)) * 1.6 / harmonic
    return 1.0 / harmonic


def play_patch(patch: Patch, pitch: int, velocity: float, seconds: float, rng: np.random.Generator) -> np.ndarray:
    """Return a synthesizer's note, `[frames]` float32."""
    hertz = frequency(pitch)
    frames = seconds_to_frames(min(seconds, patch.ring * 1.1) if patch.ring else seconds)
    harmonic = harmonics_below_limit(hertz)
    # Keyboard tracking: half an octave of filter for an octave of pitch.
    base = patch.cutoff * (hertz / 220) ** 0.5
    octaves = np.linspace(0, max(patch.sweep, 0.1), _CUTOFF_STEPS)
    tables = wavetables(low_pass_spectra(spectrum(patch.wave, harmonic), hertz, base * 2**octaves, 3.0))
    if patch.sweep_time:
        opening = (0.4 + 0.6 * velocity) * decay(frames, patch.sweep_time)
    else:
        opening = 0.3 + 0.5 * velocity * attack(frames, max(patch.rise * 2, 0.02))
    if patch.drift:
        opening = opening + 0.25 * np.sin(2 * np.pi * patch.drift * time_axis(frames) + rng.uniform(0, 6.28))
    place = (_CUTOFF_STEPS - 1) * opening
    sound = np.zeros(frames, dtype=np.float32)
    for voice in range(patch.voices):
        side = (voice - (patch.voices - 1) / 2) / max(patch.voices - 1, 1)
        phase = running_phase(hertz * 2 ** (side * patch.detune / 1200), frames, float(rng.random()))
        sound += read(tables, phase, place)
    if patch.sub:
        sound += patch.sub * patch.voices**0.5 * np.sin(np.pi * 2 * running_phase(hertz / 2, frames)).astype(np.float32)
    envelope = attack(frames, patch.rise)
    return sound * (envelope * decay(frames, patch.ring) if patch.ring else envelope)


@dataclass(frozen=True)
class SubBass:
    """A drum machine's bass: seconds of ring, semitones and seconds of its initial fall, drive of its saturation."""

    ring: float
    fall: float
    fall_time: float
    drive: float


def boom(bass: SubBass, pitch: int, seconds: float) -> np.ndarray:
    """Return a sub bass's note: a falling sine, driven until small speakers can show it."""
    hertz = frequency(pitch)
    frames = seconds_to_frames(min(seconds, bass.ring))
    time = time_axis(frames)
    bend = 2 ** (bass.fall / 12 * np.exp(-time / bass.fall_time))
    sound = np.sin(2 * np.pi * running_phase(hertz * bend, frames)).astype(np.float32)
    return np.tanh(sound * (1 + bass.drive)) * decay(frames, bass.ring * 1.5) * attack(frames, 0.004)
