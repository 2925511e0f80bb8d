"""Recorded one-shots: trimmed to their attack, measured, resampled once, softened for soft strokes."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from stage_cli.core.audio.decoding import AudioDecoder
from stage_cli.core.audio.loudness import k_weighting
from stage_cli.errors import AudioError

LEAD = 0.0005
"""Seconds from a sample's first frame to its attack, which is where the note is."""

LONGEST_SECONDS = 30.0
"""A longer file is no one-shot."""

SOFTER_STEP = 4.0
"""dB between versions of a take for softer strokes."""

_LARGEST_CACHE = 160 << 20  # bytes of samples at the output's rate
_ATTACK = 0.1  # of the peak of the first moments: where a stroke begins
_FLOOR = 1e-3  # of the peak: below it a tail is silence
_WINDOW = 0.05  # seconds over which a stroke is as loud as it gets


def read_sample(path: Path, *, longest: float = LONGEST_SECONDS) -> tuple[np.ndarray, int]:
    """Decode a one-shot: `[frames]` float32 (`[frames, 2]` if it has more channels than one), and its rate in Hz.

    Args:
        path: of any audio file.
        longest: seconds that it may last.

    Raises:
        AudioError: the file cannot be read, is longer than a one-shot, or holds a value that is no number.
    """
    with AudioDecoder(path) as decoder:
        most = longest * decoder.sample_rate
        blocks = []
        while len(block := decoder.read(65_536)):
            blocks.append(block)
            if sum(map(len, blocks)) > most:
                raise AudioError(
                    f"{decoder.name} is too long for a sample",
                    why=f"a one-shot lasts {longest:.0f} s at most",
                    next_step="cut single strokes out of it",
                )
        samples = np.concatenate(blocks) if blocks else np.zeros((0, decoder.channels), dtype=np.float32)
        if not np.isfinite(samples).all():
            raise AudioError(
                f"{decoder.name} holds values that are no numbers", why="its samples are NaN or infinite",
                next_step="export it again",
            )  # fmt: skip
        rate = decoder.sample_rate
    return (samples[:, 0] if samples.shape[1] == 1 else np.ascontiguousarray(samples[:, :2])), rate


def resample(samples: np.ndarray, source_rate: float, target_rate: float) -> np.ndarray:
    """Return samples at another rate (Hz); `source_rate` 6 % up plays them a semitone higher."""
    if source_rate == target_rate or not len(samples):
        return samples
    import soxr

    return soxr.resample(np.ascontiguousarray(samples), source_rate, target_rate, quality="HQ")


@dataclass(frozen=True)
class SampleTake:
    """A stretch of an audio file, and how it goes on.

    Attributes:
        path: of the file (or the name that a store's `load` knows).
        start: frame.
        stop: frame; None for the file's end.
        loop: first and last + 1 frame, counted from `start`, of what repeats while the note is held.
        hold: seconds after which the sound begins to fall; used with `fall`.
        fall: seconds in which it falls by 100 dB, down to `sustain`; 0 for never.
        sustain: dB below the start where it stops falling.
        cutoff: Hz above which it is darker; 0 for none.
    """

    path: Path
    start: int = 0
    stop: int | None = None
    loop: tuple[int, int] | None = None
    hold: float = 0.0
    fall: float = 0.0
    sustain: float = 100.0
    cutoff: float = 0.0


class SampleStore:
    """Decodes files as they are needed, and keeps what was made of them, up to a size.

    What it returns for the same arguments is the same, bit for bit, whatever it was asked for before.

    Args:
        load: path → samples and their rate in Hz.
    """

    def __init__(self, load: Callable[[Path], tuple[np.ndarray, int]] | None = None) -> None:
        self._load = load or (lambda path: read_sample(path, longest=600.0))
        self._files: dict[Path, tuple[np.ndarray, int]] = {}
        self._attacks: dict[SampleTake, float] = {}
        self._made: OrderedDict[tuple[SampleTake, int, float, int, float, float], np.ndarray] = OrderedDict()
        self._bytes = 0

    def get(
        self,
        take: SampleTake,
        sample_rate: int,
        *,
        tune: float = 0.0,
        softer: int = 0,
        seconds: float = LONGEST_SECONDS,
        skip: float = 0.0,
    ) -> np.ndarray:
        """Return a take at a rate, `[frames]` or `[frames, 2]` float32.

        Args:
            take: which.
            sample_rate: Hz.
            tune: semitones up.
            softer: steps of `SOFTER_STEP` by which it is softened.
            seconds: of it that are needed; more may come.
            skip: seconds of the file that are left out at its beginning.
        """
        length = 0.5
        while length < min(seconds, LONGEST_SECONDS):
            length *= 2
        name = (take, sample_rate, round(tune, 3), softer, length, skip)
        if name not in self._made:
            if softer:
                plain = self.get(take, sample_rate, tune=tune, seconds=seconds, skip=skip)
                made = soften(plain, sample_rate, softer * SOFTER_STEP)
            else:
                made = self._make(take, sample_rate, tune, length, skip)
            self._made[name] = made
            self._bytes += made.nbytes
            while self._bytes > _LARGEST_CACHE and len(self._made) > 1:
                self._bytes -= self._made.popitem(last=False)[1].nbytes
        self._made.move_to_end(name)
        return self._made[name]

    def attack(self, take: SampleTake) -> float:
        """Return the seconds from a take's start to its attack."""
        if take not in self._attacks:
            samples, rate = self._decoded(take.path)
            self._attacks[take] = find_attack(samples[take.start : take.stop], rate) / rate
        return self._attacks[take]

    def _make(self, take: SampleTake, sample_rate: int, tune: float, length: float, skip: float) -> np.ndarray:
        samples, rate = self._decoded(take.path)
        source = samples[take.start : take.stop]
        ratio = 2 ** (tune / 12)
        first = round(skip * rate)
        frames = math.ceil(length * rate * ratio)
        if take.loop is not None and first + frames > take.loop[1]:
            begin, end = take.loop
            times = -(-(first + frames - end) // (end - begin))
            source = np.concatenate([source[:end], *([source[begin:end]] * times)])
        cut = first + frames < len(source)
        made = resample(source[first : first + frames], rate * ratio, sample_rate)
        if not len(made):
            return np.zeros(1, dtype=np.float32)
        if take.cutoff:
            made = darken(made, sample_rate, take.cutoff)
        if take.fall:
            seconds = np.maximum(0, np.arange(len(made)) / sample_rate - take.hold)
            gain = (10 ** (-np.minimum(100 * seconds / take.fall, take.sustain) / 20)).astype(np.float32)
            made = made * (gain if made.ndim == 1 else gain[:, None])
        # Vorbis does not fade to nothing where its source did: what it leaves at the end would click.
        return fade_edges(made.copy(), sample_rate, 0.05 if cut else 0.004, fade_in=first > 0)

    def _decoded(self, path: Path) -> tuple[np.ndarray, int]:
        if path not in self._files:
            self._files[path] = self._load(path)
        return self._files[path]


def darken(samples: np.ndarray, rate: int, cutoff: float) -> np.ndarray:
    """Return samples with less above `cutoff` Hz: a causal low pass of 12 dB an octave."""
    place = 1j * np.fft.rfftfreq(2 * len(samples), 1 / rate) / cutoff
    gain = 1 / (1 + math.sqrt(2) * place + place**2)
    spectrum = np.fft.rfft(samples, 2 * len(samples), axis=0) * (gain if samples.ndim == 1 else gain[:, None])
    return np.fft.irfft(spectrum, axis=0)[: len(samples)].astype(np.float32)


def find_attack(samples: np.ndarray, rate: int) -> int:
    """Return the frame at which a stroke begins: the first to reach a tenth of the peak of its first 30 ms."""
    size = np.abs(samples) if samples.ndim == 1 else np.abs(samples).max(axis=1)
    peak = float(size.max(initial=0.0))
    if peak == 0:
        return 0
    # What comes before a tenth of the whole sample's peak is noise; some cymbals swell for a second afterwards.
    rough = int(np.argmax(size >= _ATTACK * peak))
    first = float(size[rough : rough + round(0.03 * rate)].max())
    return int(np.argmax(size >= _ATTACK * first))


def trim(samples: np.ndarray, rate: int, *, fade_out: float = 0.02) -> np.ndarray:
    """Return a stroke from `LEAD` before its attack to where it has died away, faded in and out.

    Args:
        samples: `[frames]` or `[frames, 2]`.
        rate: Hz.
        fade_out: seconds of the fade at its end.
    """
    lead = round(LEAD * rate)
    attack = find_attack(samples, rate)
    before = max(0, lead - attack)
    part = samples[max(0, attack - lead) :]
    if before:
        part = np.concatenate([np.zeros((before, *part.shape[1:]), dtype=part.dtype), part])
    size = np.abs(part) if part.ndim == 1 else np.abs(part).max(axis=1)
    loud = np.flatnonzero(size > _FLOOR * size.max(initial=0.0))
    part = part[: int(loud[-1]) + 1].copy() if len(loud) else part[:1].copy()
    return fade_edges(part, rate, fade_out)


def fade_edges(samples: np.ndarray, rate: int, fade_out: float, *, fade_in: bool = True) -> np.ndarray:
    """Fade a trimmed stroke in over its lead and out over its last `fade_out` seconds, in place; returns it."""
    shape = (slice(None),) + (None,) * (samples.ndim - 1)
    count = min(len(samples), round(LEAD * rate))
    if count and fade_in:
        samples[:count] *= (0.5 - 0.5 * np.cos(np.pi * (np.arange(count) + 0.5) / count)).astype(np.float32)[shape]
    count = min(len(samples), round(fade_out * rate))
    if count:
        ramp = 0.5 + 0.5 * np.cos(np.pi * (np.arange(count) + 1) / count)
        samples[len(samples) - count :] *= ramp.astype(np.float32)[shape]
    return samples


def stroke_level(samples: np.ndarray, rate: int) -> float:
    """Return how loud a stroke is at its loudest: dB of the K-weighted mean square over 50 ms; −120 if silent.

    K-weighting (BS.1770) hears a kick's low end less and a cymbal's highs more, as ears do. Of two channels the
    energies add, as in a loudness meter.
    """
    columns = samples[:, None] if samples.ndim == 1 else samples
    window = max(1, round(_WINDOW * rate))
    # The loudest moment of a stroke is soon after it begins; a second holds that of every cymbal.
    head = np.zeros((max(window, min(len(columns), rate)), columns.shape[1]))
    head[: len(columns)] = columns[: len(head)]
    spectrum = np.fft.rfft(head, 2 * len(head), axis=0) * _k_response(rate, len(head) + 1)[:, None]
    squares = (np.fft.irfft(spectrum, axis=0)[: len(head)] ** 2).sum(axis=1)
    sums = np.concatenate([[0.0], np.cumsum(squares)])
    power = float((sums[window:] - sums[:-window]).max()) / window
    return 10 * math.log10(power) if power > 1e-12 else -120.0


def soften(samples: np.ndarray, rate: int, decibels: float) -> np.ndarray:
    """Return a stroke as if it had been struck more softly by so many dB: darker, not quieter.

    A stick that hits a skin or a plate more softly excites less of its highs: about half a dB less at 4 kHz and above
    for each dB that the stroke is softer.
    """
    size = 1 << (len(samples) - 1).bit_length()
    hertz = np.fft.rfftfreq(2 * size, 1 / rate)
    depth = 10 ** (-0.5 * decibels / 20)
    # A first-order shelf around 2.2 kHz, without phase: the attack stays where it is.
    ratio = (hertz / 2200) ** 2
    gain = np.sqrt((1 + depth**2 * ratio) / (1 + ratio))
    spectrum = np.fft.rfft(samples, 2 * size, axis=0)
    spectrum *= gain if samples.ndim == 1 else gain[:, None]
    softer = np.fft.irfft(spectrum, axis=0)[: len(samples)].astype(np.float32)
    count = min(len(softer), round(LEAD * rate))
    ramp = (0.5 - 0.5 * np.cos(np.pi * (np.arange(count) + 0.5) / max(count, 1))).astype(np.float32)
    softer[:count] *= ramp if samples.ndim == 1 else ramp[:, None]
    return softer


def _k_response(rate: int, bins: int) -> np.ndarray:
    """Return the K-weighting's complex gain at `bins` frequencies from 0 to half the rate."""
    turn = np.exp(-1j * np.pi * np.arange(bins) / max(bins - 1, 1))
    response = np.ones(bins, dtype=complex)
    for b0, b1, b2, _, a1, a2 in k_weighting(rate):
        response *= (b0 + b1 * turn + b2 * turn**2) / (1 + a1 * turn + a2 * turn**2)
    return response
