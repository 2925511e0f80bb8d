"""The small tables of a run's TOML file: `[run]`, `[lora]`, `[validate]`, `[log]`, and how `[data]` is loaded."""

from __future__ import annotations

import re
from dataclasses import dataclass

from stage_cli.core.generation.config import GenerationConfig
from stage_cli.core.training.config.checks import (
    check,
    check_choice,
    check_number,
    check_switch,
    check_text,
    check_whole,
    contradiction,
)

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
        demo_guidance: of the demos, as `stage generate --guidance`.
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
