"""What a model card may tell: licences as the Hub knows them, and a recipe without paths of the machine it ran on.

The card of a trained model: the README.md beside its weights.

The card of a trained codec: the README.md beside its weights.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from stage_cli import __version__
from stage_cli.core.data.config import ANY_STEM
from stage_cli.core.data.index import IndexedSong, targets
from stage_cli.core.files import write_text
from stage_cli.core.model_config import StageConfig
from stage_cli.core.training.settings import TrainingConfig
from stage_cli.core.training.toml import to_toml
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


CARD_FILE = "README.md"

_CODEBOOK = re.compile(r"validation/loss/codebook_(\d+)")


@dataclass(frozen=True)
class ModelCard:
    """What a card is made of.

    Attributes:
        config: of the run.
        model: of the result.
        data: the run's songs.
        step: of the optimizer, that the weights are of.
        metrics: of that step's validation; may be empty.
    """

    config: TrainingConfig
    model: StageConfig
    data: DataSummary
    step: int
    metrics: Mapping[str, float]


def write_model_card(directory: Path, card: ModelCard) -> Path:
    """Write the card into a model's directory; return its path.

    Raises:
        StageError: it cannot be written.
    """
    path = directory / CARD_FILE
    write_text(path, card_text(card))
    return path


def card_text(card: ModelCard) -> str:
    """Return the card: Markdown with front matter, as the Hub reads it."""
    sections = [_head(card), _use(card), _data(card), _recipe(card), _results(card), _limits(card), _licence(card)]
    return "\n".join([_front_matter(card), *sections])


def _front_matter(card: ModelCard) -> str:
    fields: dict[str, object] = dict(licence_fields(card.model.licence))
    fields["library_name"] = "stage-cli"
    fields["pipeline_tag"] = "audio-to-audio"
    stems = [card.model.stem] if card.model.stem else list(card.data.stems)
    fields["tags"] = ["music", "accompaniment", "stems", "stage", *(["lora"] if card.config.lora else []), *stems]
    if is_hub_id(base := _base(card)):
        fields["base_model"] = base.partition("@")[0]
    # JSON is YAML.
    lines = [f"{name}: {json.dumps(value, ensure_ascii=False)}" for name, value in fields.items()]
    return "\n".join(["---", *lines, "---", ""])


def _head(card: ModelCard) -> str:
    base = _base(card)
    kind = "An adapter (LoRA)" if card.config.lora else "A model"
    origin = "trained from scratch" if card.config.model.from_scratch else f"trained from `{public_name(base)}`"
    return (
        f"# {card.config.name}\n\n{kind} that writes {target_words(card.config)} for music that already exists: on its "
        f"beat and exactly as long. It is {origin} with stage-cli {__version__}, as STAGE was "
        "([arXiv 2504.05690](https://arxiv.org/abs/2504.05690)).\n"
    )


def _use(card: ModelCard) -> str:
    stem = card.model.stem or next(iter(card.data.stems), "drums")
    command = f"stage generate --context song.wav --stem {stem.replace('_', '-')} --model MODEL"
    text = ""
    if card.model.takes_text:
        named = f" Instruments: {stem.replace('_', ' ')}." if card.config.data.stem == ANY_STEM else ""
        text = f"It takes a description: `stage generate … --description 'Genres: Rock. Moods: happy.{named}'`. "
    adapter = f" The adapter needs its base, `{public_name(_base(card))}`." if card.config.lora else ""
    return (
        f"## How to use it\n\n```sh\n{command}\n```\n\n`MODEL` is this directory, or its name on the Hub. {text}"
        f"More: `stage generate --help`.{adapter}\n"
    )


def _data(card: ModelCard) -> str:
    data, settings = card.data, card.config.data
    folders = ", ".join(f"`{name}`" for name in data_names(card.config))
    stems = ", ".join(f"{stem.replace('_', ' ')} in {count}" for stem, count in data.stems.items())
    contexts = {
        "mix": "a random mix of a song's other stems",
        "metronome": "a metronome track on a song's beats",
        "both": "a random mix of a song's other stems, or, half of the time, a metronome track on its beats",
    }[settings.context]
    changes = " Speed and pitch were changed at random." if settings.augments else ""
    return (
        f"## What it learned from\n\n"
        f"| | songs | hours |\n| --- | ---: | ---: |\n"
        f"| training | {data.training_songs} | {data.training_hours:.1f} |\n"
        f"| validation | {data.validation_songs} | {data.validation_hours:.1f} |\n\n"
        f"From the data in {folders}. Targets in the training songs: {stems or 'none'}.\n\n"
        f"It learned to write {settings.chunk_seconds:g} s of the target. What it heard: {contexts}.{changes} "
        f"No validation song was learned from.\n"
    )


def _recipe(card: ModelCard) -> str:
    train = card.config.train
    return (
        f"## How it was trained\n\n"
        f"{card.step:,} of {train.steps:,} steps, {train.batch_size} sequences each. The whole recipe, from which "
        f"`stage train` can do it again (paths are shortened to their ends):\n\n"
        f"```toml\n{to_toml(public_config(card.config))}```\n"
    )


def _results(card: ModelCard) -> str:
    rows = list(_result_rows(card.metrics))
    if not rows:
        return "## How well it does\n\nIt was not validated.\n"
    table = "\n".join(f"| {name} | {value:.3f} |" for name, value in rows)
    return (
        f"## How well it does\n\n"
        f"On the validation songs, at step {card.step:,}:\n\n| | |\n| --- | ---: |\n{table}\n\n"
        "The loss is the mean cross-entropy of a token in nats, weighted by codebook as in the recipe; lower is "
        "better. The context gap tells how much worse the loss is with another song's context: 0 means that the model "
        "does not listen to its context.\n"
    )


def _result_rows(metrics: Mapping[str, float]) -> Iterator[tuple[str, float]]:
    names = {
        "validation/loss": "loss",
        "validation/loss_shuffled_context": "loss with another song's context",
        "validation/context_gap": "context gap",
        "validation/context_gap/mix": "context gap, mixes",
        "validation/context_gap/metronome": "context gap, metronome tracks",
    }
    codebooks = sorted((int(match[1]), name) for name in metrics if (match := _CODEBOOK.fullmatch(name)) is not None)
    names |= {name: f"loss of codebook {number}" for number, name in codebooks}
    for name, words in names.items():
        if math.isfinite(metrics.get(name, math.nan)):
            yield words, metrics[name]


def _limits(card: ModelCard) -> str:
    model = card.model
    window = f"{model.window_seconds:g} s"
    own = (
        f"It writes {target_words(card.config)} and nothing else."
        if model.stem
        else "It writes one stem at a time, of the kinds that it learned from."
    )
    points = [
        own,
        f"It hears and writes {window} at a time. Longer songs are written window by window, each going on from the "
        "one before: it does not know a song's form.",
        f"It hears the context in mono, and writes mono at {model.codec.sample_rate / 1000:g} kHz, as well as its "
        "codec can.",
        "It does not hear what you think of, such as chords, tempo or bars in words: it follows what sounds."
        if model.takes_text
        else "It takes no description: it follows what sounds, and nothing else.",
        "It may miss the beat, or the harmony: listen before you use what it writes.",
        "What it writes may be like what it learned from.",
    ]
    return "## What it cannot do\n\n" + "\n".join(f"- {point}" for point in points) + "\n"


def _licence(card: ModelCard) -> str:
    licence = card.model.licence
    use = {
        True: "It allows commercial use; what the data's owners allow is not told here.",
        False: "It forbids commercial use.",
        None: "Whether it allows commercial use is for you to find out.",
    }[allows_commerce(licence)]
    if card.config.model.licence:
        whence = "chosen by whoever trained it"
    elif card.config.model.from_scratch:
        whence = "inherited from the model that its codec comes from"
    else:
        whence = "inherited from the base"
    return f"## Licence\n\n{licence} ({whence}). {use}\n"


def _base(card: ModelCard) -> str:
    return "" if card.config.model.from_scratch else card.config.model.base


def write_codec_card(
    config: TrainingConfig, data: DataSummary, directory: Path, step: int, metrics: Mapping[str, float]
) -> None:
    """Write the card into the codec's directory.

    Args:
        config: of the run.
        data: its songs.
        directory: of the codec.
        step: that the weights are of.
        metrics: of that step's validation; may be empty.

    Raises:
        StageError: it cannot be written.
    """
    if config.codec is None:
        raise ValueError("a run without the table [codec] has no codec")
    shape = config.codec.shape
    rows = "".join(
        f"| {name.removeprefix('validation/')} | {value:.4f} |\n"
        for name, value in metrics.items()
        if math.isfinite(value)
    )
    found = f"On songs that it did not learn from:\n\n| | |\n| --- | ---: |\n{rows}\n" if rows else ""
    write_text(
        directory / "README.md",
        f"# A codec for stage-cli\n\n"
        f"{shape.sample_rate / 1000:g} kHz mono, {shape.frame_rate:g} frames a second, {shape.codebooks} codebooks of "
        f"{shape.codebook_size}. Licence: {config.codec.licence}.\n\n"
        f'A language model is trained on it with `[model] codec = "DIRECTORY"` (docs/train.md).\n\n'
        f"Trained from scratch for {step:,} steps on {data.training_songs} songs of {', '.join(data_names(config))}. "
        f"{found}The whole recipe (paths are shortened to their ends):\n\n"
        f"```toml\n{to_toml(public_config(config))}```\n",
    )
