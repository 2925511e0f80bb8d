"""Slakh2100: `TrackNNNNN/metadata.yaml` and `TrackNNNNN/stems/SNN.flac`, original or redux.

Source: Manilow et al., "Cutting Music Source Separation Some Slakh", WASPAA 2019; github.com/ethman/slakh-utils.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from stage_cli.core.data.layouts.source import Song, SongFolder, SourceTrack, StemCollector, file_inside
from stage_cli.core.files import display_name
from stage_cli.errors import StageError

NAME = "slakh"
METADATA_FILE = "metadata.yaml"

_OMITTED = "omitted"
_MIDI_ID = re.compile(rb"^UUID:\s*['\"]?(\w+)", re.MULTILINE)

# `inst_class`, the General MIDI family, to the stem that MoisesDB's taxonomy puts such instruments in.
_STEM_OF_CLASS: dict[str, str] = {
    "piano": "piano",
    "chromatic percussion": "percussion",
    "organ": "other_keys",
    "guitar": "guitar",
    "bass": "bass",
    "strings": "bowed_strings",
    "strings (continued)": "bowed_strings",
    "ensemble": "bowed_strings",
    "brass": "wind",
    "reed": "wind",
    "pipe": "wind",
    "synth lead": "other_keys",
    "synth pad": "other_keys",
    "sound effects": "other",
    "ethnic": "other_plucked",
    "percussive": "percussion",
    "drums": "drums",
}
# General MIDI programs (from 0) that are not what their family is.
_STEM_OF_PROGRAM: dict[int, str] = {
    6: "other_keys", 7: "other_keys",  # harpsichord, clavinet
    15: "other_plucked",  # dulcimer
    22: "wind",  # harmonica
    46: "other_plucked", 47: "percussion",  # harp, timpani
    # Sampled choirs and voices sing no words: a model for vocals should not learn from them.
    52: "other", 53: "other", 54: "other", 55: "other",
    108: "percussion", 109: "wind", 110: "bowed_strings", 111: "wind",  # kalimba, bagpipe, fiddle, shanai
}  # fmt: skip

# Source: github.com/ethman/slakh-utils/issues/17 and the list that it refers to (greenbech/slakh-pytorch-dataset,
# problem_stems.json). Entries about the lengths of MIDI notes are left out: they do not concern the audio.
KNOWN_ERRORS: dict[str, str] = {
    "Track00262": "S01 does not play what its MIDI file says",
    **{
        f"Track{number:05d}": f"{stem} has no audio"
        for number, stem in (
            (357, "S03"), (377, "S07"), (385, "S00"), (398, "S00"), (400, "S00"),
            (629, "S01"), (633, "S01"), (749, "S01"), (1629, "S00"),
        )
    },
    **{
        f"Track{number:05d}": f"{stem} has the wrong pitch"
        for number, stem in ((496, "S01"), (1918, "S10"), (1931, "S01"), (1937, "S03"))
    },
}  # fmt: skip


def is_song(folder: Path) -> bool:
    """Whether it has a metadata.yaml."""
    return (folder / METADATA_FILE).is_file()


def known_errors(folders: list[Path]) -> dict[Path, str]:
    """Return what is known to be wrong, by song folder.

    Slakh2100 renders some MIDI files more than once: its redux version moves the later ones to a folder `omitted`.
    In the original version they are found by the MIDI file's hash, which metadata.yaml states.
    """
    errors: dict[Path, str] = {}
    first: dict[bytes, str] = {}
    for folder in sorted(folders, key=lambda path: (path.parent.name == _OMITTED, path.name)):
        midi = _midi_id(folder / METADATA_FILE)
        if folder.name in KNOWN_ERRORS:
            errors[folder] = KNOWN_ERRORS[folder.name]
        elif midi in first:
            errors[folder] = f"made from the same MIDI file as {first[midi]}"
        elif folder.parent.name == _OMITTED:
            errors[folder] = "omitted by Slakh2100-redux: made from the same MIDI file as another song"
        if midi is not None:
            first.setdefault(midi, folder.name)
    return errors


def read_song(found: SongFolder) -> Song:
    """Describe a song: sources by `inst_class` and `is_drum`, those that were not rendered left out.

    Raises:
        StageError: metadata.yaml is damaged or names files outside the song's folder, or no stem is left.
    """
    path = found.path / METADATA_FILE
    data = _read_metadata(path)
    stems = StemCollector(found.path)
    try:
        folder = file_inside(found.path, str(data.get("audio_dir") or "stems"))
        for name, source in sorted(data["stems"].items()):
            if not source.get("audio_rendered", True):
                stems.leave_out(str(name), "it was not rendered")
                continue
            file = file_inside(folder, f"{name}.flac")
            # slakh-utils converts the set to WAV for those who ask.
            if not file.exists() and (wav := file.with_suffix(".wav")).exists():
                file = wav
            stems.add(_stem(source), SourceTrack(file, str(source.get("midi_program_name") or "")))
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise _damaged(path, f"{type(error).__name__}: {error}") from None
    return Song(
        id=found.id,
        folder=found.path,
        layout=NAME,
        title="",
        artist="",
        genres=(),
        stems=stems.finish(),
        metadata=(path,),
        notes=tuple(stems.notes),
    )


def _stem(source: dict[str, Any]) -> str:
    if source.get("is_drum"):
        return "drums"
    program = source.get("program_num")
    if isinstance(program, int) and program in _STEM_OF_PROGRAM:
        return _STEM_OF_PROGRAM[program]
    return _STEM_OF_CLASS.get(str(source["inst_class"]).lower(), "other")


def _midi_id(path: Path) -> bytes | None:
    try:
        match = _MIDI_ID.search(path.read_bytes())
    except OSError:
        return None  # the song itself will tell
    return match[1] if match else None


def _read_metadata(path: Path) -> dict[str, Any]:
    import yaml

    # libyaml's loader, where it is built in, is ten times as fast.
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        data = yaml.load(path.read_bytes(), Loader=loader)
    except OSError as error:
        raise StageError(f"cannot read {display_name(path)}", why=error.strerror or str(error)) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise _damaged(path, " ".join(str(error).split())) from None
    if not isinstance(data, dict):
        raise _damaged(path, "it holds no mapping")
    return data


def _damaged(path: Path, why: str) -> StageError:
    return StageError(f"{display_name(path)} is damaged", why=why, next_step="download it again")
