"""From nested tables, as TOML gives them, to a `TrainingConfig`; unknown keys are told with the nearest known one."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any, TypeVar

from stage_cli.core.codec.config import CodecConfig
from stage_cli.core.codec.spectral_config import SpectralConfig
from stage_cli.core.data.config import DataConfig
from stage_cli.core.lm.config import CONTEXT_ATTENTIONS, MOST_CONVOLUTIONS, POSITIONS, LanguageModelConfig
from stage_cli.core.training.config.checks import check, check_choice, check_switch, check_whole, contradiction, shown
from stage_cli.core.training.config.codec import CodecTrainConfig, read_shape
from stage_cli.core.training.config.model import ModelConfig
from stage_cli.core.training.config.sections import DataLoading, LogConfig, LoraConfig, RunConfig, ValidateConfig
from stage_cli.core.training.config.train import TrainConfig
from stage_cli.core.training.config.training import TrainingConfig
from stage_cli.errors import UsageError

_Section = TypeVar("_Section")


def _keys(*kinds: Any) -> tuple[str, ...]:
    return tuple(field.name for kind in kinds for field in fields(kind))


TABLES: dict[str, tuple[str, ...]] = {
    "run": _keys(RunConfig),
    "model": tuple(key for key in _keys(ModelConfig) if key not in ("lm", "absent")),
    "model.lm": _keys(LanguageModelConfig),
    "data": _keys(DataConfig, DataLoading),
    "train": _keys(TrainConfig),
    "lora": _keys(LoraConfig),
    "codec": tuple(key for key in _keys(CodecTrainConfig) if key != "shape"),
    "codec.shape": ("kind", *dict.fromkeys(_keys(SpectralConfig, CodecConfig))),
    "validate": _keys(ValidateConfig),
    "log": _keys(LogConfig),
}
"""The keys of each table of the file, in the order in which they are written."""


def read_tables(content: Mapping[str, Any], name: str) -> TrainingConfig:
    """Make a run's config.

    Args:
        content: a parsed TOML file.
        name: of the run.

    Raises:
        UsageError: an unknown table or key, a value that is not allowed, or keys that contradict each other.
    """
    tables = {key: _table(content, key) for key in TABLES if "." not in key}
    for key, value in content.items():
        if key not in tables:
            raise _unknown(key, value)
    lm, shape = tables["model"].pop("lm", None), tables["codec"].pop("shape", None)
    for table, values in tables.items():
        _check_keys(table, values)
    data = tables["data"]
    if "root" not in data:
        raise UsageError(
            "data.root is missing", next_step="name a folder of prepared songs, for example --set data.root=songs"
        )
    loading = {field.name: data.pop(field.name) for field in fields(DataLoading) if field.name in data}
    return TrainingConfig(
        name=name,
        run=_section(RunConfig, tables["run"]),
        model=ModelConfig(absent=True)
        if "codec" in content and "model" not in content
        else _model(tables["model"], lm),
        data=DataConfig.from_dict(data),
        loading=_section(DataLoading, loading),
        train=_section(TrainConfig, tables["train"]),
        lora=_section(LoraConfig, tables["lora"]) if "lora" in content else None,
        codec=_codec(tables["codec"], shape) if "codec" in content else None,
        validate=_section(ValidateConfig, tables["validate"]),
        log=_section(LogConfig, tables["log"]),
    )


def _table(content: Mapping[str, Any], key: str) -> dict[str, Any]:
    value = content.get(key, {})
    check(key, value, isinstance(value, dict), f"a table of keys, [{key}]")
    return dict(value)


def _check_keys(table: str, values: Mapping[str, Any]) -> None:
    known = TABLES[table]
    for key, value in values.items():
        if key not in known:
            raise _unknown(f"{table}.{key}", value)


def _unknown(path: str, value: object) -> UsageError:
    """Make the error for a key or a table that does not exist."""
    table, _, key = path.rpartition(".")
    if isinstance(value, dict):
        near = difflib.get_close_matches(path, TABLES, n=1)
        allowed = ", ".join(f"[{name}]" for name in TABLES)
        return UsageError(
            f"unknown table [{path}]", why=f"did you mean [{near[0]}]?" if near else "", next_step=f"allowed: {allowed}"
        )
    known = TABLES.get(table, ())
    near = [f"{table}.{name}" for name in difflib.get_close_matches(key, known, n=1)]
    # A key that stands in the wrong table, or in none.
    near = near or [f"{other}.{key}" for other, names in TABLES.items() if key in names]
    everywhere = [f"{other}.{name}" for other, names in TABLES.items() for name in names]
    near = near or difflib.get_close_matches(path, everywhere, n=1)
    allowed = ", ".join(known) if known else f"the tables {', '.join(f'[{name}]' for name in TABLES)}"
    return UsageError(
        f"unknown key {path} = {shown(value)}",
        why=f"did you mean {' or '.join(near[:2])}?" if near else "",
        next_step=f"allowed: {allowed}",
    )


def _section(kind: Callable[..., _Section], values: Mapping[str, Any]) -> _Section:
    return kind(**{key: tuple(value) if isinstance(value, list) else value for key, value in values.items()})


def _model(content: dict[str, Any], lm: object) -> ModelConfig:
    # TOML has no null: 0 stands for None.
    if shown(content.get("window_seconds")) in ("0", "0.0"):
        content["window_seconds"] = None
    if lm is not None:
        content["lm"] = _language_model(lm)
    return ModelConfig(**content)


def _codec(content: dict[str, Any], shape: object) -> CodecTrainConfig:
    sizes = _table({"codec.shape": {} if shape is None else shape}, "codec.shape")
    return _section(CodecTrainConfig, {**content, "shape": read_shape(sizes)})


def _language_model(values: object) -> LanguageModelConfig:
    content = _table({"model.lm": values}, "model.lm")
    _check_keys("model.lm", content)
    for key in ("codebooks", "codebook_size", "dimension", "layers", "heads", "feed_forward"):
        if key in content:
            check_whole(f"model.lm.{key}", content[key], 1, 1_000_000)
    check_whole("model.lm.text_dimension", content.setdefault("text_dimension", 0), 0, 1_000_000)
    content["text_dimension"] = content["text_dimension"] or None
    check_switch("model.lm.separator", content.get("separator", True))
    check_switch("model.lm.aligned_context", content.get("aligned_context", False))
    check_whole("model.lm.context_convolutions", content.get("context_convolutions", 0), 0, MOST_CONVOLUTIONS)
    check_choice("model.lm.positions", content.get("positions", "absolute"), POSITIONS)
    check_choice("model.lm.context_attention", content.get("context_attention", "causal"), CONTEXT_ATTENTIONS)
    convolutions = content.get("context_convolutions", 0)
    attention = content.get("context_attention", LanguageModelConfig.context_attention)
    if convolutions and attention != "full":
        raise contradiction(
            f"model.lm.context_convolutions = {convolutions}",
            f'model.lm.context_attention = "{attention}"',
            why="convolutions look ahead in the context, so it has to be read before the first step",
            next_step='use model.lm.context_attention = "full", or no convolutions',
        )
    dimension = content.get("dimension", LanguageModelConfig.dimension)
    heads = content.get("heads", LanguageModelConfig.heads)
    if dimension % heads or dimension % 2:
        raise contradiction(
            f"model.lm.dimension = {dimension}",
            f"model.lm.heads = {heads}",
            why="the heads share the dimension evenly, and it is an even number",
            next_step=f"use model.lm.dimension = {2 * heads * max(1, round(dimension / (2 * heads)))}, or other heads",
        )
    content.setdefault("feed_forward", 4 * dimension)
    return LanguageModelConfig(**content)
