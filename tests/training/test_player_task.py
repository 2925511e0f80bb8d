"""A player in training: it learns, it is resumed bit for bit, and what comes out writes notes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from stage_cli.core.music.beats import BeatGrid
from stage_cli.core.players.features import FLOOR_DB
from stage_cli.core.players.generate import Player
from stage_cli.core.players.store import StoredPart, StoredSong, write_song
from stage_cli.core.training.events import Logged
from stage_cli.core.training.player_task import PlayerTask, save_player
from stage_cli.core.training.run import train
from stage_cli.core.training.settings import TrainingConfig
from stage_cli.core.training.toml import load_config, read_tables, to_dict
from stage_cli.errors import UsageError

SIZES = {
    "window": 64,
    "history": 32,
    "ears": 16,
    "ear_layers": 1,
    "ear_heads": 2,
    "convolutions": 2,
    "pen": 16,
    "pen_layers": 1,
    "pen_heads": 2,
    "stroke": 16,
}


@pytest.fixture
def songs(tmp_path: Path) -> Path:
    """Eight songs of 12 s, kick and bass on every beat."""
    folder = tmp_path / "songs"
    folder.mkdir()
    for number in range(8):
        beats = np.arange(0.1 + 0.05 * number, 12, 0.4 + 0.02 * number)
        level = np.full((600, 72), FLOOR_DB, np.float16)
        for beat in beats:
            level[round(beat * 50) : round(beat * 50) + 2, :8] = -20
        rows = np.stack([beats, np.full(len(beats), 0.1), np.full(len(beats), 36), np.full(len(beats), 100)], axis=1)
        parts = (
            StoredPart("drums", "drums", "drums", level, rows.astype(np.float32)),
            StoredPart("bass", "bass", "finger bass", level, np.zeros((0, 4), np.float32)),
        )
        song = StoredSong("", parts, beats, beats[::4], 4, 0.5, "rock", 12.0)
        write_song(folder / f"1-{number:05d}.npz", song)
    return folder


def _config(songs: Path, run: Path, steps: int = 6, **tables: dict) -> TrainingConfig:
    content = {
        "run": {"directory": str(run), "device": "cpu"},
        "player": {"songs": 0, "sizes": SIZES},
        "data": {"root": str(songs), "stem": "drums", "split": "fraction", "validation_fraction": 0.3, "workers": 0},
        "train": {
            "steps": steps,
            "batch_size": 4,
            "micro_batch_size": 2,
            "learning_rate": 1e-2,
            "schedule": "late",
            "checkpoint_every": 3,
        },
        "validate": {"every": 3, "items_per_song": 2, "most_items": 8},
        "log": {"every": 1, "tensorboard": False, "curves": False},
    }
    for table, values in tables.items():
        content[table] = {**content.get(table, {}), **values}
    return read_tables(content, "test")


def _weights(folder: Path) -> dict[str, np.ndarray]:
    return load_file(folder / "model" / "model.safetensors")


def test_a_run_leaves_a_player_that_writes(songs: Path, tmp_path: Path) -> None:
    result = train(_config(songs, tmp_path / "run"))
    assert result.step == 6
    assert {"validation/loss", "validation/context_gap", "validation/context_gap/grid"} <= result.metrics.keys()
    player = Player.from_pretrained(result.model)
    assert player.config.window == 64
    audio = np.random.default_rng(0).normal(size=8000 * 4).astype(np.float32)
    assert player.write(audio, 8000).bpm >= 0
    card = (result.model / "README.md").read_text()
    assert "A player of drums" in card
    assert str(tmp_path) not in card


def test_a_resumed_run_is_the_run(songs: Path, tmp_path: Path) -> None:
    losses: dict[str, list[float]] = {"once": [], "parts": []}

    def note(name: str) -> Callable[[object], None]:
        return lambda event: losses[name].append(event.metrics["loss"]) if isinstance(event, Logged) else None

    constant = {"schedule": "constant"}
    train(_config(songs, tmp_path / "once", train=constant), on_event=note("once"))
    train(_config(songs, tmp_path / "parts", steps=3, train=constant), on_event=note("parts"))
    train(_config(songs, tmp_path / "parts", train=constant), resume=True, on_event=note("parts"))
    assert len(losses["parts"]) == 6
    assert losses["once"] == losses["parts"]
    once, parts = _weights(tmp_path / "once"), _weights(tmp_path / "parts")
    assert all(np.array_equal(once[name], parts[name]) for name in once)


def test_it_learns_where_the_kick_is(songs: Path, tmp_path: Path) -> None:
    config = _config(songs, tmp_path / "run", player={"songs": 0, "sizes": SIZES, "items": {"tag": 0.0, "hidden": 0.0}})
    task = PlayerTask(config)
    batch = task.collate([task.dataset[index] for index in range(8)])
    optimizer = torch.optim.AdamW(task.module.parameters(), 1e-2)
    losses = []
    for _ in range(40):
        parts = task.module(task.inputs(batch, 0))
        parts["loss"].backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(parts["loss"].detach()))
    assert losses[-1] < 0.5 * losses[0]


def test_items_depend_on_seed_epoch_and_index(songs: Path, tmp_path: Path) -> None:
    dataset = PlayerTask(_config(songs, tmp_path / "run")).dataset
    first = dataset[3].fields["heard"]
    assert np.array_equal(first, dataset[3].fields["heard"])
    dataset.set_epoch(1)
    assert not np.array_equal(first, dataset[3].fields["heard"])


def test_every_parameter_is_in_one_group(songs: Path, tmp_path: Path) -> None:
    task = PlayerTask(_config(songs, tmp_path / "run"))
    names = [name for group in task.parameter_groups(task.module) for name in group.names]
    assert sorted(names) == sorted(name for name, _ in task.module.named_parameters())


def test_too_few_songs_are_told(tmp_path: Path) -> None:
    (tmp_path / "none").mkdir()
    with pytest.raises(UsageError, match="too few songs"):
        PlayerTask(_config(tmp_path / "none", tmp_path / "run"))


@pytest.mark.parametrize(
    ("tables", "told"),
    [
        ({"player": {"songs": -1}}, "player.songs"),
        ({"player": {"sizes": {"ears": 15}}}, "player.sizes"),
        ({"player": {"items": {"grid": 2.0}}}, "player.items.grid"),
        ({"player": {"item": 1}}, "unknown key player.item"),
        ({"data": {"stem": "bass"}}, "data.stem"),
        ({"model": {"base": "x"}}, r"\[player\]"),
    ],
)
def test_wrong_tables_are_told(songs: Path, tmp_path: Path, tables: dict, told: str) -> None:
    with pytest.raises(UsageError, match=told):
        _config(songs, tmp_path / "run", **tables)


def test_the_recipe_says_what_it_does() -> None:
    config = load_config("player-drums")
    assert config.player is not None
    content = to_dict(config)
    assert read_tables(_nested(content), "player-drums") == config


def _nested(content: dict[str, dict]) -> dict[str, dict]:
    nested = {name: dict(values) for name, values in content.items() if "." not in name}
    for name, values in content.items():
        if "." in name:
            table, _, key = name.partition(".")
            nested[table][key] = values
    return nested


def test_packed_weights_are_near_the_others(songs: Path, tmp_path: Path) -> None:
    player = {"songs": 0, "sizes": {**SIZES, "ears": 64, "stroke": 64}}
    task = PlayerTask(_config(songs, tmp_path / "run", player=player))
    for name in ("plain", "packed"):
        (tmp_path / name).mkdir()
        save_player(tmp_path / name, task.player, task.module.state_dict(), packed=name == "packed")
    sizes = [(tmp_path / name / "model.safetensors").stat().st_size for name in ("plain", "packed")]
    assert sizes[1] < 0.65 * sizes[0]
    audio = np.random.default_rng(0).normal(size=8000 * 4).astype(np.float32)
    found = []
    for name in ("plain", "packed"):
        one = Player.from_pretrained(tmp_path / name)
        found.append(next(one.heard_in_windows(one.listen([audio], 8000), BeatGrid((), ())))[1])
    assert np.abs(found[0] - found[1]).mean() < 0.05 * np.abs(found[0]).mean()
