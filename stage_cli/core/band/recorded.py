"""Recorded one-shots as a bank beside the synthesizer and soundfonts: a folder of drum kits and sampled instruments.

    bank = RecordedBank(open_recordings(Path("kits")), SynthBank())

Each folder in it is a kit (samples named by voice, or a `kit.toml`) or an instrument (`instrument.toml`). They are read
by `core/players`; here their single sounds take the places of the synthesizer's in some songs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from stage_cli.core.band.instruments import CLAP, DRUM_TRACKS, SAMPLE_RATE
from stage_cli.core.band.randomness import chance, pick
from stage_cli.core.band.synth_drums import Stroke
from stage_cli.core.band.timbres import Voice
from stage_cli.core.music.notes import Note
from stage_cli.core.players.kits import KIT_FILE, DrumKit, DrumSound, read_kit
from stage_cli.core.players.pitched import INSTRUMENT_FILE, SampledSounds, read_instrument
from stage_cli.core.players.samples import SOFTER_STEP
from stage_cli.core.players.sfz import read_sample_folder
from stage_cli.errors import StageError, UsageError

if TYPE_CHECKING:
    from stage_cli.core.band.sounds import SoundBank

_SHARE = 0.4
"""Probability that a song's drummer, or a player whose instrument is there, takes a recorded one."""
_ELECTRONIC = ("electronic", "eighties")
_INSTRUMENTS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("upright", ("upright bass",)),
    ("double", ("upright bass",)),
    ("bass", ("finger bass", "pick bass", "fretless bass")),
    ("guitar", ("clean guitar", "muted guitar", "crunch guitar", "distorted guitar")),
    ("piano", ("grand piano",)),
)
"""A word in an instrument's name: the band's instruments that it plays; the first word counts."""


class Recordings:
    """The kits and instruments of a folder.

    Attributes:
        folder: where they lie.
        kits: drum kits.
        instruments: sampled instruments.
        skipped: folders that are neither, each with the reason.
        fingerprint: of the folder's content.
    """

    def __init__(
        self,
        folder: Path,
        kits: Sequence[DrumKit],
        instruments: Sequence[SampledSounds],
        skipped: Sequence[str],
        fingerprint: str,
    ):
        self.folder = folder
        self.kits = tuple(kits)
        self.instruments = tuple(instruments)
        self.skipped = list(skipped)
        self.fingerprint = fingerprint

    @classmethod
    def open(cls, folder: Path) -> Recordings:
        """Read the folders in a folder, and what is in those whose name is `kits` or `instruments`.

        Raises:
            UsageError: no such folder, or no kit and no instrument in it.
        """
        if not folder.is_dir():
            raise UsageError(f"cannot read kits from {folder}", why="it is no folder")
        kits: list[DrumKit] = []
        instruments: list[SampledSounds] = []
        skipped: list[str] = []
        for path in _candidates(folder):
            name = path.relative_to(folder).as_posix()
            try:
                if (path / INSTRUMENT_FILE).is_file():
                    instruments.append(read_instrument(path))
                else:
                    kits.append(read_kit(path) if (path / KIT_FILE).is_file() else read_sample_folder(path))
            except StageError as error:
                skipped.append(f"{name}: {error.why or error.what}")
        if not kits and not instruments:
            raise UsageError(
                f"cannot read kits from {folder}", why=skipped[0] if skipped else "it holds no folders of samples"
            )
        digest = hashlib.sha256()
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            digest.update(path.relative_to(folder).as_posix().encode() + path.read_bytes())
        count = len(kits) + len(instruments)
        return cls(folder, kits, instruments, skipped, f"{folder.name} {count} {digest.hexdigest()[:16]}")


@lru_cache(maxsize=4)
def open_recordings(folder: Path) -> Recordings:
    """Return a folder's kits, which are read once in a process; see `Recordings.open`."""
    return Recordings.open(folder)


class RecordedBank:
    """Recorded kits and instruments in four of ten cases in which there are some, another bank in all others.

    Args:
        recordings: kits and instruments.
        rest: the other bank.
    """

    def __init__(self, recordings: Recordings, rest: SoundBank) -> None:
        self._recordings, self._rest = recordings, rest

    def voice(self, instrument: str, rng: np.random.Generator) -> Voice:
        """Return what plays the notes of an instrument in one song."""
        fitting = [sounds for sounds in self._recordings.instruments if instrument in _plays(sounds.name)]
        if not fitting or not chance(rng, _SHARE):
            return self._rest.voice(instrument, rng)
        sounds = pick(rng, fitting)

        def play(pitch: int, velocity: float, seconds: float, own: np.random.Generator) -> np.ndarray:
            note = Note(0.0, seconds, pitch, _midi(velocity))
            samples = sounds.perform(SAMPLE_RATE, own).strikes(note)[0].samples
            return _mono(samples)[: round(seconds * SAMPLE_RATE)]

        return play

    def kit(self, kit: str, rng: np.random.Generator) -> dict[int, Stroke]:
        """Return a drum kit's strokes by General MIDI key; what a recorded kit lacks is the other bank's."""
        kits = [own for own in self._recordings.kits if (kit in _ELECTRONIC) == ("electronic" in own.name.lower())]
        if not kits or not chance(rng, _SHARE):
            return self._rest.kit(kit, rng)
        recorded = pick(rng, kits)
        strokes = self._rest.kit(kit, rng)
        for key in (CLAP, *(key for keys in DRUM_TRACKS.values() for key in keys)):
            sound = recorded.sound_of(key)
            if sound is not None:
                strokes[key] = _stroke(recorded, sound)
        return strokes

    def hand_percussion(self, rng: np.random.Generator) -> dict[int, Stroke]:
        """Return hand percussion's strokes by General MIDI key: the other bank's."""
        return self._rest.hand_percussion(rng)


def _candidates(folder: Path) -> list[Path]:
    found = []
    for path in sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")):
        if path.name in ("kits", "instruments"):
            found += sorted(inner for inner in path.iterdir() if inner.is_dir())
        else:
            found.append(path)
    return found


def _plays(name: str) -> tuple[str, ...]:
    return next((instruments for word, instruments in _INSTRUMENTS if word in name.lower()), ())


def _stroke(kit: DrumKit, sound: DrumSound) -> Stroke:
    def strike(velocity: float, own: np.random.Generator) -> np.ndarray:
        struck = _midi(velocity)
        layer = min(sound.layers, key=lambda layer: abs(layer.velocity - struck))
        softer = max(0, round((sound.gain(layer.velocity) - sound.gain(struck)) / SOFTER_STEP - 0.25))
        return _mono(kit.store.get(pick(own, layer.takes), SAMPLE_RATE, softer=min(softer, 6)))

    return strike


def _midi(velocity: float) -> int:
    return min(max(round(velocity * 127), 1), 127)


def _mono(samples: np.ndarray) -> np.ndarray:
    return samples if samples.ndim == 1 else samples.mean(axis=1)
