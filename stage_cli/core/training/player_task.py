"""A player as something to train: stretches of stored songs in, a model that writes notes out (the engine's `Task`)."""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from stage_cli.core.band.settings import DemoSettings
from stage_cli.core.files import write_text
from stage_cli.core.players.config import PlayerConfig
from stage_cli.core.players.drummers import NotatedPerformance, read_drummers
from stage_cli.core.players.generate import CONFIG_FILE, SCALE_SUFFIX, WEIGHTS_FILE
from stage_cli.core.players.items import draw_item, stack
from stage_cli.core.players.model import PlayerInputs, PlayerModel, draw_weights
from stage_cli.core.players.store import StoredSong, read_song
from stage_cli.core.training.card import public_config
from stage_cli.core.training.player_songs import compose_store
from stage_cli.core.training.settings import PlayerTrainConfig, TrainingConfig
from stage_cli.core.training.task import ParameterGroup
from stage_cli.core.training.toml import to_toml
from stage_cli.core.training.validation import ValidationResult
from stage_cli.errors import UsageError

ITEMS_PER_SONG = 4
"""Of an epoch."""
_STREAM = 0x91A7E2
_PACKED = 4096  # numbers that a matrix must have to be stored as int8
_GRIDS = {"free": 0.0, "grid": 1.0}  # validations without and with the beats shown


@dataclass(frozen=True)
class PlayerItem:
    """One item: where it comes from, and the fields of `PlayerInputs`."""

    song: str
    index: int
    fields: dict[str, np.ndarray]


@dataclass(frozen=True)
class PlayerBatch:
    """Items of one pass (the engine's `Batch`)."""

    items: tuple[PlayerItem, ...]
    inputs: PlayerInputs

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> Self:
        """Move the tensors."""
        moved = {name: value.to(device, non_blocking=non_blocking) for name, value in vars(self.inputs).items()}
        return replace(self, inputs=PlayerInputs(**moved))


class PlayerDataset:
    """Items of stored songs, drawn from (seed, epoch, index) alone (the engine's `TaskDataset`).

    Args:
        paths: of the songs.
        performances: of drummers, which replace invented ones in some items.
        settings: how items are drawn.
        config: of the player.
        seed: of the run.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        performances: Sequence[NotatedPerformance],
        settings: PlayerTrainConfig,
        config: PlayerConfig,
        seed: int,
    ) -> None:
        self.paths, self._performances = tuple(paths), tuple(performances)
        self._settings, self._config, self._seed = settings, config, seed
        self._epoch = 0

    def __len__(self) -> int:
        """Items an epoch."""
        return ITEMS_PER_SONG * len(self.paths)

    def set_epoch(self, epoch: int) -> None:
        """Draw other items from now on."""
        self._epoch = epoch

    def __getitem__(self, index: int) -> PlayerItem:
        """Draw an item."""
        path = self.paths[index % len(self.paths)]
        rng = np.random.default_rng((self._seed, self._epoch, index, _STREAM))
        fields = draw_item(_song(path), self._performances, self._settings.items, self._config, rng)
        return PlayerItem(path.stem, index, fields)


@lru_cache(maxsize=8192)
def _song(path: Path) -> StoredSong:
    """Read a song; all of them stay in memory, one MB each."""
    return read_song(path)


class PlayerTask:
    """A player that learns to write notes.

    Attributes:
        config: of the run.
        player: sizes.
        module: that learns.
        dataset: of the training.
        validation_paths: songs that it never learns from.

    Args:
        config: of the run, with a table `[player]`.

    Raises:
        UsageError: there are no songs in `data.root`, or none for the validation.
        OSError, StageError: drummers cannot be read.
    """

    units: tuple[str, ...] = ("AttentionLayer",)

    def __init__(self, config: TrainingConfig) -> None:
        if config.player is None:
            raise ValueError("a run without the table [player] trains no player")
        self.config, self.settings = config, config.player
        self.player = replace(self.settings.sizes, stem=config.data.stem)
        paths = [path for root in config.data.root for path in sorted(Path(root).expanduser().glob("*.npz"))]
        share = 0.0 if config.data.split == "none" else config.data.validation_fraction
        held = [path for path in paths if zlib.crc32(path.stem.encode()) % 1000 < 1000 * share]
        self.validation_paths = tuple(held)
        training = [path for path in paths if path not in set(held)]
        if not training or (config.validate.every and not held):
            raise UsageError(
                f"too few songs in {', '.join(config.data.root)}",
                why=f"{len(training)} to learn from, {len(held)} to validate on",
                next_step="set player.songs to 50 or more, or validate.every to 0",
            )
        performances = read_drummers(Path(self.settings.drummers).expanduser()) if self.settings.drummers else []
        self.dataset = PlayerDataset(training, performances, self.settings, self.player, config.run.seed)
        self.module: nn.Module = PlayerModel(self.player)
        draw_weights(self.module, config.run.seed)

    @staticmethod
    def collate(items: Sequence[PlayerItem]) -> PlayerBatch:
        """Make a batch."""
        return PlayerBatch(tuple(items), inputs_of([item.fields for item in items]))

    def inputs(self, batch: PlayerBatch, epoch: int) -> PlayerInputs:
        """Return what the module takes; all chance was in the items."""
        del epoch
        return batch.inputs

    def parameter_groups(self, module: nn.Module) -> list[ParameterGroup]:
        """Matrices of the layers are "matrix"; vectors do not decay."""
        named = [(name, parameter) for name, parameter in module.named_parameters() if parameter.requires_grad]
        matrices = tuple(name for name, parameter in named if parameter.ndim == 2 and ".layers." in name)
        vectors = tuple(name for name, parameter in named if parameter.ndim < 2)
        others = tuple(name for name, _ in named if name not in {*matrices, *vectors})
        groups = [
            ParameterGroup(matrices, kind="matrix"),
            ParameterGroup(others),
            ParameterGroup(vectors, decay=False),
        ]
        return [group for group in groups if group.names]

    def audio_seconds(self, batch: PlayerBatch) -> float:
        """Return the seconds that are listened to."""
        heard = batch.inputs.heard
        return heard.shape[0] * heard.shape[1] / self.player.features.frame_rate

    def place(self, device: torch.device) -> None:
        """Nothing is frozen."""

    def save(self, directory: Path, metrics: Mapping[str, float], state: Mapping[str, Tensor] | None = None) -> None:
        """Write the player: `config.json` and `model.safetensors`, float16."""
        del metrics
        save_player(directory, self.player, self.module.state_dict() if state is None else state)


def save_player(
    directory: Path,
    config: PlayerConfig,
    state: Mapping[str, Tensor],
    writing: Mapping[str, Any] | None = None,
    *,
    packed: bool = False,
) -> None:
    """Write a player's files into a directory.

    Args:
        directory: exists.
        config: sizes.
        state: weights by name.
        writing: how it chooses by default, fields of `WritingSettings`.
        packed: matrices become int8, with a scale for each row of their last axis: half the size of float16.

    Raises:
        OSError: a file cannot be written.
    """
    from safetensors.torch import save_file

    tensors: dict[str, Tensor] = {}
    for name, tensor in state.items():
        value = tensor.detach().to("cpu", torch.float32)
        if packed and value.ndim > 1 and value.numel() >= _PACKED:
            scale = (value.abs().amax(dim=-1, keepdim=True) / 127).clamp(min=1e-8)
            tensors[name] = (value / scale).round().to(torch.int8).contiguous()
            tensors[name + SCALE_SUFFIX] = scale.contiguous()
        else:
            tensors[name] = value.to(torch.float16).contiguous()
    save_file(tensors, directory / WEIGHTS_FILE)
    about = {"kind": "player", "player": config.as_dict(), "writing": dict(writing or {})}
    write_text(directory / CONFIG_FILE, json.dumps(about, indent=1) + "\n")


def inputs_of(fields: Sequence[Mapping[str, np.ndarray]]) -> PlayerInputs:
    """Stack the fields of items as tensors."""
    stacked = stack([dict(item) for item in fields])
    tokens = {name for name, value in stacked.items() if value.dtype == np.int16}
    return PlayerInputs(
        **{
            name: torch.from_numpy(value.astype(np.int64) if name in tokens else value)
            for name, value in stacked.items()
        }
    )


def prepare_songs(config: TrainingConfig, on_progress: Callable[[int, int], None] | None = None) -> None:
    """Compose the songs of a run's `[player]` table into its first `data.root`; those that are there are kept.

    Raises:
        OSError: a song cannot be written.
        StageError: sounds or drummers cannot be read.
    """
    settings = config.player
    if settings is None or not settings.songs:
        return
    demo = DemoSettings(
        songs=settings.songs,
        seconds=settings.song_seconds,
        seed=settings.seed,
        sounds=settings.sounds,
        drummers=Path(settings.drummers).expanduser() if settings.drummers else None,
    )
    compose_store(
        Path(config.data.root[0]).expanduser(),
        demo,
        settings.sizes.features,
        invented=settings.invented,
        on_song=lambda done: on_progress(done, settings.songs) if on_progress is not None else None,
    )


class PlayerValidator:
    """Validate a player, again and again on the same items: with the beats shown, and without.

    Args:
        config: of the run.
        task: what is trained; its module is on its device.
        device: where it is.
        autocast: makes the context of a forward pass, as in the training.
    """

    def __init__(
        self,
        config: TrainingConfig,
        task: PlayerTask,
        device: torch.device,
        autocast: Callable[[], AbstractContextManager[object]] = nullcontext,
    ) -> None:
        self._config, self._task, self._device, self._autocast = config, task, device, autocast
        self._batches: dict[str, list[PlayerInputs]] = {}

    @torch.no_grad()
    def __call__(self, step: int, check: Callable[[], None] = lambda: None) -> ValidationResult:
        """Return "validation/loss" (of the notes, beats shown or not), "validation/context_gap", and both of each kind.

        The gap is how much the notes' loss grows with the context, and the beats, of another item.

        Args:
            step: of the weights.
            check: called before each batch; what it raises ends the validation.
        """
        del step
        if not self._batches:
            self._prepare()
        module = self._task.module
        training = module.training
        module.eval()
        metrics: dict[str, float] = {}
        for kind, batches in self._batches.items():
            sums = {"loss": 0.0, "beats": 0.0, "context_gap": 0.0}
            for batch in batches:
                check()
                with self._autocast():
                    own, other = module(batch), module(_shuffled(batch))
                sums["loss"] += float(own["notes"])
                sums["beats"] += float(own["beats"])
                sums["context_gap"] += float(other["notes"]) - float(own["notes"])
            metrics |= {f"validation/{name}/{kind}": value / len(batches) for name, value in sums.items()}
        module.train(training)
        for name in ("loss", "context_gap"):
            metrics[f"validation/{name}"] = sum(metrics[f"validation/{name}/{kind}"] for kind in _GRIDS) / len(_GRIDS)
        return ValidationResult(metrics)

    def _prepare(self) -> None:
        plain = replace(
            self._task.settings.items,
            downbeats=1.0,
            other_level=0.0,
            metronome=0.0,
            no_context=0.0,
            with_drums=0.0,
            known=0.0,
            hidden=0.0,
            tag=0.0,
            drummer=0.0,
        )
        paths, validate = self._task.validation_paths, self._config.validate
        items = min(validate.most_items, validate.items_per_song * len(paths))
        size = max(2, self._config.train.micro_batch_size)
        for kind, shown in _GRIDS.items():
            drawn = [
                draw_item(
                    _song(paths[index % len(paths)]),
                    (),
                    replace(plain, grid=shown),
                    self._task.player,
                    np.random.default_rng((validate.seed, index, _STREAM)),
                )
                for index in range(max(2, items))
            ]
            # A last batch of one has no other item.
            cuts = list(range(0, len(drawn) - 1, size))
            ends = [*cuts[1:], len(drawn)]
            parts = [drawn[first:last] for first, last in zip(cuts, ends, strict=True)]
            self._batches[kind] = [PlayerBatch((), inputs_of(part)).to(self._device).inputs for part in parts]


def _shuffled(batch: PlayerInputs) -> PlayerInputs:
    return PlayerInputs(**{**vars(batch), "heard": batch.heard.roll(1, 0), "grid": batch.grid.roll(1, 0)})


def write_player_card(
    config: TrainingConfig, task: PlayerTask, directory: Path, step: int, metrics: Mapping[str, float]
) -> None:
    """Write the card into the player's directory.

    Args:
        config: of the run.
        task: what was trained.
        directory: of the player.
        step: that the weights are of.
        metrics: of that step's validation; may be empty.

    Raises:
        StageError: it cannot be written.
    """
    settings = task.settings
    rows = "".join(
        f"| {name.removeprefix('validation/')} | {value:.4f} |\n"
        for name, value in metrics.items()
        if math.isfinite(value)
    )
    found = f"On songs that it did not learn from:\n\n| | |\n| --- | ---: |\n{rows}\n" if rows else ""
    size = sum(parameter.numel() for parameter in task.module.parameters())
    public = replace(
        public_config(config),
        player=replace(settings, drummers=Path(settings.drummers).name if settings.drummers else ""),
    )
    drummers = f" Drummers: {settings.credit}." if settings.credit else ""
    write_text(
        directory / "README.md",
        f"# A player of {config.data.stem} for stage-cli\n\n"
        f"It listens to a mix and writes notes; {size / 1e6:.1f} M parameters. "
        f"Licence: {settings.licence}.{drummers}\n\n"
        f"Trained from scratch for {step:,} steps on {len(task.dataset.paths)} composed songs. {found}"
        f"The whole recipe (paths are shortened to their ends):\n\n```toml\n{to_toml(public)}```\n",
    )
