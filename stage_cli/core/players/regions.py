"""Sounds mapped by regions: a key range, a velocity range, a sample. What SFZ files and SoundFonts come down to."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from stage_cli.core.music.notes import Note, pitch_of, voice_of
from stage_cli.core.players.kits import PLACES, STAND_INS
from stage_cli.core.players.room import BusConfig, RoomConfig
from stage_cli.core.players.sampler import Cut, Strike, pan_gains
from stage_cli.core.players.samples import LEAD, SampleStore, SampleTake, stroke_level
from stage_cli.errors import StageError

_PITCHED_LEVEL = -20.0  # dB of a note of velocity 100, K-weighted


@dataclass(frozen=True)
class Region:
    """Which notes play a sample, and how.

    Attributes:
        take: the sample.
        low_key: MIDI note.
        high_key: MIDI note.
        low_velocity: 1 to 127.
        high_velocity: 1 to 127.
        root: MIDI note at which the sample has its own pitch.
        tune: semitones added.
        tracking: semitones a key; 0 plays every key at the sample's own pitch.
        gain: dB.
        dynamics: exponent of velocity to amplitude.
        pan: −1 to 1.
        turns: strokes after which a cycle of samples begins anew.
        turn: number in that cycle, from 0.
        low_chance: of a number from 0 to 1 that is drawn for each note, the lowest that plays this.
        high_chance: the first that does not.
        group: name under which it silences others; "" for none.
        silenced_by: group that silences it; "" for none.
        silence: seconds of that fade.
        one_shot: whether it sounds to its end however short the note is.
        release: seconds in which it dies away once the note ends.
    """

    take: SampleTake
    low_key: int = 0
    high_key: int = 127
    low_velocity: int = 1
    high_velocity: int = 127
    root: float = 60
    tune: float = 0.0
    tracking: float = 1.0
    gain: float = 0.0
    dynamics: float = 2.0
    pan: float = 0.0
    turns: int = 1
    turn: int = 0
    low_chance: float = 0.0
    high_chance: float = 1.0
    group: str = ""
    silenced_by: str = ""
    silence: float = 0.012
    one_shot: bool = False
    release: float = 0.05

    def plays(self, key: int, velocity: int) -> bool:
        """Whether a note's key and velocity are its own."""
        return self.low_key <= key <= self.high_key and self.low_velocity <= velocity <= self.high_velocity


@dataclass(frozen=True)
class RegionSounds:
    """A map of regions that a sampler plays.

    Attributes:
        name: of the sounds.
        regions: all of them.
        drums: whether keys are drums, which ring out and stand in for each other.
        store: of their samples.
        send: dB to the room.
        room: around them.
        bus: behind them.
    """

    name: str
    regions: tuple[Region, ...]
    drums: bool
    store: SampleStore = field(default_factory=SampleStore, compare=False, repr=False)
    send: float = -24.0
    room: RoomConfig | None = None
    bus: BusConfig | None = None

    def __post_init__(self) -> None:
        if not self.regions:
            raise StageError(f"{self.name} has no sounds", why="not one of its regions names a sample")
        if self.drums and not any(self._has(key) for key in (36, 35)):
            raise StageError(
                f"{self.name} has no kick",
                why="nothing plays the keys 36 and 35 of General MIDI's drums",
                next_step="map a bass drum to key 36",
            )

    def _has(self, key: int) -> bool:
        return any(region.low_key <= key <= region.high_key for region in self.regions)

    def key_of(self, pitch: int) -> int | None:
        """Return the key that plays a note: its own, for drums else another of its voice or of one that stands in."""
        if self._has(pitch):
            return pitch
        voice = voice_of(pitch) if self.drums else None
        if voice is None:
            return None
        same = [key for key in range(128) if voice_of(key) == voice]
        others = [pitch_of(other) for other in STAND_INS.get(voice, ())]
        return next((key for key in same + others if self._has(key)), None)

    def perform(self, sample_rate: int, rng: np.random.Generator) -> _RegionPerformance:
        """Start to play at a sample rate; chances are drawn from `rng`."""
        return _RegionPerformance(self, sample_rate, rng)


class _RegionPerformance:
    def __init__(self, sounds: RegionSounds, sample_rate: int, rng: np.random.Generator) -> None:
        self._sounds = sounds
        self._sample_rate = sample_rate
        self._rng = rng
        self._struck: dict[int, int] = {}
        self._gain = self._find_gain()

    def strikes(self, note: Note) -> Sequence[Strike]:
        key = self._sounds.key_of(note.pitch)
        chance = float(self._rng.random())
        if key is None:
            return ()
        turn = self._struck.get(key, 0)
        self._struck[key] = turn + 1
        return self._strikes(key, note.velocity, note.duration, turn, chance)

    def _strikes(self, key: int, velocity: int, duration: float, turn: int, chance: float) -> list[Strike]:
        sounds = self._sounds
        chosen = [
            region
            for region in sounds.regions
            if region.plays(key, velocity)
            and turn % region.turns == region.turn
            and region.low_chance <= chance < region.high_chance
        ]
        if not chosen:
            return []
        # Several microphones of one stroke keep their distances: all begin as much earlier as the first attack asks.
        # With a sample that is quieter by 20 dB, what it does first does not count.
        skip = max(0.0, min(sounds.store.attack(region.take) for region in chosen) - LEAD)
        strikes = []
        for region in chosen:
            one_shot = region.one_shot or sounds.drums
            samples = sounds.store.get(
                region.take,
                self._sample_rate,
                tune=region.tune + (key - region.root) * region.tracking,
                seconds=30.0 if one_shot else duration + region.release + 0.1,
                skip=skip,
            )
            level = 10 ** ((region.gain + 20 * region.dynamics * math.log10(velocity / 127) + self._gain) / 20)
            left, right = pan_gains(region.pan)
            groups = [f"key {key}"] + ([f"silenced by {region.silenced_by}"] if region.silenced_by else [])
            cuts = [Cut(f"silenced by {region.group}", region.silence)] if region.group else []
            if not sounds.drums:
                cuts.append(Cut(f"key {key}", 0.03))
            strikes.append(
                Strike(
                    samples,
                    level * left * math.sqrt(2),
                    level * right * math.sqrt(2),
                    level * 10 ** (sounds.send / 20),
                    tuple(groups),
                    tuple(cuts),
                    hold=None if one_shot else duration,
                    release=region.release,
                )
            )
        return strikes

    def _find_gain(self) -> float:
        """Return the dB that bring the sounds to the level of the package's own."""
        self._gain = 0.0
        if self._sounds.drums:
            wanted = [
                (self._sounds.key_of(pitch_of(voice)), 127, PLACES[voice].level + 3) for voice in ("kick", "snare")
            ]
        else:
            keys = [key for key in range(36, 85, 4) if self._sounds.key_of(key) is not None] or [
                self._sounds.regions[0].low_key
            ]
            wanted = [(key, 100, _PITCHED_LEVEL) for key in keys[:: max(1, len(keys) // 3)]]
        missing = []
        for key, velocity, level in wanted:
            if key is None:
                continue
            strikes = self._strikes(key, velocity, 1.0, 0, 0.5) or self._strikes(key, velocity, 1.0, 0, 0.0)
            frames = max((len(strike.samples) for strike in strikes), default=0)
            if frames:
                sum_of = np.zeros((frames, 2), dtype=np.float32)
                for strike in strikes:
                    columns = strike.samples if strike.samples.ndim == 2 else strike.samples[:, None]
                    sum_of[: len(columns)] += columns * np.array([strike.left, strike.right], dtype=np.float32)
                heard = stroke_level(sum_of, self._sample_rate)
                if heard > -100:
                    missing.append(level - heard)
        # As loud as the louder of them allows; 40 dB are enough to tell a quiet library from a broken one.
        return float(np.clip(min(missing), -40, 40)) if missing else 0.0
