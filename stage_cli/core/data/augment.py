"""Change speed and pitch of target and context together. Imports no torch.

The stretch is Signalsmith's (https://github.com/Signalsmith-Audio/signalsmith-stretch), through python-stretch. Where
that has no wheels (Linux on ARM) it is Rubber Band's (https://breakfastquay.com/rubberband), through pedalboard: a seed
then gives other samples, in the same places.

Make a clean mix sound like a recording: equalizer, saturation, room, noise, lossy coding, level.

Only contexts go through it, never targets: a model that learned from clean songs alone follows nothing else. No effect
moves what is heard: onsets stay where they are, within a few milliseconds.
Imports no torch, and scipy only when an effect is drawn.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from stage_cli.core.data.config import DataConfig
from stage_cli.core.music import is_installed
from stage_cli.errors import StageError

LEAD_SECONDS = 0.24
"""Heard by the stretch before and after the chunk, at the speed of the song: more than one of its blocks (0.12 s)."""


@dataclass(frozen=True)
class Augmentation:
    """One change of speed and pitch.

    Attributes:
        speed: 1.2 plays 20 % faster.
        semitones: up, or down if negative.
    """

    speed: float = 1.0
    semitones: int = 0

    @property
    def is_identity(self) -> bool:
        """Whether nothing changes."""
        return self.speed == 1.0 and self.semitones == 0

    def move(self, times: np.ndarray, start: float) -> np.ndarray:
        """Return where times of a song (seconds) lie in a chunk that begins at `start` and is played at `speed`."""
        return (times - start) / self.speed


def pick_augmentation(config: DataConfig, rng: np.random.Generator) -> Augmentation:
    """Draw a speed (in steps of 1 %) and a pitch (in semitones), each with its probability, else none."""
    changes_speed, changes_pitch = rng.random(2) < (config.speed_probability, config.pitch_probability)
    speed = round(float(rng.uniform(*config.speed)), 2)
    semitones = int(rng.integers(-config.pitch, config.pitch + 1))
    # All are drawn in any case, so that one setting does not change what another one draws.
    return Augmentation(speed if changes_speed else 1.0, semitones if changes_pitch else 0)


def stretch(
    audio: np.ndarray, augmentation: Augmentation, sample_rate: int, *, lead_frames: int, frames: int
) -> np.ndarray:
    """Change speed and pitch of all channels in one call, so that they cannot drift apart.

    Args:
        audio: `[channels, samples]` float32: the chunk with `lead_frames` of what comes before, and as much after it.
        augmentation: what to change.
        sample_rate: Hz.
        lead_frames: samples before the chunk.
        frames: samples to return.

    Returns:
        `[channels, frames]` float32; its first sample is where the chunk begins, within one sample.

    Raises:
        StageError: no library for it is installed; or it gave too little audio, or samples that are not finite.
    """
    change = _by_signalsmith if is_installed("python-stretch") else _by_rubber_band
    stretched = change(np.ascontiguousarray(audio, dtype=np.float32), augmentation, sample_rate)
    first = round(lead_frames / augmentation.speed)
    chunk: np.ndarray = stretched[:, first : first + frames]
    if chunk.shape != (len(audio), frames) or not np.isfinite(chunk).all():
        raise StageError(
            f"the time stretch failed at speed {augmentation.speed:g}, {augmentation.semitones:+d} semitones",
            why=f"it made {stretched.shape[1] - first} samples of {frames}, or samples that are no numbers",
            next_step="set data.speed_probability and data.pitch_probability to 0, and report it",
        )
    return np.ascontiguousarray(chunk)


def _by_signalsmith(audio: np.ndarray, augmentation: Augmentation, sample_rate: int) -> np.ndarray:
    import python_stretch

    processor = python_stretch.Signalsmith.Stretch(0)
    processor.preset(len(audio), sample_rate)
    processor.setTimeFactor(augmentation.speed)
    processor.setTransposeSemitones(augmentation.semitones)
    # It compensates its own latency: the first sample out is the first sample in.
    return np.asarray(processor.process(audio))


def _by_rubber_band(audio: np.ndarray, augmentation: Augmentation, sample_rate: int) -> np.ndarray:
    """Stretch by more or less, then resample: a sixth of the work of Rubber Band's own change of pitch.

    Its short windows smear attacks least: hits land within 6 ms of where they belong, and equally far in each channel.
    Its search for attacks is off: it takes the waves of low notes for some, and bends their pitch by a semitone.
    """
    try:
        import pedalboard
    except ImportError as error:
        raise StageError(
            "changing speed or pitch needs python-stretch or pedalboard, and neither is installed",
            why=str(error),
            next_step="install stage-cli again, or set data.speed_probability and data.pitch_probability to 0",
        ) from None
    ratio = 2 ** (augmentation.semitones / 12)
    factor = augmentation.speed / ratio
    if abs(factor - 1) > 1e-6:
        audio = pedalboard.time_stretch(
            audio,
            sample_rate,
            stretch_factor=factor,
            high_quality=False,
            transient_mode="smooth",
            use_long_fft_window=False,
        )
    if ratio == 1:
        return audio
    import soxr

    return soxr.resample(np.ascontiguousarray(audio.T), sample_rate * ratio, sample_rate, quality="HQ").T


# Each effect's own probability, where effects are drawn at all.
_EQUALIZER, _SATURATION, _ROOM, _NOISE, _CODING = 0.7, 0.4, 0.4, 0.5, 0.25
_WIDEST_GAIN = 9.0  # dB, of one band
_LOW_SHELF, _PEAK, _HIGH_SHELF = (40.0, 300.0), (200.0, 5000.0), (2000.0, 9000.0)  # Hz
_DRIVE = (1.0, 6.0)  # times the mix's own peak of 1
_DECAY = (0.15, 1.0)  # seconds until a room is 60 dB quieter
_ROOM_LEVEL = (-24.0, -6.0)  # dB beside the dry sound
_NOISE_LEVEL = (-55.0, -18.0)  # dB beside the mix's own
_CODING_QUALITY = (0.6, 1.0)  # of libsndfile: 0 is the best, 1 the smallest file
_LEVEL = (-20.0, 0.0)  # dB, peak of the result
_BLOCK = 4096  # libsndfile's Vorbis encoder keeps what is written at once on its stack


def record(audio: np.ndarray, sample_rate: int, rng: np.random.Generator) -> np.ndarray:
    """Put audio through a chain of effects, each drawn with its own probability.

    Args:
        audio: `[samples]` float32, mono.
        sample_rate: Hz.
        rng: draws the effects.

    Returns:
        `[samples]` float32, peak at most 1; silence stays silence.
    """
    peak = float(np.abs(audio).max(initial=0.0))
    drawn = rng.random(5)
    chain = np.random.default_rng(rng.integers(2**63))
    if peak < 1e-6:
        return audio
    heard = audio.astype(np.float64) / peak
    if drawn[0] < _EQUALIZER:
        heard = _equalize(heard, sample_rate, chain)
    if drawn[1] < _SATURATION:
        heard = _saturate(heard, chain.uniform(*_DRIVE))
    if drawn[2] < _ROOM:
        heard = _put_into_room(heard, sample_rate, chain)
    if drawn[3] < _NOISE:
        heard = _add_noise(heard, chain)
    if drawn[4] < _CODING:
        heard = _code(heard, sample_rate, chain.uniform(*_CODING_QUALITY))
    level = 10 ** (chain.uniform(*_LEVEL) / 20)
    return (_normal(heard) * level).astype(np.float32)


def _normal(audio: np.ndarray) -> np.ndarray:
    return audio / max(float(np.abs(audio).max(initial=0.0)), 1e-9)


def _equalize(audio: np.ndarray, sample_rate: int, rng: np.random.Generator) -> np.ndarray:
    """Raise or lower the lows, a band in the middle and the highs."""
    from scipy.signal import sosfilt

    highest = 0.45 * sample_rate
    bands = [
        (kind, math.exp(rng.uniform(math.log(low), math.log(min(high, highest)))), rng.uniform(-1, 1) * _WIDEST_GAIN)
        for kind, (low, high) in (("low", _LOW_SHELF), ("peak", _PEAK), ("high", _HIGH_SHELF))
    ]
    sections = [biquad(kind, hertz, gain, sample_rate) for kind, hertz, gain in bands]
    equalized: np.ndarray = sosfilt(np.array(sections), audio)
    return equalized


def biquad(kind: str, hertz: float, gain: float, sample_rate: int) -> Sequence[float]:
    """Return one second-order section (b0, b1, b2, a0, a1, a2) of an equalizer, a0 = 1.

    Source: R. Bristow-Johnson, Audio EQ Cookbook (https://www.w3.org/TR/audio-eq-cookbook/), with Q = 1 / √2.

    Args:
        kind: "low" or "high" shelf, or "peak".
        hertz: middle of the band or of the shelf's slope.
        gain: dB.
        sample_rate: Hz.
    """
    a = 10 ** (gain / 40)
    omega = 2 * math.pi * hertz / sample_rate
    cosine, alpha = math.cos(omega), math.sin(omega) / math.sqrt(2)
    if kind == "peak":
        b = (1 + alpha * a, -2 * cosine, 1 - alpha * a)
        d = (1 + alpha / a, -2 * cosine, 1 - alpha / a)
    else:
        # A high shelf is a low shelf with the other sign of the cosine.
        sign = 1 if kind == "low" else -1
        c, root = sign * cosine, 2 * math.sqrt(a) * alpha
        b = (
            a * ((a + 1) - (a - 1) * c + root),
            sign * 2 * a * ((a - 1) - (a + 1) * c),
            a * ((a + 1) - (a - 1) * c - root),
        )
        d = ((a + 1) + (a - 1) * c + root, sign * -2 * ((a - 1) + (a + 1) * c), (a + 1) + (a - 1) * c - root)
    return [*(value / d[0] for value in b), 1.0, d[1] / d[0], d[2] / d[0]]


def _saturate(audio: np.ndarray, drive: float) -> np.ndarray:
    """Bend peaks, as tape, amplifiers and hard limiting do."""
    driven: np.ndarray = np.tanh(drive * audio)
    return driven


def _put_into_room(audio: np.ndarray, sample_rate: int, rng: np.random.Generator) -> np.ndarray:
    """Add a diffuse room: noise that decays exponentially. The dry sound stays first."""
    from scipy.signal import oaconvolve

    decay = rng.uniform(*_DECAY)
    seconds = np.arange(round(decay * sample_rate)) / sample_rate
    response = rng.standard_normal(len(seconds)) * 10 ** (-3 * seconds / decay)
    wet = oaconvolve(audio, response)[: len(audio)]
    loudness = _rms(audio) * 10 ** (rng.uniform(*_ROOM_LEVEL) / 20)
    mixed: np.ndarray = audio + wet * loudness / max(_rms(wet), 1e-9)
    return mixed


def _add_noise(audio: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Add white noise, or noise that falls with frequency as a room's does."""
    from scipy.signal import lfilter

    noise = rng.standard_normal(len(audio))
    noise = lfilter([1.0], [1.0, -rng.uniform(0, 0.98)], noise)
    loudness = _rms(audio) * 10 ** (rng.uniform(*_NOISE_LEVEL) / 20)
    noisy: np.ndarray = audio + noise * loudness / max(_rms(noise), 1e-9)
    return noisy


def _code(audio: np.ndarray, sample_rate: int, quality: float) -> np.ndarray:
    """Write Ogg Vorbis at a low bitrate and read it back: it keeps the length and adds no delay."""
    import soundfile

    buffer = io.BytesIO()
    with soundfile.SoundFile(
        buffer, "w", sample_rate, 1, format="OGG", subtype="VORBIS", compression_level=quality
    ) as file:
        for start in range(0, len(audio), _BLOCK):
            file.write(_normal(audio)[start : start + _BLOCK] * 0.9)
    buffer.seek(0)
    coded, _ = soundfile.read(buffer, dtype="float64")
    whole = np.zeros(len(audio))
    whole[: len(coded)] = coded[: len(audio)]
    return whole


def _rms(audio: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(audio)))) if len(audio) else 0.0
