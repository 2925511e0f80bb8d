"""Drum kits: which strokes each voice has, how loud it is in the mix, where it stands, what it silences.

A kit is a folder with a `kit.toml` and one audio file for each sound, in which its takes stand one after the other.
`docs/scripts/make_kits.py` writes those that the package carries.
"""

from __future__ import annotations

import contextlib
import math
import tomllib
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from stage_cli.core.music.notes import Note, voice_of
from stage_cli.core.players.room import BusConfig, RoomConfig
from stage_cli.core.players.sampler import Cut, Strike, pan_gains
from stage_cli.core.players.samples import SOFTER_STEP, SampleStore, SampleTake
from stage_cli.errors import StageError

KIT_FILE = "kit.toml"
_JITTER = 0.3  # dB, standard deviation between two strokes that are struck alike
_FEWEST_TAKES = 3  # a layer with fewer gets copies that are tuned apart
_DETUNE = 0.07  # semitones, between such copies


@dataclass(frozen=True)
class VoicePlace:
    """How a voice stands in a usual mix.

    Attributes:
        level: dB of its hardest stroke's loudest 50 ms, K-weighted.
        pan: −1 left to 1 right, as the drummer sits.
        send: dB to the room.
        ring: strokes of this voice that ring on together; the oldest fades when one more comes.
        fade: seconds of that fade.
        group: what it is called where another voice chokes it.
        chokes: groups that it silences.
    """

    level: float
    pan: float = 0.0
    send: float = -16.0
    ring: int = 2
    fade: float = 0.08
    group: str = ""
    chokes: tuple[str, ...] = ()


PLACES: dict[str, VoicePlace] = {
    "kick": VoicePlace(-9.5, 0.0, -26.0, 1, 0.06),
    "snare": VoicePlace(-9.5, -0.04, -14.0, 2, 0.12),
    "side_stick": VoicePlace(-16.0, -0.12, -14.0, 2, 0.08),
    "closed_hat": VoicePlace(-19.5, -0.38, -20.0, 2, 0.04, "hat", ("hat",)),
    "pedal_hat": VoicePlace(-22.0, -0.38, -20.0, 1, 0.04, "hat", ("hat",)),
    "open_hat": VoicePlace(-19.5, -0.38, -18.0, 1, 0.06, "hat", ("hat",)),
    "ride": VoicePlace(-19.0, 0.42, -18.0, 4, 0.3),
    "crash": VoicePlace(-16.0, -0.25, -15.0, 3, 0.4),
    "high_tom": VoicePlace(-14.5, -0.3, -14.0, 2, 0.15),
    "mid_tom": VoicePlace(-14.0, 0.08, -14.0, 2, 0.15),
    "low_tom": VoicePlace(-13.5, 0.42, -14.0, 2, 0.18),
    "percussion": VoicePlace(-20.0, 0.3, -14.0, 2, 0.1),
}
"""The usual place of each drum voice; a kit may move its own."""

STAND_INS: dict[str, tuple[str, ...]] = {
    "snare": ("side_stick",),
    "side_stick": ("snare", "percussion"),
    "closed_hat": ("pedal_hat", "open_hat", "ride"),
    "pedal_hat": ("closed_hat", "open_hat"),
    "open_hat": ("closed_hat", "crash"),
    "ride": ("crash", "open_hat", "closed_hat"),
    "crash": ("ride", "open_hat", "closed_hat"),
    "high_tom": ("mid_tom", "low_tom", "snare"),
    "mid_tom": ("high_tom", "low_tom", "snare"),
    "low_tom": ("mid_tom", "high_tom", "kick"),
    "percussion": ("side_stick", "closed_hat"),
}
"""What plays a voice that a kit lacks; a kit without a kick is none."""


@dataclass(frozen=True)
class VelocityLayer:
    """Takes of one loudness.

    Attributes:
        velocity: MIDI velocity that they were struck with.
        level: dB of their loudest 50 ms, K-weighted, their mean.
        takes: names of samples.
    """

    velocity: float
    level: float
    takes: tuple[SampleTake, ...]


@dataclass(frozen=True)
class DrumSound:
    """One sound of a kit: a drum, a cymbal, a way to strike it.

    Attributes:
        name: unique in the kit.
        place: level, pan and so on.
        dynamics: exponent of velocity to amplitude.
        layers: from soft to loud.
    """

    name: str
    place: VoicePlace
    layers: tuple[VelocityLayer, ...]
    dynamics: float = 1.5

    def gain(self, velocity: float) -> float:
        """Return a velocity's level relative to the hardest stroke's, in dB."""
        return 20 * self.dynamics * math.log10(max(velocity, 1.0) / 127)


@dataclass(frozen=True)
class DrumKit:
    """A kit that a sampler plays.

    Attributes:
        name: of the kit.
        title: one line for a list.
        sounds: by name.
        keys: General MIDI keys that have a sound of their own, before their voice's.
        gain: dB of the whole kit.
        room: around it.
        bus: behind it.
    """

    name: str
    title: str
    sounds: Mapping[str, DrumSound]
    keys: Mapping[int, str]
    gain: float = 0.0
    room: RoomConfig | None = None
    bus: BusConfig | None = None
    store: SampleStore = field(default_factory=SampleStore, compare=False, repr=False)

    def __post_init__(self) -> None:
        if "kick" not in self.sounds:
            raise StageError(
                f"the kit {self.name} has no kick",
                why="every drum kit needs one" + (f"; it has {', '.join(self.sounds)}" if self.sounds else ""),
                next_step="add a sound named kick, for example kick.wav",
            )

    def sound_of(self, pitch: int) -> DrumSound | None:
        """Return what plays a General MIDI key: its own sound, its voice's, or that of the voice that stands in."""
        if pitch in self.keys:
            return self.sounds[self.keys[pitch]]
        voice = voice_of(pitch)
        if voice is None:
            return None
        return next((self.sounds[name] for name in (voice, *STAND_INS.get(voice, ())) if name in self.sounds), None)

    def perform(self, sample_rate: int, rng: np.random.Generator) -> _KitPerformance:
        """Start to play at a sample rate; takes are drawn from `rng`."""
        return _KitPerformance(self, sample_rate, rng)


class _KitPerformance:
    def __init__(self, kit: DrumKit, sample_rate: int, rng: np.random.Generator) -> None:
        self._kit = kit
        self._sample_rate = sample_rate
        self._rng = rng
        self._last: dict[tuple[str, int], int] = {}
        self._struck: dict[str, int] = {}

    def strikes(self, note: Note) -> Sequence[Strike]:
        sound = self._kit.sound_of(note.pitch)
        if sound is None:
            return ()
        place = sound.place
        number = min(range(len(sound.layers)), key=lambda n: abs(sound.layers[n].velocity - note.velocity))
        layer = sound.layers[number]
        copies = -(-_FEWEST_TAKES // len(layer.takes))
        choice = self._choose((sound.name, number), copies * len(layer.takes))
        gain = sound.gain(note.velocity)
        softer = max(0, round((sound.gain(layer.velocity) - gain) / SOFTER_STEP - 0.25))
        take = layer.takes[choice // copies]
        tune = _DETUNE * (0, 1, -1)[choice % copies]
        samples = self._kit.store.get(take, self._sample_rate, tune=tune, softer=min(softer, 6))
        jitter = float(np.clip(self._rng.normal(0, _JITTER), -2 * _JITTER, 2 * _JITTER))
        level = 10 ** ((place.level + gain - layer.level + jitter + self._kit.gain) / 20)
        left, right = pan_gains(place.pan)
        # A drum that is struck again: all but its last strokes fade. Each stroke has a number for that.
        struck = self._struck.get(sound.name, 0)
        self._struck[sound.name] = struck + 1
        cuts = [Cut(f"{sound.name}/{struck - place.ring}", place.fade)] if struck >= place.ring else []
        cuts += [Cut(group, place.fade) for group in place.chokes]
        groups = (f"{sound.name}/{struck}",) + ((place.group,) if place.group else ())
        # Two of three dB: a pan law of constant power has −3 dB in the middle, where a kick should lose nothing.
        root = math.sqrt(2)
        return (
            Strike(
                samples,
                level * left * root,
                level * right * root,
                level * 10 ** (place.send / 20),
                groups,
                tuple(cuts),
            ),
        )

    def _choose(self, name: tuple[str, int], count: int) -> int:
        """Draw one of `count` takes, never the same twice in a row."""
        last = self._last.get(name)
        if last is None or count == 1:
            choice = int(self._rng.integers(count))
        else:
            choice = int(self._rng.integers(count - 1))
            choice += choice >= last
        self._last[name] = choice
        return choice


def read_kit(folder: Path) -> DrumKit:
    """Read a kit's `kit.toml`; its audio is decoded when it is first played.

    Raises:
        StageError: the file cannot be read, or a field of it is wrong: the error names the field.
    """
    path = folder / KIT_FILE
    table = read_table(path)
    sounds: dict[str, DrumSound] = {}
    keys: dict[int, str] = {}
    for other in table.get("include", ()):
        base = read_kit(folder.parent / str(other))
        sounds |= base.sounds
        keys |= base.keys
    for name, entry in table.get("sounds", {}).items():
        with naming_field(path, f"sounds.{name}"):
            sound, own = _read_sound(folder, name, entry)
            sounds[name] = sound
            keys |= dict.fromkeys(own, name)
    for name, entry in table.get("places", {}).items():
        with naming_field(path, f"places.{name}"):
            sounds[name] = replace(sounds[name], place=replace(sounds[name].place, **_tuples(entry)))
    with naming_field(path, "room, bus or gain"):
        room = RoomConfig(**table["room"]) if "room" in table else None
        bus = BusConfig(**table["bus"]) if "bus" in table else None
        gain = float(table.get("gain", 0.0))
    return DrumKit(folder.name, str(table.get("title", folder.name)), sounds, keys, gain, room, bus)


def read_table(path: Path) -> dict[str, Any]:
    """Read a TOML file.

    Raises:
        StageError: it cannot be read, or is no TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise StageError(f"cannot read {path}", why=error.strerror or str(error)) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise StageError(f"{path} is no valid TOML", why=str(error)) from error


@contextlib.contextmanager
def naming_field(path: Path, name: str) -> Generator[None]:
    """Turn the errors of wrong values into a StageError that names the file's field."""
    try:
        yield
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        why = f"{error.args[0]!r} is missing" if isinstance(error, KeyError) else str(error)
        raise StageError(f"{path}: {name} is wrong", why=why) from error


def _read_sound(folder: Path, name: str, entry: Mapping[str, Any]) -> tuple[DrumSound, tuple[int, ...]]:
    path = folder / str(entry["file"])
    if path.parent != folder:
        raise ValueError(f"{entry['file']!r} lies outside the kit's folder")
    layers = tuple(
        VelocityLayer(
            float(layer["velocity"]),
            float(layer["level"]),
            tuple(SampleTake(path, int(start), int(stop)) for start, stop in layer["takes"]),
        )
        for layer in entry["layers"]
    )
    if not layers or not all(layer.takes for layer in layers):
        raise ValueError("every sound has layers, every layer takes")
    usual = PLACES.get(str(entry.get("voice", name)), PLACES["percussion"])
    place = replace(usual, **_tuples(entry.get("place", {})))
    keys = tuple(int(key) for key in entry.get("keys", ()))
    return DrumSound(name, place, layers, float(entry.get("dynamics", 1.5))), keys


def _tuples(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in entry.items()}
