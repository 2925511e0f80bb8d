"""The sampler: strikes of recorded sounds, cut and faded, mixed to stereo, in a room, on a bus.

    session = Sampler(sounds).session(sample_rate=48_000, seed=0)
    block = session.push(notes, until_frame=96_000)  # [frames, 2] float32
    rest = session.finish(480_000)

What a note sounds like is its `Sounds`' affair (a kit, an SFZ file, a soundfont): it answers each note with strikes.
All that the sampler does at a frame depends on the frame's number alone, so a stream's blocks are those of a file.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from stage_cli.core.music.notes import Note
from stage_cli.core.players.room import BLOCK, Bus, BusConfig, Room, RoomConfig, impulse_response

SHORTEST_FADE = 0.002
"""Seconds; a shorter one clicks."""

_MOST_VOICES = 192  # that sound at once; beyond it the oldest are let go


@dataclass(frozen=True, slots=True)
class Cut:
    """A group of voices that a strike silences, in so many seconds."""

    group: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Strike:
    """One sound that begins with a note.

    Attributes:
        samples: `[frames]` or `[frames, 2]` float32 at the session's rate.
        left: gain.
        right: gain.
        send: gain to the room.
        groups: names by which later strikes can cut it.
        cuts: what it cuts.
        hold: seconds after which it is let go; None lets it ring out.
        release: seconds in which it dies away once it is let go.
    """

    samples: np.ndarray
    left: float
    right: float
    send: float = 0.0
    groups: tuple[str, ...] = ()
    cuts: tuple[Cut, ...] = ()
    hold: float | None = None
    release: float = 0.05


class SamplerPerformance(Protocol):
    """Sounds in use: what remembers which take came last."""

    def strikes(self, note: Note) -> Sequence[Strike]:
        """Return what a note sets off; nothing for notes that the sounds do not have."""
        ...


class Sounds(Protocol):
    """What a sampler plays: a kit, the regions of an SFZ file or a soundfont."""

    @property
    def room(self) -> RoomConfig | None:
        """The room around it."""
        ...

    @property
    def bus(self) -> BusConfig | None:
        """The compressor behind it."""
        ...

    def perform(self, sample_rate: int, rng: np.random.Generator) -> SamplerPerformance:
        """Start to play at a sample rate; takes are drawn from `rng`."""
        ...


_NEVER = 1 << 62


@dataclass(frozen=True, slots=True)
class _Fade:
    """From frame `since` on, a voice falls from 1 at `start` to 0 at `end`: half a period of a cosine."""

    since: int
    start: int
    end: int

    def shape(self, first: int, last: int) -> np.ndarray:
        """Return the gains of frames `first` to `last`."""
        place = np.arange(first - self.start, last - self.start, dtype=np.float32)
        place /= np.float32(self.end - self.start)
        return 0.5 + 0.5 * np.cos(np.float32(math.pi) * np.clip(place, 0, 1))


@dataclass(slots=True)
class _Voice:
    strike: Strike
    start: int  # frame of the stream
    end: int  # frame at which it is over
    fades: list[_Fade] = field(default_factory=list)

    def let_go(self, frame: int, frames: int) -> None:
        """Fade from a frame on; a fade that ends sooner stays."""
        if frame + frames >= self.end:
            return
        start = frame
        if self.fades and self.fades[-1].start < frame:
            # In the middle of a slower fade: the rest of it goes faster, from where it is, without a step.
            last = self.fades[-1]
            done = (frame - last.start) / (last.end - last.start)
            start = frame - round(frames / (1 - done) * done)
        elif self.fades:
            self.fades.pop()
        self.end = frame + frames
        self.fades.append(_Fade(frame, start, self.end))


class SamplerSession:
    """One performance, rendered as its notes arrive.

    The frames are made in blocks of `BLOCK`, whatever `push` asks for: concatenated they are the samples of a render
    at once, bit for bit. Memory holds the sounds in use and one block.
    """

    def __init__(self, sounds: Sounds, sample_rate: int, seed: int) -> None:
        self.sample_rate = sample_rate
        self._performance = sounds.perform(sample_rate, np.random.default_rng([seed, 0xD2]))
        self._room = Room(impulse_response(sounds.room, sample_rate)) if sounds.room else None
        self._bus = Bus(sounds.bus, sample_rate) if sounds.bus else None
        self._waiting: list[Note] = []
        self._voices: list[_Voice] = []
        self._made = 0  # frames, whole blocks
        self._given = 0
        self._rest = np.zeros((0, 2), dtype=np.float32)  # made, but not asked for yet
        self._known = 0  # frames up to which all notes are known
        self._finished = False

    def push(self, notes: Iterable[Note], until_frame: int) -> np.ndarray:
        """Take the next notes and return the frames that they decide.

        Args:
            notes: in order of onset, none before the last `until_frame`; all notes that begin before the new one.
            until_frame: the stream's frame up to which all notes are known now.

        Returns:
            `[frames, 2]` float32: all whole blocks before `until_frame` that were not returned yet; may be none.

        Raises:
            ValueError: notes out of order or too late, or the session is finished.
        """
        if self._finished:
            raise ValueError("push() after finish()")
        for note in notes:
            frame = self._frame(note)
            if frame < self._known or (self._waiting and note.onset < self._waiting[-1].onset):
                raise ValueError(f"notes come in order of onset, from frame {self._known} on: {note}")
            self._waiting.append(note)
        self._known = max(self._known, until_frame)
        return self._take(self._known // BLOCK * BLOCK)

    def finish(self, frames: int) -> np.ndarray:
        """Return the rest of a stream of `frames` frames, `[frames, 2]` float32; notes beyond it are dropped.

        Raises:
            ValueError: more frames than that were returned already.
        """
        if frames < self._given:
            raise ValueError(f"{self._given} frames were returned already, finish({frames}) takes none back")
        self._finished = True
        out = self._take(frames)
        self._voices, self._waiting = [], []
        return out

    def _frame(self, note: Note) -> int:
        return math.floor(note.onset * self.sample_rate + 0.5)

    def _take(self, until: int) -> np.ndarray:
        blocks = [self._rest]
        while self._made < until:
            blocks.append(self._block())
        ready = np.concatenate(blocks) if len(blocks) > 1 else self._rest
        count = max(0, until - self._given)
        self._given += count
        self._rest = ready[count:].copy()
        return ready[:count]

    def _block(self) -> np.ndarray:
        start, end = self._made, self._made + BLOCK
        self._made = end
        count = 0
        while count < len(self._waiting) and self._frame(self._waiting[count]) < end:
            self._begin(self._waiting[count])
            count += 1
        del self._waiting[:count]
        # One row a channel: additions run over memory in order.
        mix = np.zeros((3, BLOCK), dtype=np.float32)
        for voice in self._voices:
            self._add(voice, mix, start, end)
        self._voices = [voice for voice in self._voices if voice.end > end]
        out = mix[:2]
        if self._room is not None:
            answer = self._room.process(mix[2])
            if answer is not None:
                out += answer
        if self._bus is not None:
            out = self._bus.process(out)
        return np.ascontiguousarray(out.T)

    def _begin(self, note: Note) -> None:
        frame = self._frame(note)
        for strike in self._performance.strikes(note):
            for cut in strike.cuts:
                frames = self._fade_frames(cut.seconds)
                for voice in self._voices:
                    if cut.group in voice.strike.groups and voice.start < frame:
                        voice.let_go(frame, frames)
            voice = _Voice(strike, frame, frame + len(strike.samples))
            if strike.hold is not None:
                voice.let_go(frame + round(strike.hold * self.sample_rate), self._fade_frames(strike.release))
            self._voices.append(voice)
        if len(self._voices) > _MOST_VOICES:
            for voice in self._voices[:-_MOST_VOICES]:
                voice.let_go(frame, self._fade_frames(0.02))

    def _fade_frames(self, seconds: float) -> int:
        return max(1, round(max(seconds, SHORTEST_FADE) * self.sample_rate))

    @staticmethod
    def _add(voice: _Voice, mix: np.ndarray, start: int, end: int) -> None:
        first, last = max(start, voice.start), min(end, voice.end)
        if first >= last:
            return
        strike = voice.strike
        part = strike.samples[first - voice.start : last - voice.start]
        if voice.fades and voice.fades[0].since < last:
            part = part.copy()
            ends = [fade.since for fade in voice.fades[1:]] + [_NEVER]
            for fade, until in zip(voice.fades, ends, strict=True):
                begin, stop = max(first, fade.since), min(last, until)
                if begin < stop:
                    shape = fade.shape(begin, stop)
                    part[begin - first : stop - first] *= shape if part.ndim == 1 else shape[:, None]
        target = mix[:, first - start : last - start]
        if part.ndim == 1:
            target[0] += part * np.float32(strike.left)
            target[1] += part * np.float32(strike.right)
            if strike.send:
                target[2] += part * np.float32(strike.send)
        else:
            target[0] += part[:, 0] * np.float32(strike.left)
            target[1] += part[:, 1] * np.float32(strike.right)
            if strike.send:
                target[2] += (part[:, 0] + part[:, 1]) * np.float32(strike.send / 2)


@dataclass(frozen=True)
class Sampler:
    """An instrument made of recorded (or computed) sounds.

    Attributes:
        sounds: what it plays.
    """

    sounds: Sounds

    def session(self, sample_rate: int, seed: int) -> SamplerSession:
        """Start a performance that is rendered as its notes arrive.

        Args:
            sample_rate: Hz.
            seed: of the choice of takes and of the small differences between strokes.
        """
        return SamplerSession(self.sounds, sample_rate, seed)

    def render(self, notes: Iterable[Note], frames: int, sample_rate: int, *, seed: int) -> np.ndarray:
        """Return the notes' sound, `[frames, 2]` float32: what a session's blocks are, concatenated.

        Args:
            notes: in any order; those that begin behind the end are dropped.
            frames: length of the result.
            sample_rate: Hz.
            seed: of the choice of takes.
        """
        session = self.session(sample_rate, seed)
        begun = session.push(sorted(notes), frames)
        return np.concatenate([begun, session.finish(frames)])


def pan_gains(pan: float) -> tuple[float, float]:
    """Return the gains of a constant-power pan: −1 left, 0 both at −3 dB, 1 right."""
    angle = (min(1.0, max(-1.0, pan)) + 1) * math.pi / 4
    return math.cos(angle), math.sin(angle)
