"""What a set of demo songs is made by. Imports nothing heavy, for the command line reads its defaults here."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from stage_cli.errors import UsageError

SOUNDS = ("auto", "synth", "soundfont", "mixed")
TEMPO_CHANGES = ("never", "some", "always")
MOST_SONGS = 1_000_000
SHORTEST, LONGEST = 1.0, 600.0
"""Seconds of a song; a whole song's tracks are in memory at once."""
HIGHEST_SEED = 2**32 - 1
MOST_JOBS = 256


@dataclass(frozen=True)
class DemoSettings:
    """A set of songs. Song i depends on the seed and i only, not on how many songs there are.

    Attributes:
        songs: how many.
        seconds: of each song.
        seed: of the set.
        sounds: "synth" (built in), "soundfont", "mixed" (each player either), or "auto": a soundfont where there is
            one, the synthesizer otherwise.
        soundfont: General MIDI soundfont; Debian's FluidR3 if left out.
        tempo_changes: "never", "some" or "always": songs whose tempo changes between sections.
        drummers: folder of drum performances (Groove MIDI's, or any MIDI files) that composed songs take their drums
            from; all grooves are invented if left out.
        arrangements: folder of MIDI files that are songs of the set themselves; none if left out.
        arrangement_share: of the songs that are arrangements, if there are any, 0 to 1.
        kits: folder of drum kits and instruments made of recorded one-shots, which some songs are played on.

    Raises:
        UsageError: a value is out of range; the error names the field.
    """

    songs: int = 10
    seconds: float = 30.0
    seed: int = 0
    sounds: str = "auto"
    soundfont: Path | None = None
    tempo_changes: str = "some"
    drummers: Path | None = None
    arrangements: Path | None = None
    arrangement_share: float = 0.25
    kits: Path | None = None

    def __post_init__(self) -> None:
        _check("songs", self.songs, 1 <= self.songs <= MOST_SONGS, f"1 to {MOST_SONGS}")
        in_range = math.isfinite(self.seconds) and SHORTEST <= self.seconds <= LONGEST
        _check("seconds", self.seconds, in_range, f"{SHORTEST:g} to {LONGEST:g}")
        _check("seed", self.seed, 0 <= self.seed <= HIGHEST_SEED, f"0 to {HIGHEST_SEED}")
        _check("sounds", self.sounds, self.sounds in SOUNDS, ", ".join(SOUNDS))
        _check("tempo_changes", self.tempo_changes, self.tempo_changes in TEMPO_CHANGES, ", ".join(TEMPO_CHANGES))
        _check("arrangement_share", self.arrangement_share, 0 <= self.arrangement_share <= 1, "0 to 1")
        if self.sounds == "synth" and self.soundfont is not None:
            raise UsageError(
                "`sounds` synth needs no `soundfont`", next_step="leave one of them out, or use `sounds` mixed"
            )


def check_jobs(jobs: int) -> None:
    """Raise a UsageError unless `jobs` is a number of processes."""
    _check("jobs", jobs, 1 <= jobs <= MOST_JOBS, f"1 to {MOST_JOBS}")


def _check(field: str, value: object, allowed: bool, range_text: str) -> None:
    if not allowed:
        shown = f"{value:g}" if isinstance(value, float) else repr(value) if isinstance(value, str) else f"{value}"
        raise UsageError(f"`{field}` cannot be {shown}", next_step=f"allowed: {range_text}")
