"""MUSDB18-HQ: `{train,test}/<Artist - Title>/{mixture,drums,bass,other,vocals}.wav`.

Source: Rafii et al., "MUSDB18-HQ", 2019, doi 10.5281/zenodo.3338373.
"""

from __future__ import annotations

from pathlib import Path

from stage_cli.core.data.layouts.source import Song, SongFolder, SourceTrack, StemCollector, audio_files

NAME = "musdb18"

_STEMS = ("drums", "bass", "other", "vocals")
_FILES = frozenset((*(f"{stem}.wav" for stem in _STEMS), "mixture.wav"))

# Source: the errata of https://sigsep.github.io/datasets/musdb.html.

KNOWN_ERRORS: dict[str, str] = {
    "Chris Durban - Celebrate": "other instruments bleed into the vocals",
    "Detsky Sad - Walkie Talkie": "other instruments are mixed into the drums",
    "Enda Reilly - Cur An Long Ag Seol": "somebody speaks at the start of the other stem",
    "Hop Along - Sister Cities": "other instruments bleed into the vocals",
    "Leaf - Wicked": "an electric guitar is mixed into the drums (2:20, 3:02)",
    "PR - Oh No": "the stems do not add up to the mix in the left channel",
}


def is_song(folder: Path) -> bool:
    """Whether the folder holds MUSDB's five files and no other audio."""
    return {path.name for path in audio_files(folder)} == _FILES


def known_errors(folders: list[Path]) -> dict[Path, str]:
    """Return what is known to be wrong, by song folder."""
    return {folder: KNOWN_ERRORS[folder.name] for folder in folders if folder.name in KNOWN_ERRORS}


def read_song(found: SongFolder) -> Song:
    """Describe a song; the mixture is no stem.

    Raises:
        StageError: a stem is missing.
    """
    stems = StemCollector(found.path)
    for stem in _STEMS:
        # A missing file is an error when its audio is read: with it the song would not be whole.
        stems.add(stem, SourceTrack(found.path / f"{stem}.wav"))
    artist, separator, title = found.path.name.partition(" - ")
    return Song(
        id=found.id,
        folder=found.path,
        layout=NAME,
        title=title if separator else found.path.name,
        artist=artist if separator else "",
        genres=(),
        stems=stems.finish(),
    )
