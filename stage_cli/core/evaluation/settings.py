"""What an evaluation is: the options of `stage evaluate`. Imports neither torch nor numpy."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stage_cli.core.data.config import CONTEXTS, DataConfig
from stage_cli.core.generation.config import SAMPLING, GenerationConfig
from stage_cli.core.music import TRACKERS, default_tracker
from stage_cli.core.stems import STEMS
from stage_cli.errors import UsageError

SPLITS: tuple[str, ...] = ("last", "fraction", "all")

EMBEDDINGS = ("codec", "clap", "mert", "vggish")
"""The names that `load_embedding` knows."""

CLIP_SECONDS = 10.0
"""Length of clips, as published, unless `seconds` says otherwise."""

_DATA = DataConfig(root=("unread",))  # its defaults are those of the training


@dataclass(frozen=True)
class EvaluationConfig:
    """What is evaluated, on what, and how.

    The clips come from one of three places: prepared songs (`data`), a folder of contexts (`context_folder`), or the
    metronome set. Models write for all of them; folders of finished stems belong to a folder of contexts.

    Attributes:
        out: folder of the report.
        stem: that is evaluated.
        models: names, as `model` of `stage generate` takes them.
        data: folders of prepared songs.
        context: "mix", "metronome" or "both", of prepared songs.
        chunks: clips of each song.
        songs: at most, the last by name; None is 24, as published, and of the split "all" all. Of the
            metronome set: so many tempi, spread evenly.
        seconds: length of the clips; None is 10 s, and the whole of each file in a folder of contexts.
        split: which songs: "last" by name, the training's "fraction", or "all".
        validation_file: a text file of song ids, instead of a split.
        metronome_set: click tracks of every tempo from 100 to 179, as published.
        generated: folders of finished stems.
        context_folder: folder of their contexts.
        reference: folder of the true stems, if there are any.
        baselines: also measure the true stems after each model's codec.
        descriptions: tell models the songs' genres and moods.
        embeddings: for FAD, KAD and APA; None is "codec" if there is a model.
        kad_compatible: KAD with the bandwidth of the package kadtk.
        cocola: checkpoint for the COCOLA score.
        tracker: of beats; by default the first of `TRACKERS` that is installed.
        generation: guidance, sampling, and the seed of everything that is drawn.
        given: which of guidance, temperature, top_k, top_p, advance and lookahead hold for all models; each model's
            own default goes before the others. None is all of them.
        device: as `device` of `stage generate`.
        precision: as `precision` of `stage generate`.
        offline: use only files that are on this machine.
        overwrite: throw away a report of other settings.
        command: as it was typed, for the report.

    Raises:
        UsageError: a value or a combination is not allowed; the error names the field.
    """

    out: Path
    stem: str = _DATA.stem
    models: tuple[str, ...] = ()
    data: tuple[str, ...] = ()
    context: str = "mix"
    chunks: int = 4
    songs: int | None = None
    seconds: float | None = None
    split: str = "last"
    validation_file: Path | None = None
    metronome_set: bool = False
    generated: tuple[Path, ...] = ()
    context_folder: Path | None = None
    reference: Path | None = None
    baselines: bool = False
    descriptions: bool = False
    embeddings: tuple[str, ...] | None = None
    kad_compatible: bool = False
    cocola: Path | None = None
    tracker: str = field(default_factory=default_tracker)
    generation: GenerationConfig = field(default_factory=GenerationConfig)
    given: tuple[str, ...] | None = None
    device: str = "auto"
    precision: str = "auto"
    offline: bool = False
    overwrite: bool = False
    command: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _choice("stem", self.stem, STEMS)
        _choice("context", self.context, CONTEXTS)
        _choice("tracker", self.tracker, TRACKERS)
        _choice("split", self.split, SPLITS)
        _number("chunks", self.chunks, 1, 1000)
        if self.songs is not None:
            _number("songs", self.songs, 1, 1_000_000)
        if self.seconds is not None:
            _number("seconds", self.seconds, 1, 600)
        names = [spec.partition("=")[0] for spec in self.embedding_specs]
        for name in names:
            _choice("embedding", name, EMBEDDINGS)
        if len(set(names)) < len(names):
            raise UsageError("`embedding` names one embedding twice", why=f"given: {', '.join(self.embedding_specs)}")
        self._check_source()
        for name, path in (("cocola", self.cocola), ("validation_file", self.validation_file)):
            if path is not None and not path.is_file():
                raise UsageError(f"`{name}`: there is no file {path}")

    @property
    def source(self) -> str:
        """Where the clips come from: "data", "files" or "metronome-set"."""
        if self.metronome_set:
            return "metronome-set"
        return "data" if self.data else "files"

    @property
    def contexts(self) -> tuple[str, ...]:
        """Kinds of context, in the order of the clips."""
        if self.source != "data":
            return ("metronome",) if self.metronome_set else ("mix",)
        return ("mix", "metronome") if self.context == "both" else (self.context,)

    @property
    def most_songs(self) -> int | None:
        """How many songs are taken at most; None is no limit."""
        if self.songs is None and (self.split != "all" or self.validation_file is not None):
            return _DATA.validation_songs
        return self.songs

    @property
    def clip_seconds(self) -> float:
        """Length of the clips of songs and of the metronome set."""
        return CLIP_SECONDS if self.seconds is None else self.seconds

    @property
    def embedding_specs(self) -> tuple[str, ...]:
        """What `embedding` gives, or its default."""
        if self.embeddings is not None:
            return self.embeddings
        return ("codec",) if self.models else ()

    @property
    def decisive(self) -> dict[str, Any]:
        """What a report cannot change half-way, ready for JSON: what is measured can be added, systems too."""
        kept: dict[str, Any] = {
            "source": self.source,
            "stem": self.stem,
            "seconds": self.seconds,
            "seed": self.generation.seed,
        }
        if self.source == "data":
            folders = [str(Path(root).expanduser().resolve()) for root in self.data]
            split = self.split if self.validation_file is None else str(self.validation_file.resolve())
            kept |= {"data": folders, "context": self.context, "chunks": self.chunks, "songs": self.most_songs}
            kept |= {"split": split}
        if self.source == "metronome-set" and self.songs is not None:
            kept |= {"songs": self.songs}
        if self.context_folder is not None:
            kept |= {"context": str(self.context_folder.resolve())}
            kept |= {"reference": None if self.reference is None else str(self.reference.resolve())}
        return kept | {"descriptions": self.descriptions, **self.sampling}

    @property
    def sampling(self) -> dict[str, Any]:
        """How models draw, but for the seed, as far as it is the same for all of them."""
        sampling = self.generation.sampling
        return {name: sampling[name] if self.is_given(name) else "the model's own" for name in sampling}

    def is_given(self, name: str) -> bool:
        """Whether a setting of the sampling holds for all models."""
        return self.given is None or name in self.given

    def generation_of(self, sampling: Mapping[str, float]) -> GenerationConfig:
        """Return how a model with these defaults draws."""
        return self.generation.for_model(sampling, [name for name in SAMPLING if self.is_given(name)])

    def _check_source(self) -> None:
        given = [
            name
            for name, there in (
                ("`data`", bool(self.data)),
                ("`context` DIR", self.context_folder is not None),
                ("`metronome_set`", self.metronome_set),
            )
            if there
        ]
        if len(given) > 1:
            raise UsageError(f"{' and '.join(given)} do not go together", next_step="make two reports")
        if not given:
            raise UsageError(
                "There is nothing to evaluate on",
                next_step="give prepared songs (`data`), a folder of contexts (`context` DIR), or `metronome_set`",
            )
        if self.generated and self.context_folder is None:
            raise UsageError(
                "`generated` needs the contexts that its stems were made for", next_step="give `context` DIR"
            )
        if not self.generated and not self.models:
            raise UsageError("There is nothing to evaluate", next_step="give `model`, or `generated` DIR `context` DIR")
        if self.reference is not None and self.context_folder is None:
            raise UsageError("`reference` goes with `context` DIR", why="prepared songs bring their own true stems")
        folders: list[tuple[str, Path | None]] = [("generated", path) for path in self.generated]
        folders += [("context", self.context_folder), ("reference", self.reference)]
        for name, path in folders:
            if path is not None and not path.is_dir():
                raise UsageError(f"`{name}`: there is no folder {path}")
        for name, entries in (("model", self.models), ("generated", self.generated)):
            if len(set(entries)) < len(entries):
                raise UsageError(f"`{name}` names one thing twice", why=f"given: {', '.join(map(str, entries))}")


def _choice(field: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise UsageError(f"`{field}` cannot be {value!r}", next_step=f"allowed: {', '.join(choices)}")


def _number(field: str, value: float, low: float, high: float) -> None:
    if not (math.isfinite(value) and low <= value <= high):
        raise UsageError(f"`{field}` cannot be {value:g}", next_step=f"allowed: {low:g} to {high:g}")
