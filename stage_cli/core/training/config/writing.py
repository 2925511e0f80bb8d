"""Write a run's whole configuration as TOML that `load_config` reads back."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from stage_cli.core.codec.kinds import ENCODEC
from stage_cli.core.training.config.tables import TABLES
from stage_cli.core.training.config.training import TrainingConfig


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
