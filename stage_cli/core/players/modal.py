"""A piano and an electric piano, computed: each note is a sum of partials that die away, none of it is a recording.

A note is `Re Σ c · exp((iω − σ) t)` over its modes. With t = block + place the exponential is a product, so the sum is
one product of two small matrices: some milliseconds for seconds of sound.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from stage_cli.core.music.notes import Note
from stage_cli.core.players.room import BusConfig, RoomConfig
from stage_cli.core.players.sampler import Cut, Strike
from stage_cli.core.players.samples import stroke_level

_PLACES = 512  # frames of a block
_QUIET = 1e-4  # of the loudest mode; a mode that has fallen below it is left out
_VELOCITY_STEP = 16  # velocities that share a timbre
_LONGEST = 8.0  # seconds
_LARGEST_CACHE = 128 << 20  # bytes


@dataclass(frozen=True)
class Modes:
    """Modes of one note.

    Attributes:
        hertz: `[modes]`.
        decay: `[modes]`, 1/s: the amplitude falls by e in 1 / decay seconds.
        weights: `[channels, modes]` complex: amplitude and phase at the note's start.
    """

    hertz: np.ndarray
    decay: np.ndarray
    weights: np.ndarray


def sum_modes(modes: Modes, frames: int, sample_rate: int) -> np.ndarray:
    """Return the modes' sound, `[frames, channels]` float32."""
    turns, decay = modes.hertz / sample_rate, modes.decay / sample_rate  # per frame
    channels = len(modes.weights)
    out = np.empty((channels, -(-frames // _PLACES) * _PLACES), dtype=np.float32)
    size = np.abs(modes.weights).max(axis=0)
    # Rows of real and imaginary parts: a product of complex numbers is one of real matrices.
    within = _powers(turns[:, None], decay[:, None], np.arange(_PLACES))
    start = 0
    length = 8 * _PLACES
    while start < out.shape[1]:
        # High modes die first: each stretch, twice as long as the one before, sums only those that are left.
        stop = min(start + length, out.shape[1])
        heard = size * np.exp(-decay * start) > _QUIET * size.max()
        real, imaginary = _powers(turns[heard], decay[heard], np.arange(start, stop, _PLACES)[:, None])
        left = np.concatenate([real, -imaginary], axis=1)  # [blocks, 2 · modes]
        for channel in range(channels):
            weight = modes.weights[channel, heard, None]
            real, imaginary = weight.real.astype(np.float32), weight.imag.astype(np.float32)
            c, s = within[0][heard], within[1][heard]
            right = np.concatenate([real * c - imaginary * s, real * s + imaginary * c])
            out[channel, start:stop] = (left @ right).reshape(-1)
        start, length = stop, 2 * length
    return np.ascontiguousarray(out[:, :frames].T)


def _powers(turns: np.ndarray, decay: np.ndarray, frame: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the real and imaginary parts of exp((2πi · turns − decay) · frame), float32.

    The angle is reduced in double precision: after a minute a float32 one would be out of tune.
    """
    angle = (np.mod(turns * frame, 1.0) * (2 * np.pi)).astype(np.float32)
    size = np.exp((-decay * frame).astype(np.float32))
    return size * np.cos(angle), size * np.sin(angle)


def piano_modes(pitch: int, loudness: float) -> Modes:
    """Return a grand piano's note.

    Stiff strings (inharmonicity after Rigaud, David and Daudet, DAFx 2011, for a typical grand), two for each partial:
    one that gives its energy to the soundboard soon, and one that rings on, slightly apart, so that they beat. A
    hammer at an eighth of the string that gets harder with loudness. The board's own modes knock at the start.

    Args:
        pitch: MIDI note number.
        loudness: 0 to 1.
    """
    rng = np.random.default_rng([pitch, 71])
    hertz = 440 * 2 ** ((pitch - 69) / 12)
    stiffness = math.exp(0.0926 * pitch - 13.64) + math.exp(-0.0847 * pitch - 5.82)
    number = np.arange(1, 49)
    partials = hertz * number * np.sqrt((1 + stiffness * number**2) / (1 + stiffness))
    number, partials = number[partials < 13_000], partials[partials < 13_000]
    cutoff = (350 + 2600 * loudness**1.6) * (hertz / 262) ** 0.42 + 1.3 * hertz
    hammer = np.abs(np.sin(np.pi * number / 8.15)) + 0.04
    size = hammer / number**0.55 / (1 + (partials / cutoff) ** 2) ** (1.15 - 0.25 * loudness)
    size *= 10 ** (rng.normal(0, 2.2, len(number)) / 20)
    size *= partials / np.hypot(partials, 95)  # the board radiates little below
    slow = 6.9 / (17 * 2 ** ((45 - pitch) / 21))
    decay = slow + 0.11 * (partials / 1000) ** 1.4 + 0.4 * (partials / 4000) ** 2
    apart = rng.uniform(0.15, 0.6, len(number)) * (0.6 if pitch < 40 else 1.0) / 1200
    ring = 10 ** (-rng.uniform(9, 16, len(number)) / 20)
    frequencies = [partials * 2**apart, (partials * 2**-apart)[:24]]
    decays = [2.4 * decay * (1 + rng.uniform(-0.2, 0.3, len(number))), 0.6 * decay[:24]]
    sizes = [size, (size * ring)[:24]]
    # The board, struck through the bridge.
    knocks = 26
    board = 75 * 2 ** rng.uniform(0, 4.6, knocks)
    frequencies.append(board)
    decays.append(rng.uniform(25, 70, knocks) * (board / 200) ** 0.35)
    sizes.append(
        0.055 * loudness * size.max() * 2 ** ((pitch - 60) / 30) * rng.uniform(0.3, 1, knocks) / (board / 200) ** 0.7
    )
    all_hertz = np.concatenate(frequencies)
    amplitude = np.concatenate(sizes)
    # Each partial reaches two microphones a little differently; low strings lie left.
    side = np.clip((pitch - 62) / 60, -0.45, 0.45) + rng.normal(0, 0.22, len(all_hertz))
    angle = (np.clip(side, -0.95, 0.95) + 1) * np.pi / 4
    shift = rng.normal(0, 0.35, len(all_hertz))
    weights = np.stack([amplitude * np.cos(angle), amplitude * np.sin(angle) * np.exp(1j * shift)]) * -1j
    return Modes(all_hertz, np.concatenate(decays), weights)


def electric_piano_modes(pitch: int, loudness: float) -> Modes:
    """Return a tine piano's note before its pickup: the tine, its tone bar, its bell-like overtones."""
    rng = np.random.default_rng([pitch, 72])
    hertz = 440 * 2 ** ((pitch - 69) / 12)
    ratios = np.array([1.0, 1.0005, 2.0, 3.0, 7.11, 17.6, 5.3])
    sizes = np.array([1.0, 0.25, 0.03, 0.02, 0.32 * loudness**1.3, 0.16 * loudness**2, 0.10 * loudness])
    rings = np.array([9.0, 13.0, 5.0, 3.0, 0.75, 0.22, 0.05]) * 2 ** ((57 - pitch) / 24)
    inside = hertz * ratios < 11_000
    ratios, sizes, rings = ratios[inside], sizes[inside] * rng.uniform(0.85, 1.15, inside.sum()), rings[inside]
    return Modes(hertz * ratios, 6.9 / rings, sizes[None, :] * -1j)


def grand_piano_note(pitch: int, velocity: int, frames: int, sample_rate: int) -> np.ndarray:
    """Return a grand piano's note, `[frames, 2]` float32."""
    return sum_modes(piano_modes(pitch, velocity / 127), frames, sample_rate)


def electric_piano_note(pitch: int, velocity: int, frames: int, sample_rate: int) -> np.ndarray:
    """Return an electric piano's note, `[frames]` float32: a tine that swings past a magnet off its middle."""
    loudness = velocity / 127
    tine = sum_modes(electric_piano_modes(pitch, loudness), frames, sample_rate)[:, 0]
    # The field falls off around the magnet: harder strokes reach where it bends, and bark.
    swing = tine * np.float32((0.25 + 0.75 * loudness**1.4) * 2 ** ((60 - pitch) / 40)) + np.float32(0.32)
    voltage = swing / (1 + 1.6 * swing * swing)
    rest = 0.32 / (1 + 1.6 * 0.32**2)
    # A coil hears how the field changes: nothing that stands still.
    spectrum = np.fft.rfft(voltage - rest, 2 * frames)
    hertz = np.fft.rfftfreq(2 * frames, 1 / sample_rate)
    return np.fft.irfft(spectrum * (1j * hertz / (70 + 1j * hertz)))[:frames].astype(np.float32)


@dataclass(frozen=True)
class ComputedSounds:
    """A keyboard whose notes are computed when they are first played.

    Attributes:
        name: of the instrument.
        title: one line for a list.
        note: (pitch, velocity, frames, sample rate) → `[frames]` or `[frames, 2]`.
        lowest: MIDI note; lower ones sound an octave or more higher.
        highest: MIDI note.
        level: dB of the hardest stroke at middle C, K-weighted.
        dynamics: exponent of velocity to amplitude.
        release: seconds in which a damper silences a string.
        send: dB to the room.
        room: around it.
        bus: behind it.
    """

    name: str
    title: str
    note: Callable[[int, int, int, int], np.ndarray]
    lowest: int = 21
    highest: int = 108
    level: float = -14.0
    dynamics: float = 1.3
    release: float = 0.18
    send: float = -15.0
    room: RoomConfig | None = None
    bus: BusConfig | None = None
    cache: OrderedDict[tuple[int, int, int, int], np.ndarray] = field(
        default_factory=OrderedDict, compare=False, repr=False
    )

    def perform(self, sample_rate: int, rng: np.random.Generator) -> _ComputedPerformance:
        """Start to play at a sample rate."""
        return _ComputedPerformance(self, sample_rate, rng)

    def sound(self, pitch: int, velocity: int, seconds: float, sample_rate: int) -> np.ndarray:
        """Return a note at an even loudness of 0 dB over its loudest 50 ms: its timbre, not how loud it is."""
        length = 0.5
        while length < min(seconds, _LONGEST):
            length *= 2
        timbre = min(127, (velocity // _VELOCITY_STEP) * _VELOCITY_STEP + _VELOCITY_STEP // 2)
        name = (pitch, timbre, round(length * 1000), sample_rate)
        if name not in self.cache:
            samples = self.note(pitch, timbre, round(length * sample_rate), sample_rate)
            tail = min(len(samples), round(0.15 * sample_rate))
            ramp = (0.5 + 0.5 * np.cos(np.pi * (np.arange(tail) + 1) / tail)).astype(np.float32)
            samples[len(samples) - tail :] *= ramp if samples.ndim == 1 else ramp[:, None]
            head = samples[: sample_rate // 4]  # a struck string is loudest at its start
            samples *= np.float32(10 ** (-stroke_level(head, sample_rate) / 20))
            self.cache[name] = samples
            total = sum(array.nbytes for array in self.cache.values())
            while total > _LARGEST_CACHE and len(self.cache) > 1:
                total -= self.cache.popitem(last=False)[1].nbytes
        self.cache.move_to_end(name)
        return self.cache[name]


class _ComputedPerformance:
    def __init__(self, sounds: ComputedSounds, sample_rate: int, rng: np.random.Generator) -> None:
        self._sounds = sounds
        self._sample_rate = sample_rate
        self._rng = rng

    def strikes(self, note: Note) -> Sequence[Strike]:
        sounds = self._sounds
        pitch = fold_pitch(note.pitch, sounds.lowest, sounds.highest)
        release = sounds.release * (1.0 if pitch < 90 else 3.0)  # a piano's highest strings have no dampers
        samples = sounds.sound(pitch, note.velocity, note.duration + release + 0.05, self._sample_rate)
        jitter = float(np.clip(self._rng.normal(0, 0.25), -0.5, 0.5))
        decibels = sounds.level + 20 * sounds.dynamics * math.log10(note.velocity / 127) + jitter
        level = 10 ** (decibels / 20)
        if samples.ndim == 1:
            # A loudness meter adds the channels' energies: the same in both counts twice.
            level /= math.sqrt(2)
        name = f"key {pitch}"
        return (
            Strike(
                samples,
                level,
                level,
                level * 10 ** (sounds.send / 20),
                (name,),
                (Cut(name, 0.06),),
                hold=note.duration,
                release=release,
            ),
        )


def fold_pitch(pitch: int, lowest: int, highest: int) -> int:
    """Return a pitch by octaves nearer, so that it lies within an instrument's range."""
    while pitch < lowest:
        pitch += 12
    while pitch > highest:
        pitch -= 12
    return pitch
