"""The card of a trained model: the README.md beside its weights."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from stage_cli import __version__
from stage_cli.core.data.config import ANY_STEM
from stage_cli.core.model_config import StageConfig
from stage_cli.core.training.config.training import TrainingConfig
from stage_cli.core.training.config.writing import to_toml
from stage_cli.core.training.record.published import (
    DataSummary,
    allows_commerce,
    data_names,
    is_hub_id,
    licence_fields,
    public_config,
    public_name,
    target_words,
)
from stage_cli.core.training.record.whole_files import write_text

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
        text = f"A description can be given: `--description 'Genres: Rock. Moods: happy.{named}'`. "
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
