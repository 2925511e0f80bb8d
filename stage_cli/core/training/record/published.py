"""What a model card may tell: licences as the Hub knows them, and a recipe without paths of the machine it ran on."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from stage_cli.core.data.config import ANY_STEM
from stage_cli.core.data.index import targets
from stage_cli.core.data.indexed_song import IndexedSong
from stage_cli.core.training.config.training import TrainingConfig
from stage_cli.core.weights.hub import HUB_ID

# Identifiers of the Hub for licences that weights have; others are "other", with a name.
_KNOWN_LICENCES = frozenset({
    "apache-2.0", "cc-by-4.0", "cc-by-nc-4.0", "cc-by-nc-nd-4.0", "cc-by-nc-sa-4.0", "cc-by-sa-4.0", "cc0-1.0",
    "gpl-3.0", "mit", "openrail", "unknown",
})  # fmt: skip


@dataclass(frozen=True)
class DataSummary:
    """The songs of a run in numbers.

    Attributes:
        training_songs: learned from.
        training_hours: the length of these songs.
        validation_songs: kept apart.
        validation_hours: likewise.
        stems: targets, each with the number of training songs that have it.
    """

    training_songs: int
    training_hours: float
    validation_songs: int
    validation_hours: float
    stems: dict[str, int]

    @classmethod
    def of(
        cls, config: TrainingConfig, training: Sequence[IndexedSong], validation: Sequence[IndexedSong]
    ) -> DataSummary:
        """Count songs, as a split gives them."""
        stems: dict[str, int] = {}
        for song in training:
            for stem in targets(song, config.data):
                stems[stem] = stems.get(stem, 0) + 1
        return cls(
            training_songs=len(training),
            training_hours=sum(song.duration for song in training) / 3600,
            validation_songs=len(validation),
            validation_hours=sum(song.duration for song in validation) / 3600,
            stems=dict(sorted(stems.items(), key=lambda entry: (-entry[1], entry[0]))),
        )


def licence_fields(licence: str) -> dict[str, str]:
    """Return the Hub's fields for a licence as a model's config states it: "CC-BY-NC-4.0 (MusicGen)", "MIT", …."""
    identifier = re.split(r"[\s(,;]", licence.strip().lower(), maxsplit=1)[0] or "unknown"
    if identifier in _KNOWN_LICENCES:
        return {"license": identifier}
    return {"license": "other", "license_name": re.sub(r"[^a-z0-9.]+", "-", licence.lower()).strip("-")}


def allows_commerce(licence: str) -> bool | None:
    """Whether a licence allows commercial use, as far as its name tells; None: it does not tell."""
    identifier = licence_fields(licence)["license"]
    return None if identifier in ("unknown", "other") else "-nc" not in identifier


def is_hub_id(name: str) -> bool:
    """Whether a name is a repository's on the Hub, and no folder's."""
    return bool(name) and HUB_ID.fullmatch(name) is not None and name[0] not in "./~" and not Path(name).exists()


def public_name(name: str) -> str:
    """Return a Hub id or a model's name as it is, and of a path only its end."""
    if not name or is_hub_id(name):
        return name
    path = Path(name)
    return f"{path.parent.name}/{path.name}".lstrip("/") if path.name == "config.json" else path.name


def public_config(config: TrainingConfig) -> TrainingConfig:
    """Return a run's config with the ends of its paths only."""
    model = config.model
    named = {key: public_name(getattr(model, key)) for key in ("base", "codec", "text_encoder")}
    file = config.data.validation_file
    return replace(
        config,
        run=replace(config.run, directory=Path(config.directory).name),
        model=replace(model, **named),
        data=replace(config.data, root=data_names(config), validation_file=Path(file).name if file else ""),
    )


def data_names(config: TrainingConfig) -> tuple[str, ...]:
    """Return the names of the data's folders, without the folders that they lie in."""
    return tuple(Path(root).expanduser().resolve().name or "data" for root in config.data.root)


def target_words(config: TrainingConfig) -> str:
    """Return what a run's model writes, in words."""
    if config.data.stem == ANY_STEM:
        return "the stem that its description names"
    return config.data.stem.replace("_", " ")
