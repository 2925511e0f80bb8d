"""From nested tables, as TOML gives them, to a `TrainingConfig`; unknown keys are told with the nearest known one.

Read a run's TOML file, or a shipped recipe, with the changes of `set`.

Write a run's whole configuration as TOML that `load_config` reads back.
"""

from __future__ import annotations

import copy
import difflib
import json
import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, TypeVar

from stage_cli.core.codec.config import ENCODEC, CodecConfig, SpectralConfig
from stage_cli.core.data.config import DataConfig
from stage_cli.core.lm.config import CONTEXT_ATTENTIONS, MOST_CONVOLUTIONS, POSITIONS, LanguageModelConfig
from stage_cli.core.players.config import SIZES, ItemSettings, PlayerConfig
from stage_cli.core.training.settings import (
    CodecTrainConfig,
    DataLoading,
    LogConfig,
    LoraConfig,
    ModelConfig,
    PlayerTrainConfig,
    RunConfig,
    TrainConfig,
    TrainingConfig,
    ValidateConfig,
    check,
    check_choice,
    check_switch,
    check_whole,
    contradiction,
    printable,
    read_shape,
    shown,
)
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
    "player": tuple(key for key in _keys(PlayerTrainConfig) if key not in ("items", "sizes")),
    "player.items": _keys(ItemSettings),
    "player.sizes": SIZES,
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
    items, sizes = tables["player"].pop("items", {}), tables["player"].pop("sizes", {})
    for table, values in tables.items():
        _check_keys(table, values)
    data = tables["data"]
    if "root" not in data:
        raise UsageError(
            "data.root is missing", next_step="name a folder of prepared songs, for example `set` data.root=songs"
        )
    loading = {field.name: data.pop(field.name) for field in fields(DataLoading) if field.name in data}
    return TrainingConfig(
        name=name,
        run=_section(RunConfig, tables["run"]),
        model=ModelConfig(absent=True)
        if ("codec" in content or "player" in content) and "model" not in content
        else _model(tables["model"], lm),
        data=DataConfig.from_dict(data),
        loading=_section(DataLoading, loading),
        train=_section(TrainConfig, tables["train"]),
        lora=_section(LoraConfig, tables["lora"]) if "lora" in content else None,
        codec=_codec(tables["codec"], shape) if "codec" in content else None,
        player=_player(tables["player"], items, sizes) if "player" in content else None,
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


def _player(content: dict[str, Any], items: object, sizes: object) -> PlayerTrainConfig:
    drawn, chosen = _table({"player.items": items}, "player.items"), _table({"player.sizes": sizes}, "player.sizes")
    _check_keys("player.items", drawn)
    _check_keys("player.sizes", chosen)
    for key, value in chosen.items():
        check_whole(f"player.sizes.{key}", value, 0, 8192)
    try:
        shape = PlayerConfig(**chosen)
    except ValueError as error:
        raise UsageError(f"[player.sizes]: {error}") from None
    return PlayerTrainConfig(**content, items=ItemSettings(**drawn), sizes=shape)


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


_RECIPES = Path(__file__).parent / "recipes"


def recipes() -> tuple[str, ...]:
    """Return the names of the shipped recipes."""
    return tuple(sorted(path.stem for path in _RECIPES.glob("*.toml")))


def load_config(name_or_path: str, overrides: Sequence[str] = ()) -> TrainingConfig:
    """Read a run's configuration.

    Relative paths in it mean what they would mean on the command line: they count from the current directory.

    Args:
        name_or_path: a TOML file, else the name of a shipped recipe: `drums` or `drums.toml`.
        overrides: changes like `train.steps=100`; the value is TOML, and a bare word is a text.

    Raises:
        UsageError: no such file; not TOML; an unknown key, a value that is not allowed, a contradiction.
    """
    path = _find(name_or_path)
    content = _parse(path)
    changed: dict[str, str] = {}
    for text in overrides:
        changed[_override(content, text)] = text
    try:
        return read_tables(content, path.stem)
    except UsageError as error:
        raise _placed(error, path, changed) from None


def _find(name: str) -> Path:
    try:
        path = Path(name).expanduser()
    except RuntimeError:  # ~somebody who has no home here
        path = Path(name)
    if path.is_file():
        return path
    stem = name.removesuffix(".toml")
    if stem in recipes():
        return _RECIPES / f"{stem}.toml"
    near = difflib.get_close_matches(stem, recipes(), n=1)
    is_folder = "it is a folder" if path.is_dir() else ""
    raise UsageError(
        f"`config`: there is no file {printable(path)}",
        why=f"did you mean the recipe {near[0]}?" if near else is_folder,
        next_step=f"give a TOML file, or one of the shipped recipes: {', '.join(recipes())}",
    )


def _parse(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"cannot read {printable(path)}", why=error.strerror or str(error)) from None
    except UnicodeDecodeError as error:
        raise UsageError(f"{printable(path)} is not UTF-8 text", why=str(error)) from None
    except tomllib.TOMLDecodeError as error:
        message = str(error)
        place = re.search(r"\(at line (\d+), column \d+\)", message)
        line = f"line {place[1]}" if place else "the last line"
        what = re.sub(r" \(at .*\)$", "", message)
        raise UsageError(
            f"{printable(path)}, {line}: not valid TOML",
            why=what[:1].lower() + what[1:],
            next_step='texts stand in quotes, lists in brackets: stem = "drums", betas = [0.9, 0.95]',
        ) from None


def _override(content: dict[str, Any], text: str) -> str:
    """Change one value of the parsed file; returns its key."""
    key, equals, value = text.partition("=")
    path = [part.strip() for part in key.split(".")]
    if not equals or len(path) < 2 or not all(path):
        raise UsageError(
            f"`set` {printable(text)} is not of the form table.key=value",
            next_step="for example: `set` train.steps=100",
        )
    place = content
    for part in path[:-1]:
        place = place.setdefault(part, {})
        if not isinstance(place, dict):  # the file is wrong, and is told so when its tables are read
            return ".".join(path)
    place[path[-1]] = _value(value.strip())
    return ".".join(path)


def _value(text: str) -> Any:
    """Parse a value as TOML; what is none is a text."""
    try:
        parsed = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    value = parsed["value"]
    # One value and nothing more; dates are texts, for no key takes a date.
    plain = len(parsed) == 1 and isinstance(value, bool | int | float | str | list | dict)
    return copy.copy(value) if plain else text


def _placed(error: UsageError, path: Path, changed: dict[str, str]) -> UsageError:
    """Say where the key of an error stands: in an option, or in the file."""
    for key, text in changed.items():
        table = key.rpartition(".")[0]
        if re.search(rf"(?<![\w.])({re.escape(key)}|unknown table \[{re.escape(table)}\])(?!\w)", error.what):
            return UsageError(f"`set` {printable(text)}: {error.what}", why=error.why, next_step=error.next_step)
    return UsageError(f"{printable(path)}: {error.what}", why=error.why, next_step=error.next_step)


def to_dict(config: TrainingConfig) -> dict[str, dict[str, Any]]:
    """Return all values by table (`model.lm` is one) and key, as TOML and JSON types; None is 0.

    Tables that the run does not have (`lora`, `model.lm`, `codec`, …) are left out. `run.directory` is the one in use.
    """
    parts: dict[str, tuple[Any, ...]] = {
        "run": (config.run,),
        "model": (None if config.model.absent else config.model,),
        "model.lm": (config.model.lm,),
        "data": (config.data, config.loading),
        "train": (config.train,),
        "lora": (config.lora,),
        "codec": (config.codec,),
        "codec.shape": (None,),  # its keys depend on its kind
        "player": (config.player,),
        "player.items": (None if config.player is None else config.player.items,),
        "player.sizes": (None if config.player is None else config.player.sizes,),
        "validate": (config.validate,),
        "log": (config.log,),
    }
    content = {}
    for table, keys in TABLES.items():
        if None not in parts[table]:
            values = {key: value for part in parts[table] for key, value in asdict(part).items()}
            content[table] = {key: _plain(values[key]) for key in keys}
    if config.codec is not None:
        content["codec.shape"] = {"kind": ENCODEC, **config.codec.shape.to_dict()}
    content["run"]["directory"] = str(config.directory)
    return content


def to_toml(config: TrainingConfig) -> str:
    """Return the whole configuration as a TOML file's text: every key, the defaults too."""
    blocks = []
    for table, values in to_dict(config).items():
        lines = [f"[{table}]", *(f"{key} = {_written(value)}" for key, value in values.items())]
        blocks.append("\n".join(lines) + "\n")
    return "\n".join(blocks)


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return list(value)
    return 0 if value is None else value


def _written(value: Any) -> str:
    """Write one value as TOML."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        # JSON's texts are TOML's, but for this one character.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, list):
        return f"[{', '.join(map(_written, value))}]"
    return repr(value)
