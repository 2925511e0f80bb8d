"""Sounds of a General MIDI soundfont, played by FluidSynth once each and then kept.

pyfluidsynth (LGPL) and the system's FluidSynth library are optional, and imported only here.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import importlib
import importlib.util
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np

from stage_cli.core.band.instruments import INSTRUMENTS, SAMPLE_RATE
from stage_cli.core.band.randomness import chance, pick
from stage_cli.core.band.synth_drums import Stroke
from stage_cli.core.band.timbres import Voice, build_voice
from stage_cli.errors import StageError, UsageError

DEBIAN_SOUNDFONTS = (Path("/usr/share/sounds/sf2/FluidR3_GM.sf2"), Path("/usr/share/soundfonts/FluidR3_GM.sf2"))
INSTALL_LINE = (
    'pip install "stage-cli[soundfont]", and FluidSynth itself: '
    "apt install libfluidsynth3 (or brew install fluid-synth)"
)
_LARGEST_CACHE = 512 << 20  # bytes
_DRUM_CHANNEL = 9
_BLOCK = 64  # frames that FluidSynth makes at a time
_WRITE_FLOAT_ARGUMENTS = (
    ("synth", ctypes.c_void_p),
    ("frames", ctypes.c_int),
    ("left", ctypes.c_void_p),
    ("left_offset", ctypes.c_int),
    ("left_step", ctypes.c_int),
    ("right", ctypes.c_void_p),
    ("right_offset", ctypes.c_int),
    ("right_step", ctypes.c_int),
)
_KITS: dict[str, tuple[int, ...]] = {
    "rock": (16, 8, 0),
    "garage": (8, 0, 16),
    "studio": (0, 8),
    "dry": (0, 32),
    "jazz": (32, 40),
    "electronic": (24, 25),
    "eighties": (24, 25, 16),
}
"""General MIDI drum kits: 0 standard, 8 room, 16 power, 24 electronic, 25 TR-808, 32 jazz, 40 brush."""


def is_available() -> bool:
    """Say whether pyfluidsynth and FluidSynth are installed."""
    return importlib.util.find_spec("fluidsynth") is not None and bool(
        ctypes.util.find_library("fluidsynth") or ctypes.util.find_library("libfluidsynth")
    )


def find_default() -> Path | None:
    """Return Debian's FluidR3 if it is installed."""
    return next((path for path in DEBIAN_SOUNDFONTS if path.is_file()), None)


def check(path: Path | None) -> None:
    """Make sure that a soundfont can be opened.

    Raises:
        UsageError: no such file, or it is no soundfont.
        StageError: FluidSynth is not installed.
    """
    if path is None:
        raise UsageError(
            "no soundfont was found", next_step="name one: `soundfont` FILE.sf2, or apt install fluid-soundfont-gm"
        )
    try:
        with path.open("rb") as file:
            head = file.read(12)
    except OSError as error:
        raise UsageError(
            f"cannot read the soundfont {path}", why=error.strerror or str(error), next_step="check `soundfont`"
        ) from error
    if head[:4] != b"RIFF" or head[8:12] != b"sfbk":
        raise UsageError(
            f"{path} is no soundfont", why="it does not begin as an SF2 file", next_step="name an .sf2 file"
        )
    if not is_available():
        raise StageError("soundfonts need FluidSynth", why="it is not installed", next_step=INSTALL_LINE)


class SoundfontBank:
    """Plays a soundfont's programs and drum kits; singers stay with the built-in synthesizer, which has vowels.

    Args:
        path: SF2 file.
    """

    def __init__(self, path: Path) -> None:
        check(path)
        self._path = path
        self._synth: Any = None
        self._sounds: OrderedDict[tuple[int, ...], np.ndarray] = OrderedDict()
        self._bytes = 0

    def voice(self, instrument: str, rng: np.random.Generator) -> Voice:
        """Return what plays the notes of an instrument in one song: one of its General MIDI programs."""
        sounds = INSTRUMENTS[instrument]
        if sounds.stem == "vocals" and not (instrument == "choir" or chance(rng, 0.15)):
            return build_voice(instrument, rng)
        program = pick(rng, sounds.programs)

        def play(pitch: int, velocity: float, seconds: float, _: np.random.Generator) -> np.ndarray:
            return self._render(0, program, pitch, velocity, seconds)

        return play

    def kit(self, kit: str, rng: np.random.Generator) -> dict[int, Stroke]:
        """Return a drum kit's strokes by General MIDI key."""
        return self._strokes(pick(rng, _KITS[kit]))

    def hand_percussion(self, rng: np.random.Generator) -> dict[int, Stroke]:
        """Return hand percussion's strokes by General MIDI key."""
        return self._strokes(pick(rng, (0, 8, 24)))

    def _strokes(self, program: int) -> dict[int, Stroke]:
        def stroke(key: int) -> Stroke:
            return lambda velocity, _: self._render(128, program, key, velocity, 2.0)

        return {key: stroke(key) for key in range(35, 83)}

    def _render(self, bank: int, program: int, pitch: int, velocity: float, seconds: float) -> np.ndarray:
        """Return one note, mono float32; its end is cut where it has died away."""
        name = (bank, program, pitch, round(velocity * 100), round(seconds * 1000))
        if name in self._sounds:
            self._sounds.move_to_end(name)
            return self._sounds[name]
        sound = self._play(bank, program, pitch, velocity, seconds)
        self._sounds[name] = sound
        self._bytes += sound.nbytes
        while self._bytes > _LARGEST_CACHE:
            self._bytes -= self._sounds.popitem(last=False)[1].nbytes
        return sound

    def _play(self, bank: int, program: int, pitch: int, velocity: float, seconds: float) -> np.ndarray:
        synth, font = self._opened()
        channel = _DRUM_CHANNEL if bank == 128 else 0
        # A soundfont need not have every kit: the first program is the standard one.
        if synth.program_select(channel, font, bank, program) != 0:
            synth.program_select(channel, font, bank, 0)
        key_velocity = max(1, min(127, round(25 + 102 * velocity)))
        # Twice: the first 64 frames of a note remember what its voice in FluidSynth played before, which is then
        # always the same note; else a song's samples would depend on the songs before it.
        for frames in (_BLOCK, round(seconds * SAMPLE_RATE)):
            synth.noteon(channel, pitch, key_velocity)
            samples = self._next_samples(frames)
            # Let go first: a note that is let go after "all sound off" begins to die away anew.
            synth.noteoff(channel, pitch)
            synth.cc(channel, 120, 0)
            self._next_samples(_BLOCK)
        mono = samples.mean(axis=0)
        loud = np.flatnonzero(np.abs(mono) > 3e-5)
        end = int(loud[-1]) + 1 if len(loud) else 1
        return mono[:end].copy()

    def _next_samples(self, frames: int) -> np.ndarray:
        """Return FluidSynth's next frames, `[2, frames]`: at least so many as asked for."""
        # Whole blocks of FluidSynth's own: a note begins with a block, wherever the one before has ended. And numbers
        # that are not rounded to 16 bits: the noise that hides the rounding would make every note depend on all before.
        whole = -(-frames // _BLOCK) * _BLOCK
        buffer = np.zeros((2, whole), dtype=np.float32)
        left, right = (row.ctypes.data for row in buffer)
        self._write_float(self._synth.synth, whole, left, 0, 1, right, 0, 1)
        return buffer

    def _opened(self) -> tuple[Any, int]:
        if self._synth is None:
            try:
                fluidsynth: Any = importlib.import_module("fluidsynth")
            except (ImportError, OSError) as error:
                raise StageError("soundfonts need FluidSynth", why=str(error), next_step=INSTALL_LINE) from error
            synth = fluidsynth.Synth(gain=0.5, samplerate=float(SAMPLE_RATE))
            synth.setting("synth.reverb.active", 0)
            synth.setting("synth.chorus.active", 0)
            font = synth.sfload(str(self._path))
            if font < 0:
                raise UsageError(f"FluidSynth cannot read {self._path}", next_step="name another .sf2 file")
            self._write_float = fluidsynth.cfunc(
                "fluid_synth_write_float",
                ctypes.c_int,
                *((name, kind, 1) for name, kind in _WRITE_FLOAT_ARGUMENTS),
            )
            self._synth, self._font = synth, font
        return self._synth, self._font
