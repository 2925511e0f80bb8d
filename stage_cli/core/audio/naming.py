"""Which files are audio, and what a new stem's file is called."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from stage_cli.core.files import display_name
from stage_cli.core.stems import STEMS
from stage_cli.errors import AudioError, UsageError

_METRONOME = re.compile(r"\d+(\.\d+)?(e[+-]?\d+)?bpm")  # what a metronome's stems are called after

AUDIO_SUFFIXES: frozenset[str] = frozenset(
    (".wav", ".wave", ".flac", ".mp3", ".ogg", ".oga", ".opus", ".aif", ".aiff", ".aifc", ".caf", ".w64", ".au", ".snd")
)
"""File name endings, in lower case, of the formats that libsndfile reads."""


def output_path(
    context: Path, stem: str, variation: int | None = None, format: str = "wav", *, mixed: bool = False
) -> Path:
    """Name the file of a stem that was written for a context: `mix.wav` → `mix.drums.wav`, in the same folder.

    Args:
        context: the file that is accompanied; dots in its name stay ("a.v2.wav" → "a.v2.drums.wav").
        stem: one of `stems.STEMS`.
        variation: counts from 1; the first (or None) has no number, the second is `mix.drums.2.wav`.
        format: "wav" or "flac": the new file's ending.
        mixed: name the context and the stem mixed together instead: `mix.drums.mix.wav`.
    """
    if variation is not None and variation < 1:
        raise ValueError(f"variation counts from 1, got {variation}")
    # "song.v2" without an audio ending is a whole name: its ".v2" must not be cut off.
    song = context.stem if context.suffix.lower() in AUDIO_SUFFIXES else context.name
    number = f".{variation}" if variation is not None and variation > 1 else ""
    return context.with_name(f"{song}.{stem}{number}{'.mix' if mixed else ''}.{format}")


def find_audio(paths: Sequence[Path]) -> list[Path]:
    """List audio files: files as they are given, folders replaced by the audio files directly inside, by name.

    In folders, hidden and unfinished (`.part`) files are left out, and so are stems that this program wrote
    (`mix.drums.wav`, where a `mix` in any audio format lies beside it, and `120bpm.drums.wav`). A file named by hand
    is always kept. No path is listed twice.

    Raises:
        UsageError: a folder holds no audio.
        AudioError: a folder cannot be listed.
    """
    found: list[Path] = []
    for path in paths:
        found += _audio_in(path) if path.is_dir() else [path]
    return list(dict.fromkeys(found))


def _audio_in(folder: Path) -> list[Path]:
    try:
        candidates = [
            path
            for path in folder.iterdir()
            if path.suffix.lower() in AUDIO_SUFFIXES and not path.name.startswith(".") and path.is_file()
        ]
    except OSError as error:
        raise AudioError(
            f"cannot list the folder {display_name(folder)}",
            why=error.strerror or str(error),
            next_step="check the folder's permissions, or name the files one by one",
        ) from error
    songs = {path.stem for path in candidates}
    audio = sorted((path for path in candidates if not _is_own_output(path, songs)), key=lambda path: path.name)
    if not audio:
        raise UsageError(
            f"no audio in the folder {display_name(folder)}",
            why=f"it has no file that ends in {', '.join(sorted(AUDIO_SUFFIXES))} and is not a stem of another",
            next_step="name another folder, or the files themselves",
        )
    return audio


def _is_own_output(path: Path, songs: set[str]) -> bool:
    """Whether the name is one that `output_path` gives to a stem of one of `songs` (names without endings)."""
    parts = path.stem.split(".")
    if len(parts) > 1 and parts[-1] == "mix":
        parts.pop()
    if len(parts) > 1 and parts[-1].isdecimal():
        parts.pop()
    return (
        len(parts) > 1
        and parts[-1] in STEMS
        and (".".join(parts[:-1]) in songs or _METRONOME.fullmatch(".".join(parts[:-1])) is not None)
    )
