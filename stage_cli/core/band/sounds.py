"""Where sounds come from: the synthesizer, a soundfont, or both; and what a song is made by."""

from __future__ import annotations

import zlib
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from stage_cli.core.band import soundfont
from stage_cli.core.band.arrangements import open_arrangements
from stage_cli.core.band.performances import open_drummers
from stage_cli.core.band.randomness import chance
from stage_cli.core.band.recorded import RecordedBank, open_recordings
from stage_cli.core.band.settings import DemoSettings
from stage_cli.core.band.synth_drums import Stroke, build_hand_percussion, build_kit
from stage_cli.core.band.timbres import Voice, build_voice


class SoundBank(Protocol):
    """Plays single notes and strokes; the song's generator chooses among its timbres."""

    def voice(self, instrument: str, rng: np.random.Generator) -> Voice:
        """Return what plays the notes of an instrument in one song."""
        ...

    def kit(self, kit: str, rng: np.random.Generator) -> dict[int, Stroke]:
        """Return a drum kit's strokes by General MIDI key."""
        ...

    def hand_percussion(self, rng: np.random.Generator) -> dict[int, Stroke]:
        """Return hand percussion's strokes by General MIDI key."""
        ...


class SynthBank:
    """The built-in synthesizer."""

    def voice(self, instrument: str, rng: np.random.Generator) -> Voice:
        """Return what plays the notes of an instrument in one song."""
        return build_voice(instrument, rng)

    def kit(self, kit: str, rng: np.random.Generator) -> dict[int, Stroke]:
        """Return a drum kit's strokes by General MIDI key."""
        return build_kit(kit, rng)

    def hand_percussion(self, rng: np.random.Generator) -> dict[int, Stroke]:
        """Return hand percussion's strokes by General MIDI key."""
        return build_hand_percussion(rng)


class MixedBank:
    """Two banks side by side: each player of a song takes one or the other.

    Args:
        first: bank.
        second: bank.
        share: probability of the first.
    """

    def __init__(self, first: SoundBank, second: SoundBank, share: float = 0.5) -> None:
        self._first, self._second, self._share = first, second, share

    def _choose(self, rng: np.random.Generator) -> SoundBank:
        return self._first if chance(rng, self._share) else self._second

    def voice(self, instrument: str, rng: np.random.Generator) -> Voice:
        """Return what plays the notes of an instrument in one song."""
        return self._choose(rng).voice(instrument, rng)

    def kit(self, kit: str, rng: np.random.Generator) -> dict[int, Stroke]:
        """Return a drum kit's strokes by General MIDI key."""
        return self._choose(rng).kit(kit, rng)

    def hand_percussion(self, rng: np.random.Generator) -> dict[int, Stroke]:
        """Return hand percussion's strokes by General MIDI key."""
        return self._choose(rng).hand_percussion(rng)


VERSION = 1
"""Of composer and synthesizer together: another number, other songs."""


def recipe(settings: DemoSettings, index: int) -> dict[str, Any]:
    """Return what a song is made by, as `data.json` records it."""
    made_by = {
        "version": VERSION,
        "seed": settings.seed,
        "index": index,
        "seconds": settings.seconds,
        "sounds": settings.sounds,
        "soundfont": None if settings.soundfont is None else _fingerprint(settings.soundfont),
        "tempo_changes": settings.tempo_changes,
    }
    # Only what is used is recorded: songs without it are what they were.
    if settings.drummers is not None:
        made_by["drummers"] = open_drummers(settings.drummers).fingerprint
    if settings.arrangements is not None:
        made_by["arrangements"] = open_arrangements(settings.arrangements).fingerprint
        made_by["arrangement_share"] = settings.arrangement_share
    if settings.kits is not None:
        made_by["kits"] = open_recordings(settings.kits).fingerprint
    return made_by


def resolve(settings: DemoSettings) -> DemoSettings:
    """Return settings whose sounds are decided: "auto" takes a soundfont where there is one.

    Raises:
        StageError: a soundfont is asked for that is not there, or that nothing can read.
    """
    if settings.sounds == "synth":
        return settings
    if settings.sounds == "auto" and settings.soundfont is None:
        found = soundfont.find_default() if soundfont.is_available() else None
        return replace(settings, sounds="synth" if found is None else "soundfont", soundfont=found)
    path = settings.soundfont or soundfont.find_default()
    soundfont.check(path)
    return replace(settings, sounds="soundfont" if settings.sounds == "auto" else settings.sounds, soundfont=path)


def open_bank(settings: DemoSettings) -> SoundBank:
    """Return where the sounds of resolved settings come from; files are opened once in a process."""
    bank: SoundBank
    if settings.sounds == "synth" or settings.soundfont is None:
        bank = SynthBank()
    elif settings.sounds == "soundfont":
        bank = _open_soundfont(settings.soundfont)
    else:
        bank = MixedBank(SynthBank(), _open_soundfont(settings.soundfont))
    return bank if settings.kits is None else RecordedBank(open_recordings(settings.kits), bank)


@lru_cache(maxsize=1)
def _open_soundfont(path: Path) -> SoundBank:
    return soundfont.SoundfontBank(path)


@lru_cache(maxsize=4)
def _fingerprint(path: Path) -> str:
    """Return name, size and a checksum of the file's beginning: enough to tell soundfonts apart."""
    with path.open("rb") as file:
        return f"{path.name} {path.stat().st_size} {zlib.crc32(file.read(1 << 20)):08x}"
