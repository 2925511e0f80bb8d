"""The synthesizer: wavetables, envelopes and noise; analogue patches; voices, winds and strings.

Sound is `[frames]` float32 at 44.1 kHz.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from stage_cli.core.band.instruments import SAMPLE_RATE

TABLE_FRAMES = 4096
_HIGHEST_HARMONIC = 17_000.0  # Hz


def frequency(pitch: float) -> float:
    """Return the Hz of a MIDI note number."""
    return 440.0 * 2 ** ((pitch - 69) / 12)


def seconds_to_frames(seconds: float) -> int:
    """Return a length in frames, at least one."""
    return max(1, round(seconds * SAMPLE_RATE))


def time_axis(frames: int) -> np.ndarray:
    """Return seconds of each frame, float32."""
    return np.arange(frames, dtype=np.float32) / np.float32(SAMPLE_RATE)


def harmonics_below_limit(hertz: float, most: int = 256) -> np.ndarray:
    """Return 1, 2, 3, … as far as harmonics of a tone can be heard without aliasing."""
    return np.arange(1, max(2, min(most, int(_HIGHEST_HARMONIC / hertz))) + 1)


def wavetables(spectra: np.ndarray, phases: np.ndarray | None = None) -> np.ndarray:
    """Return one period of a wave for each row of harmonic amplitudes.

    Args:
        spectra: `[tables, harmonics]`.
        phases: radians of each harmonic, `[harmonics]`; all sines if left out.

    Returns: `[tables, 4096]` float32.
    """
    tables, harmonics = spectra.shape
    half = np.zeros((tables, TABLE_FRAMES // 2 + 1), dtype=np.complex64)
    turn = -1j * np.exp(1j * phases) if phases is not None else np.full(harmonics, -1j)
    half[:, 1 : harmonics + 1] = spectra * turn
    return np.fft.irfft(half, axis=1).astype(np.float32) * (TABLE_FRAMES / 2)


def running_phase(hertz: float | np.ndarray, frames: int, start: float = 0.0) -> np.ndarray:
    """Return the phase in cycles of an oscillator, float64; `hertz` may be one number or `[frames]`."""
    if isinstance(hertz, np.ndarray):
        return start + np.cumsum(hertz) / SAMPLE_RATE
    return start + np.arange(frames) * (hertz / SAMPLE_RATE)


def read(tables: np.ndarray, phase: np.ndarray, place: np.ndarray | float = 0.0) -> np.ndarray:
    """Read wavetables at a phase (cycles), mixed between neighbouring tables at `place` (0 to tables − 1)."""
    column = (phase * TABLE_FRAMES).astype(np.int64) & (TABLE_FRAMES - 1)
    if isinstance(place, float):
        return tables[round(place)][column]
    place = np.clip(place, 0, len(tables) - 1)
    row = np.minimum(place.astype(np.int64), len(tables) - 2)
    share = (place - row).astype(np.float32)
    flat, at = tables.ravel(), row * TABLE_FRAMES + column
    below = flat[at]
    return below + share * (flat[at + TABLE_FRAMES] - below)


def low_pass_spectra(amplitudes: np.ndarray, hertz: float, cutoffs: np.ndarray, slope: float = 2.0) -> np.ndarray:
    """Return harmonic amplitudes behind low-pass filters, `[cutoffs, harmonics]`: `slope` 1 is 6 dB an octave."""
    ratio = hertz * np.arange(1, len(amplitudes) + 1)[None] / cutoffs[:, None]
    return amplitudes[None] / (1 + ratio**2) ** (slope / 2)


def decay(frames: int, seconds: float) -> np.ndarray:
    """Return an exponential that falls by 60 dB in `seconds`."""
    return np.exp(time_axis(frames) * np.float32(-6.9078 / max(seconds, 1e-4)))


def attack(frames: int, seconds: float) -> np.ndarray:
    """Return a rise from 0 to 1 that ends after `seconds`, smooth at both ends."""
    count = min(frames, seconds_to_frames(seconds))
    envelope = np.ones(frames, dtype=np.float32)
    envelope[:count] = 0.5 - 0.5 * np.cos(np.pi * np.arange(count, dtype=np.float32) / count)
    return envelope


def noise(rng: np.random.Generator, frames: int) -> np.ndarray:
    """Return white noise of unit power."""
    return rng.standard_normal(frames, dtype=np.float32)


def shaped_noise(
    rng: np.random.Generator, frames: int, low: float, high: float, *, steepness: float = 2.0
) -> np.ndarray:
    """Return noise between two frequencies (Hz), of unit power."""
    size = 1 << (frames - 1).bit_length()
    spectrum = np.fft.rfft(noise(rng, size)).astype(np.complex64)
    hertz = np.maximum(np.fft.rfftfreq(size, 1 / SAMPLE_RATE), 1.0)
    gain = 1 / np.sqrt((1 + (low / hertz) ** (2 * steepness)) * (1 + (hertz / high) ** (2 * steepness)))
    sound = np.fft.irfft(spectrum * gain)[:frames].astype(np.float32)
    return sound / max(float(np.sqrt(np.mean(sound**2))), 1e-9)


def fade_out(sound: np.ndarray, seconds: float) -> np.ndarray:
    """Return a sound whose end fades to nothing: no click where it stops."""
    count = min(len(sound), seconds_to_frames(seconds))
    sound = sound.copy()
    sound[len(sound) - count :] *= np.linspace(1, 0, count, dtype=np.float32) ** 2
    return sound


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


# Hz and levels (dB) of the first formants; after Peterson & Barney (JASA 1952) and tables of sung vowels.
VOWELS: dict[str, tuple[tuple[float, float], ...]] = {
    "a": ((750, 0), (1200, -4), (2600, -18), (3300, -20)),
    "e": ((480, 0), (1900, -10), (2500, -15), (3400, -20)),
    "i": ((300, 0), (2250, -14), (3000, -16), (3500, -20)),
    "o": ((450, 0), (850, -7), (2600, -24), (3200, -24)),
    "u": ((330, 0), (720, -14), (2500, -30), (3200, -30)),
    "ae": ((680, 0), (1700, -7), (2500, -15), (3400, -20)),
}


@dataclass(frozen=True)
class Tone:
    """A sustained instrument.

    Attributes:
        formants: (Hz, dB, width relative to Hz) of its body, for each of two colours that notes move between.
        slope: of its source's spectrum: amplitudes fall as harmonic ** −slope.
        odd: level of even harmonics (a clarinet's is low).
        rise: seconds of the attack.
        vibrato: cents.
        vibrato_rate: Hz.
        vibrato_delay: seconds.
        scoop: cents below the note at which it begins.
        breath: level of noise.
        ensemble: players; more than one are slightly apart in pitch and time.
        consonants: probability that a note begins with a noise, as sung syllables do.
    """

    formants: tuple[tuple[tuple[float, float, float], ...], ...]
    slope: float
    odd: float = 1.0
    rise: float = 0.04
    vibrato: float = 20.0
    vibrato_rate: float = 5.3
    vibrato_delay: float = 0.25
    scoop: float = 0.0
    breath: float = 0.02
    ensemble: int = 1
    consonants: float = 0.0


def sustain(
    tone: Tone, pitch: int, velocity: float, seconds: float, rng: np.random.Generator, colors: tuple[int, int] = (0, 1)
) -> np.ndarray:
    """Return a held note, `[frames]` float32.

    Args:
        tone: the instrument.
        pitch: MIDI note.
        velocity: 0 to 1; brighter when louder.
        seconds: length.
        rng: of its small irregularities.
        colors: rows of `formants` that it begins and ends with.
    """
    hertz = frequency(pitch)
    frames = seconds_to_frames(seconds)
    harmonic = harmonics_below_limit(hertz, 80)
    source = harmonic ** -(tone.slope + 0.5 * (1 - velocity))
    source = np.where(harmonic % 2 == 0, source * tone.odd, source)
    rows = [source * _body(tone.formants[color % len(tone.formants)], hertz * harmonic) for color in colors]
    dull = rows[0] / (1 + (hertz * harmonic / 1200) ** 2)
    phases = rng.uniform(0, 6.28, len(harmonic)) if tone.ensemble > 1 else 0.3 * rng.normal(size=len(harmonic))
    tables = wavetables(np.stack([dull, *rows]), phases)
    time = time_axis(frames)
    move = np.minimum(time / max(seconds * 0.8, 0.1), 1.0)
    place = attack(frames, tone.rise * 1.5) * (1 + move)
    sound = np.zeros(frames, dtype=np.float32)
    for _ in range(tone.ensemble):
        off = float(rng.normal(0, 7)) if tone.ensemble > 1 else float(rng.normal(0, 4))
        rate = tone.vibrato_rate * float(rng.uniform(0.92, 1.08))
        depth = tone.vibrato * float(rng.uniform(0.6, 1.3)) * np.clip((time - tone.vibrato_delay) / 0.3, 0, 1)
        bend = depth * np.sin(2 * np.pi * rate * time + rng.uniform(0, 6.28) * (tone.ensemble > 1))
        bend += off - tone.scoop * np.exp(-time / 0.035)
        phase = running_phase((hertz * 2 ** (bend / 1200)).astype(np.float64), frames, float(rng.random()))
        sound += read(tables, phase, place)
    sound /= max(float(np.abs(sound).max()), 1e-9)
    if tone.breath:
        sound += tone.breath * shaped_noise(rng, frames, 800, 7000) * (0.4 + decay(frames, 0.3))
    swell = 1 - 0.25 * np.exp(-time / 0.3) if seconds > 0.5 else 1.0
    sound *= attack(frames, tone.rise) * swell
    if tone.consonants and rng.random() < tone.consonants:
        count = min(frames, seconds_to_frames(float(rng.uniform(0.03, 0.08))))
        low = float(rng.choice([1500, 2500, 4000]))
        sound[:count] += 0.12 * shaped_noise(rng, count, low, low * 2.5) * np.hanning(count).astype(np.float32)
    return sound


def vowels(names: tuple[str, ...], size: float) -> tuple[tuple[tuple[float, float, float], ...], ...]:
    """Return formants of vowels for `Tone`; `size` scales them (1 a man, 1.17 a woman)."""
    return tuple(tuple((hertz * size, level, 0.09) for hertz, level in VOWELS[name]) for name in names)


def _body(formants: tuple[tuple[float, float, float], ...], hertz: np.ndarray) -> np.ndarray:
    """Return the gain of a body at some frequencies: resonances on a low floor."""
    gain = np.full(len(hertz), 0.03)
    for center, level, width in formants:
        gain += 10 ** (level / 20) / (1 + ((hertz - center) / (center * width)) ** 2)
    return gain
