"""Which songs train and which validate; the same song never does both. Imports no torch."""

from __future__ import annotations

import difflib
import hashlib
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from stage_cli.core.data.config import DataConfig
from stage_cli.core.data.index import IndexedSong, eligible_songs
from stage_cli.core.files import display_name
from stage_cli.errors import UsageError


@dataclass(frozen=True)
class Split:
    """The songs of a run.

    Attributes:
        training: by id.
        validation: by id; none of them is in `training`, under whatever name.
        left_out: songs that neither trains nor validates, as they are twins of validation songs.
    """

    training: tuple[IndexedSong, ...]
    validation: tuple[IndexedSong, ...]
    left_out: tuple[IndexedSong, ...] = ()


def split_songs(songs: Sequence[IndexedSong], config: DataConfig) -> Split:
    """Divide the songs that can give items for the config's target.

    "last" is the published split: the last `validation_songs` by id of those that have the target stem, a fifth of
    them where there are not more songs than that. "fraction"
    decides for each song from a hash of what it is called, so adding songs moves no other one to the other side.
    Twins of validation songs (the same artist and title in another data set) are left out of the training.

    Args:
        songs: all, as `find_songs` lists them.
        config: target, context and split.

    Raises:
        UsageError: no song is left for the training or for the validation, or the file names an unknown song.
    """
    usable = sorted(eligible_songs(songs, config), key=lambda song: song.id)
    if config.split == "none":
        return Split(tuple(usable), ())
    if config.split == "last":
        validation = usable[-validation_count(len(usable), config.validation_songs) :]
    elif config.split == "fraction":
        validation = [song for song in usable if _share(song, config.split_seed) < config.validation_fraction]
    else:
        listed = _read_ids(Path(config.validation_file), songs)
        validation = [song for song in usable if song.id in listed]
    chosen = set(validation)
    heard = {name for song in validation for name in identities(song)}
    others = [song for song in usable if song not in chosen]
    training = tuple(song for song in others if not identities(song) & heard)
    left_out = tuple(song for song in others if identities(song) & heard)
    if not training or not validation:
        side = "validation" if not validation else "training"
        key = {"last": "validation_songs", "fraction": "validation_fraction", "file": "validation_file"}[config.split]
        raise UsageError(
            f"no song is left for the {side}",
            why=f"{len(usable)} songs can be used, data.{key} = {getattr(config, key)!r} takes {len(validation)} of "
            f"them for the validation",
            next_step=f'change data.{key}, or train without validation: data.split = "none"',
        )
    return Split(training, tuple(validation), left_out)


def validation_count(usable: int, wanted: int) -> int:
    """Return how many of the songs validate: as many as are wanted, but a fifth of them at most, and at least one.

    With a single song none is left for the training; `split_songs` says so.
    """
    return min(wanted, max(1, usable // 5)) if wanted >= usable else wanted


def identities(song: IndexedSong) -> frozenset[str]:
    """Return the names that two copies of one song share: its id, and its artist with its title, letters and digits.

    So MedleyDB's "AClassicEducation_NightOwl" is MUSDB's "A Classic Education - NightOwl".
    """
    names = {_letters(song.id)}
    if song.artist and song.title:
        names.add(_letters(song.artist + song.title))
    return frozenset(names - {""})


def _letters(text: str) -> str:
    """Drop case, accents, spaces and punctuation."""
    decomposed = unicodedata.normalize("NFKD", text).casefold()
    return "".join(character for character in decomposed if character.isalnum())


def _share(song: IndexedSong, seed: int) -> float:
    """Return a number from 0 to 1 that depends on the song's name and the seed alone."""
    name = _letters(song.artist + song.title) if song.artist and song.title else _letters(song.id)
    digest = hashlib.sha256(f"{seed}/{name or song.id}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def _read_ids(path: Path, songs: Sequence[IndexedSong]) -> set[str]:
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise UsageError(f"data.validation_file: cannot read {display_name(path)}", why=why) from None
    listed = [line for line in lines if line and not line.startswith("#")]
    known = {song.id for song in songs}
    for song in listed:
        if song not in known:
            near = difflib.get_close_matches(song, known, n=1)
            raise UsageError(
                f"{display_name(path)} lists {song!r}, which is no song of the data set",
                why=f"did you mean {near[0]!r}?" if near else "",
                next_step="list song ids (the names of their folders), one a line",
            )
    return set(listed)
