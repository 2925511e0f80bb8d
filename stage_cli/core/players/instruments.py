"""The instruments of the stems: which there are, and how a name, a file or a folder becomes one.

instrument = load_instrument("drums", kit="acoustic")
stem = instrument.render(notes, frames=480_000, sample_rate=48_000, seed=0)  # [frames, 2] float32
"""

from __future__ import annotations

import difflib
import functools
import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from stage_cli.core.music.notes import DRUM_VOICES, Note, pitch_of
from stage_cli.core.players.kits import KIT_FILE, DrumKit, read_kit, read_table
from stage_cli.core.players.modal import ComputedSounds, electric_piano_note, grand_piano_note
from stage_cli.core.players.pitched import INSTRUMENT_FILE, SampledSounds, read_instrument
from stage_cli.core.players.room import BusConfig, RoomConfig
from stage_cli.core.players.sampler import Sampler, Sounds
from stage_cli.core.players.sfz import find_maps, read_sample_folder, read_sfz
from stage_cli.core.players.soundfonts import read_soundfont
from stage_cli.errors import StageError, UsageError

ASSETS = Path(__file__).parents[2] / "assets"
DEFAULT_KIT = "acoustic"
SOUNDFONT_ENDINGS = (".sf2", ".sf3")

_DEFAULT_INSTRUMENT = {
    "bass": "electric-bass",
    "guitar": "clean-guitar",
    "piano": "grand-piano",
    "other_keys": "electric-piano",
}
_PROGRAM_OF = {"bass": 33, "guitar": 27, "piano": 0, "other_keys": 4}
"""General MIDI programs (from 0) that a soundfont plays a stem with."""

DRUM_STEMS = ("drums", "percussion")


class InstrumentSession(Protocol):
    """A performance that is rendered as its notes arrive; see `SamplerSession`."""

    def push(self, notes: Iterable[Note], until_frame: int) -> np.ndarray:
        """Take notes, return the frames that they decide, `[frames, 2]` float32."""
        ...

    def finish(self, frames: int) -> np.ndarray:
        """Return the rest of a stream of `frames` frames."""
        ...


class StemInstrument(Protocol):
    """What plays the notes of a stem."""

    def session(self, sample_rate: int, seed: int) -> InstrumentSession:
        """Start a performance; its blocks are those of `render`, bit for bit."""
        ...

    def render(self, notes: Iterable[Note], frames: int, sample_rate: int, *, seed: int) -> np.ndarray:
        """Return the notes' sound, `[frames, 2]` float32."""
        ...


@dataclass(frozen=True)
class SoundsInfo:
    """A line of `list_sounds`.

    Attributes:
        name: by which `load_instrument` finds it.
        title: one line.
        stems: that it plays.
        kind: "kit", "instrument", or of a user's: "SF2", "SF3", "SFZ", "folder".
        path: of a user's sounds; None for those of the package.
    """

    name: str
    title: str
    stems: tuple[str, ...]
    kind: str
    path: Path | None = None


@dataclass(frozen=True)
class SoundsDescription:
    """What `describe_sounds` tells.

    Attributes:
        info: its line.
        rows: (name, what it has) of each voice, or of each property of a pitched instrument.
    """

    info: SoundsInfo
    rows: tuple[tuple[str, str], ...]


def load_instrument(
    stem: str,
    *,
    kit: str | None = None,
    sounds: Path | str | None = None,
    instrument: str | None = None,
) -> StemInstrument:
    """Return what plays a stem.

    Args:
        stem: one of the project's stem names; "drums", "percussion", "bass", "guitar", "piano" and "other_keys" have
            an instrument of their own.
        kit: name of a kit of the package, for drums.
        sounds: a user's own sounds, in place of the package's: a SoundFont (.sf2, .sf3), an SFZ file, a folder of
            samples named by voice, or the name of imported ones.
        instrument: name of an instrument of the package, for pitched stems; with a SoundFont the number (0 to 127) or
            name of one of its presets.

    Raises:
        UsageError: no kit, instrument, stem or sounds of that name, or settings that exclude each other.
        StageError: sounds that cannot be read, or have too little.
    """
    drums = stem in DRUM_STEMS
    if kit is not None and not drums:
        raise UsageError(f"kit: {stem} is no drum stem", next_step="kits play drums; instrument is for pitched stems")
    if kit is not None and sounds is not None:
        raise UsageError("kit and sounds exclude each other", next_step="give one of them")
    if sounds is not None:
        return Sampler(_read_user_sounds(_find_user_sounds(sounds), stem, instrument))
    if drums:
        if instrument is not None:
            raise UsageError(f"instrument: {stem} has kits", next_step="name a kit")
        return Sampler(_load_kit(kit or DEFAULT_KIT))
    if instrument is None:
        if stem not in _DEFAULT_INSTRUMENT:
            raise UsageError(
                f"no instrument plays {stem}",
                next_step=f"name an instrument; there are some for {', '.join((*DRUM_STEMS, *_DEFAULT_INSTRUMENT))}",
            )
        instrument = _DEFAULT_INSTRUMENT[stem]
    return Sampler(_load_named(instrument))


def list_sounds() -> list[SoundsInfo]:
    """List the package's kits and instruments, then the user's imported sounds."""
    found = [
        SoundsInfo(path.parent.name, str(read_table(path).get("title", "")), DRUM_STEMS, "kit")
        for path in sorted((ASSETS / "kits").glob(f"*/{KIT_FILE}"))
    ]
    for name in _instrument_names():
        stems = tuple(stem for stem, default in _STEMS_OF.items() if name in default)
        found.append(SoundsInfo(name, _load_named(name).title, stems, "instrument"))
    folder = sounds_folder()
    if folder.is_dir():
        for path in sorted(folder.iterdir()):
            kind = _kind_of(path)
            if kind and not path.name.startswith("."):
                stems = DRUM_STEMS if kind in ("folder", "SFZ") else (*DRUM_STEMS, *_DEFAULT_INSTRUMENT)
                found.append(SoundsInfo(path.stem, f"imported {kind}", stems, kind, path))
    return found


def describe_sounds(name: str) -> SoundsDescription:
    """Return what sounds have: a kit's voices with their layers and takes, an instrument's range.

    Raises:
        UsageError: there are no sounds of that name.
        StageError: they cannot be read.
    """
    entries = {info.name: info for info in list_sounds()}
    if name not in entries:
        raise _unknown("sounds", name, entries)
    info = entries[name]
    if info.kind == "instrument":
        sounds = _load_named(name)
        rows = [("range", f"{sounds.lowest} to {sounds.highest} (MIDI notes)")]
        if isinstance(sounds, SampledSounds):
            rows.append(("recorded notes", str(len(sounds.notes))))
        else:
            rows.append(("recorded notes", "none: it is computed"))
        return SoundsDescription(info, tuple(rows))
    own = _load_kit(name) if info.path is None else _read_user_sounds(info.path, info.stems[0], None)
    if not isinstance(own, DrumKit):
        return SoundsDescription(info, (("regions", str(len(getattr(own, "regions", ())))),))
    rows = []
    for voice in DRUM_VOICES:
        sound = own.sound_of(pitch_of(voice))
        if sound is not None:
            takes = sum(len(layer.takes) for layer in sound.layers)
            rows.append((voice, f"{sound.name}: {len(sound.layers)} loudness layers, {takes} takes"))
    return SoundsDescription(info, tuple(rows))


def import_sounds(path: Path, name: str | None = None) -> SoundsInfo:
    """Copy a SoundFont, an SFZ file with its samples, or a folder of samples into the user's sounds folder.

    The sounds are read once before they are copied, so what is there can be played.

    Args:
        path: of the file or folder. An SFZ file brings the whole folder that it lies in.
        name: by which they are known; the file's own without it.

    Raises:
        UsageError: nothing there, no sounds, or the name is taken or no file name.
        StageError: they cannot be read, or not be copied.
    """
    kind = _kind_of(path)
    if kind is None:
        raise _no_sounds(path)
    name = name or path.stem
    if name in ("", ".", "..") or name.startswith(".") or Path(name).name != name:
        raise UsageError(f"name: {name!r} is no name", next_step="use letters, digits and hyphens")
    if name in {info.name for info in list_sounds()}:
        raise UsageError(f"name: there are sounds named {name} already", next_step="choose another name")
    _read_user_sounds(path, "drums", None)
    folder = sounds_folder()
    target = folder / (f"{name}{path.suffix.lower()}" if kind in ("SF2", "SF3") else name)
    # Whole or not at all: a copy that is interrupted has another name.
    unfinished = folder / f".{target.name}.part"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if kind in ("SF2", "SF3"):
            shutil.copyfile(path, unfinished)
        else:
            shutil.rmtree(unfinished, ignore_errors=True)
            source = path if path.is_dir() else path.parent
            shutil.copytree(source, unfinished, ignore=shutil.ignore_patterns(".*"))
            for other in find_maps(unfinished):
                if path.is_file() and other.name != path.name:
                    other.unlink()  # a folder plays by one map
        unfinished.replace(target)
    except OSError as error:
        raise StageError(f"cannot copy {path} to {folder}", why=error.strerror or str(error)) from error
    return next(info for info in list_sounds() if info.path == target)


def sounds_folder() -> Path:
    """Return where `import_sounds` puts sounds: `$STAGE_SOUNDS`, else a folder of the user's data directory."""
    if folder := os.environ.get("STAGE_SOUNDS"):
        return Path(folder).expanduser()
    data = os.environ.get("XDG_DATA_HOME")
    return (Path(data) if data else Path.home() / ".local" / "share") / "stage-cli" / "sounds"


_COMPUTED: dict[str, Callable[[], ComputedSounds]] = {
    "grand-piano": lambda: ComputedSounds(
        "grand-piano",
        "a grand piano, computed",
        grand_piano_note,
        level=-17.0,
        room=RoomConfig(0.7, 8.0, 5000.0),
        bus=BusConfig(-16.0, 1.5),
    ),
    "electric-piano": lambda: ComputedSounds(
        "electric-piano",
        "an electric piano with tines, computed",
        electric_piano_note,
        28,
        100,
        level=-18.0,
        dynamics=1.0,
        release=0.12,
        send=-18.0,
        room=RoomConfig(0.5, 6.0, 4500.0),
        bus=BusConfig(-16.0, 1.5),
    ),
}

_STEMS_OF: dict[str, tuple[str, ...]] = {
    "bass": ("electric-bass", "upright-bass"),
    "guitar": ("clean-guitar",),
    "piano": ("grand-piano", "electric-piano"),
    "other_keys": ("electric-piano", "grand-piano"),
}


def _instrument_names() -> list[str]:
    sampled = [path.parent.name for path in (ASSETS / "instruments").glob(f"*/{INSTRUMENT_FILE}")]
    return sorted([*sampled, *_COMPUTED])


@functools.lru_cache(maxsize=4)
def _load_kit(name: str) -> DrumKit:
    names = sorted(path.parent.name for path in (ASSETS / "kits").glob(f"*/{KIT_FILE}"))
    if name not in names:
        raise _unknown("kit", name, names)
    return read_kit(ASSETS / "kits" / name)


@functools.lru_cache(maxsize=8)
def _load_named(name: str) -> SampledSounds | ComputedSounds:
    if name in _COMPUTED:
        return _COMPUTED[name]()
    if name not in _instrument_names():
        raise _unknown("instrument", name, _instrument_names())
    return read_instrument(ASSETS / "instruments" / name)


def _find_user_sounds(sounds: Path | str) -> Path:
    path = Path(sounds).expanduser()
    if path.exists() or len(path.parts) > 1 or path.suffix:
        return path
    imported = [info for info in list_sounds() if info.path is not None]
    for info in imported:
        if info.name == str(sounds):
            return info.path or path
    return path


def _kind_of(path: Path) -> str | None:
    if path.is_dir():
        return "folder"
    return {".sf2": "SF2", ".sf3": "SF3", ".sfz": "SFZ"}.get(path.suffix.lower()) if path.is_file() else None


def _read_user_sounds(path: Path, stem: str, instrument: str | None) -> Sounds:
    kind = _kind_of(path)
    if kind is None:
        raise _no_sounds(path)
    drums = stem in DRUM_STEMS
    if kind in ("SF2", "SF3"):
        return read_soundfont(path, drums=drums, preset=instrument, program=_PROGRAM_OF.get(stem, 0))
    if instrument is not None:
        raise UsageError(f"instrument: {path} has no presets", next_step="leave instrument out")
    if kind == "SFZ":
        return read_sfz(path, drums=drums)
    return _read_folder(path, drums=drums)


def _read_folder(path: Path, *, drums: bool) -> Sounds:
    if (path / KIT_FILE).is_file():
        return read_kit(path)
    if (path / INSTRUMENT_FILE).is_file():
        return read_instrument(path)
    # A folder that came with its own mapping is meant to be played by it.
    maps = find_maps(path)
    if len(maps) == 1:
        return read_sfz(maps[0], drums=drums)
    if len(maps) > 1:
        raise UsageError(
            f"sounds: {path} holds {len(maps)} SFZ files", why=", ".join(entry.name for entry in maps[:8]),
            next_step="name one of them",
        )  # fmt: skip
    if not drums:
        raise UsageError(
            f"sounds: a folder of samples plays drums only, and {path} holds no SFZ file",
            next_step="name a SoundFont or an SFZ file",
        )
    return read_sample_folder(path)


def _no_sounds(path: Path) -> UsageError:
    if not path.exists():
        return UsageError(
            f"sounds: there is no {path}",
            next_step="name a SoundFont (.sf2, .sf3), an SFZ file, a folder of samples, or imported sounds",
        )
    return UsageError(
        f"sounds: {path} is neither a SoundFont, an SFZ file nor a folder",
        next_step="name a file that ends in .sf2, .sf3 or .sfz, or a folder of samples named by voice",
    )


def _unknown(what: str, name: str, names: Iterable[str]) -> UsageError:
    known: Sequence[str] = sorted(names)
    near = difflib.get_close_matches(name, known, n=2, cutoff=0.5)
    return UsageError(
        f"{what}: there is no {name!r}",
        why=f"did you mean {' or '.join(near)}?" if near else "",
        next_step=f"there are: {', '.join(known)}",
    )
