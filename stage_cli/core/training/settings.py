"""Checks of single values; each error names the TOML key, the value and what is allowed.

The `[train]` table of a run's TOML file: steps, optimizer, loss, dropouts. The defaults are the published ones.

The small tables of a run's TOML file: `[run]`, `[lora]`, `[validate]`, `[log]`, and how `[data]` is loaded.

Training a codec instead of a language model: the tables `[codec]` and `[codec.shape]` of a run's TOML file.

The `[model]` table of a run's TOML file: what the training starts from.

One whole run, as a TOML file describes it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeGuard

from stage_cli.core.band.settings import SOUNDS
from stage_cli.core.codec.config import AnyCodecConfig, SpectralConfig, codec_config_from_dict
from stage_cli.core.data.config import DataConfig
from stage_cli.core.generation.config import GenerationConfig
from stage_cli.core.lm.config import LanguageModelConfig
from stage_cli.core.players.config import ItemSettings, PlayerConfig
from stage_cli.errors import UsageError, WeightsError

MOST = 2**62


def check(key: str, value: object, allowed: bool, what: str) -> None:
    """Refuse a value.

    Args:
        key: with its table, `train.steps`.
        value: as the user gave it.
        allowed: whether it is.
        what: is allowed, in words.

    Raises:
        UsageError: it is not allowed.
    """
    if not allowed:
        raise UsageError(f"{key} cannot be {shown(value)}", next_step=f"allowed: {what}")


def check_text(key: str, value: object) -> None:
    """Refuse what is no text."""
    check(key, value, isinstance(value, str), 'a text, in quotes: "…"')


def check_switch(key: str, value: object) -> None:
    """Refuse what is neither true nor false."""
    check(key, value, isinstance(value, bool), "true, false")


def check_choice(key: str, value: object, choices: tuple[str, ...]) -> None:
    """Refuse what is none of some texts."""
    check(key, value, value in choices, ", ".join(f'"{choice}"' for choice in choices))


def check_whole(key: str, value: object, low: int, high: int = MOST) -> None:
    """Refuse what is no whole number from `low` to `high`."""
    allowed = isinstance(value, int) and not isinstance(value, bool) and low <= value <= high
    check(key, value, allowed, f"a whole number from {low} {'on' if high == MOST else f'to {high}'}")


def check_number(key: str, value: object, low: float, high: float, *, above: bool = False, below: bool = False) -> None:
    """Refuse what is no number from `low` (with `above`: higher) to `high` (with `below`: lower)."""
    inside = is_number(value) and low <= value <= high
    allowed = inside and not (above and value == low) and not (below and value == high)
    lowest = f"above {low:g}, up to" if above else f"from {low:g} to"
    check(key, value, allowed, f"a number {lowest} {'below ' if below else ''}{high:g}")


def is_number(value: object) -> TypeGuard[float]:
    """Tell a finite number from anything else; true and false are none."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def contradiction(first: str, second: str, *, why: str, next_step: str) -> UsageError:
    """Make the error for two keys that cannot both be as they are; each is given as `key = value`."""
    return UsageError(f"{first} contradicts {second}", why=why, next_step=next_step)


def shown(value: object) -> str:
    """Return a value as a TOML file would hold it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(shown, value))}]"
    return repr(value)


def printable(text: object) -> str:
    """Return a text as an error message shows it: line breaks and other control characters are escaped."""
    return str(text) if str(text).isprintable() else repr(str(text))


OPTIMIZERS: tuple[str, ...] = ("adamw", "muon")
SCHEDULES: tuple[str, ...] = ("constant", "cosine", "late")
CLIPS: tuple[str, ...] = ("value", "norm", "none")
TRAINABLES: tuple[str, ...] = ("all",)


@dataclass(frozen=True)
class TrainConfig:
    """How the model learns.

    Attributes:
        steps: of the optimizer.
        batch_size: sequences an optimizer step, over all processes and passes.
        micro_batch_size: sequences that one process computes at a time; the rest of its share follows in more passes.
        learning_rate: peak of AdamW's.
        betas: of AdamW.
        weight_decay: of the matrices.
        epsilon: of AdamW.
        optimizer: "adamw", or "muon" for matrices that map hidden states to hidden states, with AdamW for the rest.
        muon_learning_rate: peak of Muon's.
        schedule: the learning rate stays ("constant"), falls along a half cosine ("cosine"), or stays until half of the
            steps are done and then falls evenly ("late").
        warmup_steps: over which it first grows from zero.
        final_learning_rate: share of the peak at which "cosine" and "late" end.
        clip: gradients by "value" each, by the "norm" of all, or "none".
        clip_at: the largest value, or norm.
        codebook_weights: share of each codebook in the loss, scaled to sum to one; empty is even.
        context_dropout: probability that an item is learned without its context.
        description_dropout: likewise without its description.
        word_dropout: probability of leaving out each word of a description.
        history_dropout: probability that pieces of the target's own past, half a second each, are hidden from the model
            while it learns an item: what comes next must then be found in the context.
        beat_weight: of a further loss, on beats and downbeats as told from what the layers make of the context alone;
            for models that read their context first. Nothing of it stays in the model.
        harmony_weight: likewise on the pitch classes that the target plays.
        ema_decay: of a moving average of the weights, which becomes the result; 0 is off.
        checkpoint_every: steps between checkpoints.
        keep_last: newest checkpoints that are kept.
        most_bad_steps: steps in a row whose loss or gradient is not finite, after which the run stops.
        trainable: which weights learn; "all", reserved for more.
    """

    steps: int = 100_000
    batch_size: int = 8
    micro_batch_size: int = 2
    learning_rate: float = 1e-5
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 1e-3
    epsilon: float = 1e-8
    optimizer: str = "adamw"
    muon_learning_rate: float = 0.02
    schedule: str = "constant"
    warmup_steps: int = 0
    final_learning_rate: float = 0.0
    clip: str = "value"
    clip_at: float = 1.0
    codebook_weights: tuple[float, ...] = ()
    context_dropout: float = 0.1
    description_dropout: float = 0.5
    word_dropout: float = 0.3
    history_dropout: float = 0.0
    beat_weight: float = 0.0
    harmony_weight: float = 0.0
    ema_decay: float = 0.0
    checkpoint_every: int = 1000
    keep_last: int = 2
    most_bad_steps: int = 5
    trainable: str = "all"

    def __post_init__(self) -> None:
        check_whole("train.steps", self.steps, 1)
        check_whole("train.batch_size", self.batch_size, 1, 1_000_000)
        check_whole("train.micro_batch_size", self.micro_batch_size, 1, 1_000_000)
        self._check_optimizer()
        self._check_schedule()
        check_choice("train.clip", self.clip, CLIPS)
        check_number("train.clip_at", self.clip_at, 0, 1e6, above=True)
        self._check_codebook_weights()
        for key in ("context_dropout", "description_dropout", "word_dropout", "history_dropout"):
            check_number(f"train.{key}", getattr(self, key), 0, 1)
        for key in ("beat_weight", "harmony_weight"):
            check_number(f"train.{key}", getattr(self, key), 0, 1e6)
        check_number("train.ema_decay", self.ema_decay, 0, 1, below=True)
        check_whole("train.checkpoint_every", self.checkpoint_every, 1)
        check_whole("train.keep_last", self.keep_last, 1, 10_000)
        check_whole("train.most_bad_steps", self.most_bad_steps, 1, 10_000)
        check_choice("train.trainable", self.trainable, TRAINABLES)
        if self.batch_size % self.micro_batch_size:
            raise contradiction(
                f"train.batch_size = {self.batch_size}",
                f"train.micro_batch_size = {self.micro_batch_size}",
                why="a batch is made of whole micro-batches",
                next_step="make train.batch_size a multiple of train.micro_batch_size",
            )

    @property
    def has_context_losses(self) -> bool:
        """Whether anything is learned from the context alone."""
        return self.beat_weight > 0 or self.harmony_weight > 0

    def accumulation(self, processes: int) -> int:
        """Return the passes that each of some processes makes for one optimizer step.

        Raises:
            UsageError: a batch cannot be divided evenly among them.
        """
        together = self.micro_batch_size * processes
        if self.batch_size % together:
            raise UsageError(
                f"train.batch_size = {self.batch_size} cannot be divided among {processes} processes",
                why=f"train.micro_batch_size = {self.micro_batch_size}, so together they compute {together} at a time",
                next_step=f"make train.batch_size a multiple of {together}, or start fewer processes",
            )
        return self.batch_size // together

    def loss_weights(self, codebooks: int) -> tuple[float, ...]:
        """Return the share of each of K codebooks in the loss; they sum to one.

        Raises:
            UsageError: `codebook_weights` is for another number of codebooks.
        """
        if not self.codebook_weights:
            return (1 / codebooks,) * codebooks
        if len(self.codebook_weights) != codebooks:
            raise UsageError(
                f"train.codebook_weights has {len(self.codebook_weights)} numbers, the model {codebooks} codebooks",
                next_step=f"allowed: a list of {codebooks} numbers, or an empty one (all count the same)",
            )
        total = sum(self.codebook_weights)
        return tuple(weight / total for weight in self.codebook_weights)

    def _check_optimizer(self) -> None:
        check_choice("train.optimizer", self.optimizer, OPTIMIZERS)
        check_number("train.learning_rate", self.learning_rate, 0, 1, above=True)
        check_number("train.muon_learning_rate", self.muon_learning_rate, 0, 1, above=True)
        is_pair = isinstance(self.betas, tuple) and len(self.betas) == 2
        allowed = is_pair and all(is_number(beta) and 0 <= beta < 1 for beta in self.betas)
        check("train.betas", self.betas, allowed, "a list of two numbers from 0 to below 1")
        check_number("train.weight_decay", self.weight_decay, 0, 10)
        check_number("train.epsilon", self.epsilon, 0, 1, above=True)

    def _check_schedule(self) -> None:
        check_choice("train.schedule", self.schedule, SCHEDULES)
        check_whole("train.warmup_steps", self.warmup_steps, 0)
        check_number("train.final_learning_rate", self.final_learning_rate, 0, 1)
        if self.warmup_steps > self.steps:
            raise contradiction(
                f"train.warmup_steps = {self.warmup_steps}",
                f"train.steps = {self.steps}",
                why="the learning rate would never be reached",
                next_step="make train.warmup_steps at most train.steps",
            )

    def _check_codebook_weights(self) -> None:
        weights = self.codebook_weights
        listed = isinstance(weights, tuple) and all(is_number(weight) and weight >= 0 for weight in weights)
        allowed = listed and (not weights or sum(weights) > 0)
        check("train.codebook_weights", weights, allowed, "a list of numbers from 0 on, one a codebook, not all 0")


PRECISIONS: tuple[str, ...] = ("auto", "float32", "bfloat16", "float16")
SHARDINGS: tuple[str, ...] = ("ddp", "fsdp")
TOKENS: tuple[str, ...] = ("step", "cache")
LORA_TARGETS: tuple[str, ...] = (
    "attention_qkv",
    "attention_out",
    "text_q",
    "text_kv",
    "text_out",
    "feed_forward_in",
    "feed_forward_out",
)

_DEVICE = re.compile(r"auto|cpu|mps|cuda(:\d+)?", re.ASCII)


@dataclass(frozen=True)
class RunConfig:
    """Where and how a run computes: the `[run]` table.

    Attributes:
        directory: everything the run writes; "" is `runs/<name of the TOML file>`.
        seed: fixes the weights that start at random, the order of the data and every draw.
        device: "auto" (CUDA where there is one), "cpu", "cuda", "cuda:1", "mps".
        precision: of the forward pass; the weights stay float32. "auto" is bfloat16 on CUDA and float32 elsewhere.
        compile: let torch compile the layers.
        sharding: several processes hold whole copies of the model ("ddp"), or a part each ("fsdp").
        deterministic: only use algorithms that give the same bits each time, also on CUDA.
    """

    directory: str = ""
    seed: int = 0
    device: str = "auto"
    precision: str = "auto"
    compile: bool = False
    sharding: str = "ddp"
    deterministic: bool = False

    def __post_init__(self) -> None:
        check_text("run.directory", self.directory)
        check_whole("run.seed", self.seed, 0)
        named = isinstance(self.device, str) and _DEVICE.fullmatch(self.device) is not None
        check("run.device", self.device, named, '"auto", "cpu", "cuda", "cuda:N", "mps"')
        check_choice("run.precision", self.precision, PRECISIONS)
        check_switch("run.compile", self.compile)
        check_choice("run.sharding", self.sharding, SHARDINGS)
        check_switch("run.deterministic", self.deterministic)
        if self.precision == "float16" and self.device == "cpu":
            raise contradiction(
                'run.precision = "float16"',
                'run.device = "cpu"',
                why="float16 needs a GPU",
                next_step='use run.precision = "float32" or "bfloat16"',
            )


@dataclass(frozen=True)
class DataLoading:
    """How items reach the model: the keys of the `[data]` table that are not about what is drawn.

    Attributes:
        tokens: codec tokens are made inside each step ("step"), or once, before the first ("cache").
        workers: processes a training process that read and mix audio; 0 reads in the training process itself.
        cache_epochs: how many epochs of different draws "cache" makes; later epochs repeat them in turn.
        cache_directory: of the tokens that "cache" makes, for runs that share them; "" is in the run's own.
    """

    tokens: str = "step"
    workers: int = 2
    cache_epochs: int = 1
    cache_directory: str = ""

    def __post_init__(self) -> None:
        check_choice("data.tokens", self.tokens, TOKENS)
        check_whole("data.workers", self.workers, 0, 256)
        check_whole("data.cache_epochs", self.cache_epochs, 1, 10_000)
        check_text("data.cache_directory", self.cache_directory)


@dataclass(frozen=True)
class LoraConfig:
    """Train small matrices beside the frozen ones (https://arxiv.org/abs/2106.09685): the `[lora]` table.

    Attributes:
        rank: of the added matrices.
        alpha: their product counts alpha / rank.
        dropout: share of their inputs that is dropped.
        targets: the linears of each layer that get them, some of `LORA_TARGETS`.
    """

    rank: int = 8
    alpha: float = 16.0
    dropout: float = 0.0
    targets: tuple[str, ...] = ("attention_qkv", "attention_out")

    def __post_init__(self) -> None:
        check_whole("lora.rank", self.rank, 1, 4096)
        check_number("lora.alpha", self.alpha, 0, 10_000, above=True)
        check_number("lora.dropout", self.dropout, 0, 1, below=True)
        listed = isinstance(self.targets, tuple) and bool(self.targets)
        allowed = listed and all(target in LORA_TARGETS for target in self.targets)
        allowed = allowed and len(set(self.targets)) == len(self.targets)
        names = ", ".join(f'"{name}"' for name in LORA_TARGETS)
        check("lora.targets", self.targets, allowed, f"a list of one or more of {names}, each once")


@dataclass(frozen=True)
class ValidateConfig:
    """When and on what a run is validated: the `[validate]` table.

    Attributes:
        every: steps between validations; 0 is never.
        items_per_song: items of each validation song.
        most_items: of all songs together.
        demos: items that are also generated, written as audio and drawn.
        demo_guidance: of the demos, as `guidance` of `stage generate`.
        demo_temperature: likewise.
        demo_top_k: likewise.
        seed: fixes the items and the demos.
    """

    every: int = 1000
    items_per_song: int = 4
    most_items: int = 96
    demos: int = 4
    demo_guidance: float = GenerationConfig.guidance
    demo_temperature: float = GenerationConfig.temperature
    demo_top_k: int = GenerationConfig.top_k
    seed: int = 0

    def __post_init__(self) -> None:
        check_whole("validate.every", self.every, 0)
        check_whole("validate.items_per_song", self.items_per_song, 1, 10_000)
        check_whole("validate.most_items", self.most_items, 1)
        check_whole("validate.demos", self.demos, 0, 1000)
        check_number("validate.demo_guidance", self.demo_guidance, 0, 100)
        check_number("validate.demo_temperature", self.demo_temperature, 0, 10)
        check_whole("validate.demo_top_k", self.demo_top_k, 0, 1_000_000)
        check_whole("validate.seed", self.seed, 0)


@dataclass(frozen=True)
class LogConfig:
    """What is written about a run while it goes: the `[log]` table. `metrics.jsonl` is always written.

    Attributes:
        every: steps between two lines; each holds the means since the one before.
        tensorboard: write TensorBoard's files.
        wandb: log to Weights & Biases; `WANDB_MODE=offline` works.
        wandb_project: its project's name.
        curves: draw `curves.png` at each validation.
    """

    every: int = 10
    tensorboard: bool = True
    wandb: bool = False
    wandb_project: str = "stage"
    curves: bool = True

    def __post_init__(self) -> None:
        check_whole("log.every", self.every, 1)
        check_switch("log.tensorboard", self.tensorboard)
        check_switch("log.wandb", self.wandb)
        check_text("log.wandb_project", self.wandb_project)
        check("log.wandb_project", self.wandb_project, bool(self.wandb_project), "a name")
        check_switch("log.curves", self.curves)


@dataclass(frozen=True)
class CodecTrainConfig:
    """How a codec is trained: the `[codec]` table.

    Attributes:
        base: a codec to go on from: its encoder and its codebooks stay as they are, and only the decoder learns, so
            that models which were trained on it go on to work. "" starts from scratch.
        shape: the codec's sizes, the table `[codec.shape]`; its "kind" is "spectral" or "encodec".
        crop_seconds: contexts and targets of the data set are cut into crops of this length.
        unquantized_steps: forward passes before the quantizer joins.
        mel_weight: of the loss on mel spectra.
        spectrum_weight: of the loss on magnitudes.
        phase_weight: of the loss on compressed complex spectra.
        level_weight: of the loss on the energy of mel bands over 0.1 s.
        pitch_weight: of the loss on semitones under long windows.
        tone_weight: of the loss on the amplitudes of a spectral codec's tones.
        commitment_weight: of the distance of latents from their codes.
        quietest_gain: dB; each crop is turned down by a random amount between this and 0.
        codebook_decay: of the codebooks' moving averages, a forward pass.
        licence: of the result.

    Raises:
        UsageError: a value is not allowed; the error names its key.
    """

    shape: AnyCodecConfig = field(default_factory=SpectralConfig)
    base: str = ""
    crop_seconds: float = 1.6
    unquantized_steps: int = 150
    mel_weight: float = 10.0
    spectrum_weight: float = 1.0
    phase_weight: float = 1.0
    level_weight: float = 0.0
    pitch_weight: float = 0.0
    tone_weight: float = 0.0
    commitment_weight: float = 1.0
    quietest_gain: float = -12.0
    codebook_decay: float = 0.97
    licence: str = "unknown"

    def __post_init__(self) -> None:
        check_text("codec.base", self.base)
        check_number("codec.crop_seconds", self.crop_seconds, 0, 60, above=True)
        check_whole("codec.unquantized_steps", self.unquantized_steps, 0)
        for loss in ("mel", "spectrum", "phase", "level", "pitch", "tone", "commitment"):
            check_number(f"codec.{loss}_weight", getattr(self, f"{loss}_weight"), 0, 1e6)
        check_number("codec.quietest_gain", self.quietest_gain, -60, 0)
        check_number("codec.codebook_decay", self.codebook_decay, 0, 1, below=True)
        check_text("codec.licence", self.licence)


@dataclass(frozen=True)
class PlayerTrainConfig:
    """What a player learns from: the `[player]` table. Its songs are composed into `data.root` before the first step.

    Attributes:
        songs: of the set that is composed; 0 takes what is there.
        song_seconds: of each.
        seed: of the set.
        sounds: as `stage demo-data --sounds`.
        drummers: a folder of drum performances in Groove MIDI's layout; "" is none.
        invented: share of the songs without a human drummer that are kept.
        items: how items are drawn; the table `[player.items]`.
        sizes: of the player; the table `[player.sizes]`.
        licence: of the result.
        credit: whom the result's card names for the performances.

    Raises:
        UsageError: a value is not allowed; the error names its key.
    """

    songs: int = 1000
    song_seconds: float = 24.0
    seed: int = 0
    sounds: str = "auto"
    drummers: str = ""
    invented: float = 1.0
    items: ItemSettings = field(default_factory=ItemSettings)
    sizes: PlayerConfig = field(default_factory=PlayerConfig)
    licence: str = "unknown"
    credit: str = ""

    def __post_init__(self) -> None:
        check_whole("player.songs", self.songs, 0, 1_000_000)
        check_number("player.song_seconds", self.song_seconds, 12, 600)
        check_whole("player.seed", self.seed, 0, 2**32 - 1)
        check_choice("player.sounds", self.sounds, SOUNDS)
        check_number("player.invented", self.invented, 0, 1)
        for key in ("drummers", "licence", "credit"):
            check_text(f"player.{key}", getattr(self, key))
        for key, value in vars(self.items).items():
            check_number(f"player.items.{key}", value, 0, {"speed": 0.7, "gain": 30.0}.get(key, 1.0))


def read_shape(values: Mapping[str, Any]) -> AnyCodecConfig:
    """Read the table `[codec.shape]`.

    Raises:
        UsageError: an unknown key, or a value that is not allowed.
    """
    try:
        return codec_config_from_dict({"kind": SpectralConfig.KIND, **values})
    except WeightsError as error:
        raise UsageError(f"[codec.shape]: {error.what}", why=error.why) from None


EMBEDDINGS: tuple[str, ...] = ("random", "codec")
_LONGEST_WINDOW = 600.0  # seconds


@dataclass(frozen=True)
class ModelConfig:
    """The model that a training starts from: one with weights (`base`), or sizes alone (`lm`, or a `config.json`).

    Attributes:
        base: Hub id, name in the model list or directory of a model to go on from; or a model's `config.json`, to start
            from scratch with its sizes.
        codec: from scratch only: Hub id, name or directory of the model or codec whose codec is taken.
        lm: sizes to start from scratch with, instead of `base`; the `[model.lm]` table.
        embeddings: from scratch only: "random", or "codec", half of which is a projection of the codec's codebooks.
        text_encoder: Hub id or directory of the T5 encoder; "" is the base's, and from scratch the usual one where
            `lm.text_dimension` is set.
        window_seconds: longest context, and longest target, that the model is for; None is `data.chunk_seconds`.
        checkpointing: keep no activations inside the layers and compute them again for the gradient: less memory, more
            time.
        licence: of the result; "" is the base's.
        absent: there is no such table, for a codec is trained (`[codec]`).
    """

    base: str = ""
    codec: str = ""
    lm: LanguageModelConfig | None = None
    embeddings: str = "random"
    text_encoder: str = ""
    window_seconds: float | None = None
    checkpointing: bool = False
    licence: str = ""
    absent: bool = False

    def __post_init__(self) -> None:
        for key in ("base", "codec", "text_encoder", "licence"):
            check_text(f"model.{key}", getattr(self, key))
        check_choice("model.embeddings", self.embeddings, EMBEDDINGS)
        check("model.lm", self.lm, self.lm is None or isinstance(self.lm, LanguageModelConfig), "a table of sizes")
        if self.window_seconds is not None:
            check_number("model.window_seconds", self.window_seconds, 0, _LONGEST_WINDOW, above=True)
        check_switch("model.checkpointing", self.checkpointing)
        if not self.absent:
            self._check_start()
            self._check_text_encoder()

    @property
    def from_scratch(self) -> bool:
        """Whether all weights of the language model start at random."""
        return self.lm is not None or (Path(self.base).name == "config.json" and not Path(self.base).is_dir())

    def _check_start(self) -> None:
        if self.base and self.lm is not None:
            raise contradiction(
                f'model.base = "{self.base}"',
                "the table [model.lm]",
                why="a base has its sizes already",
                next_step="leave one of them out: [model.lm] trains from scratch",
            )
        if not self.base and self.lm is None:
            raise UsageError(
                "neither model.base nor the table [model.lm] is there",
                why="the training needs a model to start from, or the sizes of a new one",
                next_step='give model.base = "facebook/musicgen-small", or the sizes in [model.lm]',
            )
        if self.from_scratch and not self.codec:
            raise UsageError(
                "model.codec is missing",
                why="a model from scratch needs a trained codec",
                next_step='name a model or a codec: model.codec = "facebook/encodec_32khz"',
            )
        if self.codec and not self.from_scratch:
            raise contradiction(
                f'model.codec = "{self.codec}"',
                f'model.base = "{self.base}"',
                why="a base was trained with its own codec",
                next_step="leave model.codec out",
            )
        if self.embeddings != "random" and not self.from_scratch:
            raise contradiction(
                f'model.embeddings = "{self.embeddings}"',
                f'model.base = "{self.base}"',
                why="a base has its embeddings already",
                next_step="leave model.embeddings out",
            )
        if self.lm is not None and not self.lm.separator:
            raise UsageError(
                "model.lm.separator cannot be false",
                why="the separator parts the context from the target",
                next_step="allowed: true",
            )

    def _check_text_encoder(self) -> None:
        if self.text_encoder and self.lm is not None and self.lm.text_dimension is None:
            raise contradiction(
                f'model.text_encoder = "{self.text_encoder}"',
                "model.lm.text_dimension = 0",
                why="a model without text takes no descriptions",
                next_step="set model.lm.text_dimension to the encoder's width (768 for t5-base), or leave both out",
            )


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """A run; each part is a table of its TOML file.

    Attributes:
        name: of the run; the TOML file's without its suffix. It decides nothing but the directory's default.
        run: device, precision, seed.
        model: what the training starts from.
        data: songs, and how items are drawn from them.
        loading: the other keys of `[data]`: how items reach the model.
        train: steps, optimizer, loss.
        lora: train an adapter instead of the whole model; None is the whole model.
        codec: train a codec, not a language model; None is a language model.
        player: train a player, which writes notes; None is a language model.
        validate: when, and on what.
        log: what is written meanwhile.

    Raises:
        UsageError: two parts contradict each other; the error names both keys.
    """

    data: DataConfig
    model: ModelConfig
    name: str = field(default="training", compare=False)
    run: RunConfig = field(default_factory=RunConfig)
    loading: DataLoading = field(default_factory=DataLoading)
    train: TrainConfig = field(default_factory=TrainConfig)
    lora: LoraConfig | None = None
    codec: CodecTrainConfig | None = None
    player: PlayerTrainConfig | None = None
    validate: ValidateConfig = field(default_factory=ValidateConfig)
    log: LogConfig = field(default_factory=LogConfig)

    def __post_init__(self) -> None:
        if self.codec is not None:
            self._check_codec(self.codec)
        if self.player is not None:
            self._check_player()
        if self.loading.tokens == "cache" and self.data.augments:
            changes = "speed" if self.data.speed_probability else "pitch"
            raise contradiction(
                'data.tokens = "cache"',
                f"data.{changes}_probability = {getattr(self.data, f'{changes}_probability')}",
                why="tokens that are made once cannot change with each draw",
                next_step='set data.speed_probability and data.pitch_probability to 0, or data.tokens to "step"',
            )
        if self.lora is not None and self.model.from_scratch:
            start = "the table [model.lm]" if self.model.lm is not None else f'model.base = "{self.model.base}"'
            raise contradiction(
                "the table [lora]",
                start,
                why="an adapter changes a model that was trained before",
                next_step="leave [lora] out, or give model.base a model with weights",
            )
        if self.lora is not None and self.train.optimizer == "muon":
            raise contradiction(
                "the table [lora]",
                'train.optimizer = "muon"',
                why="Muon is for whole matrices, not for the two factors of an adapter's",
                next_step='set train.optimizer to "adamw"',
            )
        if self.validate.every > 0 and self.data.split == "none":
            raise contradiction(
                f"validate.every = {self.validate.every}",
                'data.split = "none"',
                why="there is no song to validate on",
                next_step='set validate.every to 0, or data.split to "last" or "fraction"',
            )
        window = self.model.window_seconds
        if window is not None and window < self.data.chunk_seconds:
            raise contradiction(
                f"model.window_seconds = {window:g}",
                f"data.chunk_seconds = {self.data.chunk_seconds:g}",
                why="the items would be longer than the model's window",
                next_step="make model.window_seconds at least data.chunk_seconds",
            )

    def _check_player(self) -> None:
        for present, other in (
            (not self.model.absent, "the table [model]"),
            (self.codec is not None, "the table [codec]"),
            (self.lora is not None, "the table [lora]"),
            (self.loading.tokens == "cache", 'data.tokens = "cache"'),
        ):
            if present:
                raise contradiction(
                    "the table [player]",
                    other,
                    why="a player writes notes: it has no tokens of audio",
                    next_step="leave one of them out",
                )
        if self.data.stem != "drums":
            raise UsageError(
                f'data.stem = "{self.data.stem}" is not for a player', next_step='set data.stem to "drums"'
            )

    def _check_codec(self, codec: CodecTrainConfig) -> None:
        for present, other, why in (
            (not self.model.absent, "the table [model]", "a run trains a codec, or a language model on one"),
            (self.lora is not None, "the table [lora]", "an adapter is for a language model"),
            (self.loading.tokens == "cache", 'data.tokens = "cache"', "tokens are what the codec has yet to learn"),
        ):
            if present:
                raise contradiction("the table [codec]", other, why=why, next_step="leave one of them out")
        passes = self.train.steps * self.train.accumulation(1)
        if codec.unquantized_steps >= passes and not codec.base:
            raise contradiction(
                f"codec.unquantized_steps = {codec.unquantized_steps}",
                f"train.steps = {self.train.steps}",
                why="the codebooks would never be learned",
                next_step=f"set codec.unquantized_steps to less than {passes}",
            )
        if self.data.chunk_seconds < codec.crop_seconds:
            raise contradiction(
                f"codec.crop_seconds = {codec.crop_seconds:g}",
                f"data.chunk_seconds = {self.data.chunk_seconds:g}",
                why="crops are cut out of chunks",
                next_step="make data.chunk_seconds at least codec.crop_seconds",
            )

    @property
    def directory(self) -> Path:
        """Where the run writes everything."""
        return Path(self.run.directory or f"runs/{self.name}").expanduser()

    @property
    def window_seconds(self) -> float:
        """Longest context, and longest target, that the model is trained with."""
        return self.data.chunk_seconds if self.model.window_seconds is None else self.model.window_seconds
