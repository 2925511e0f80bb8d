"""A JSON Schema of a run's TOML file, from the settings that read it (`generated_pages.py` writes it).

Keys, types, defaults and descriptions come from the dataclasses. Ranges and contradictions are checked by
`stage train --dry-run`: a schema cannot tell them all.
"""

from __future__ import annotations

import dataclasses
import re
import types
import typing
from typing import Any

from stage_cli.core.codec.config import ENCODEC, SpectralConfig
from stage_cli.core.data.config import ANY_STEM, CONTEXTS, SPLITS
from stage_cli.core.lm.config import CONTEXT_ATTENTIONS, POSITIONS
from stage_cli.core.stems import STEMS
from stage_cli.core.training.settings import (
    CLIPS,
    EMBEDDINGS,
    LORA_TARGETS,
    OPTIMIZERS,
    PRECISIONS,
    SCHEDULES,
    SHARDINGS,
    TOKENS,
    TRAINABLES,
    TrainingConfig,
)
from stage_cli.core.training.toml import TABLES

CHOICES: dict[str, tuple[str, ...]] = {
    "run.precision": PRECISIONS,
    "run.sharding": SHARDINGS,
    "model.embeddings": EMBEDDINGS,
    "model.lm.positions": POSITIONS,
    "model.lm.context_attention": CONTEXT_ATTENTIONS,
    "data.context": CONTEXTS,
    "data.split": SPLITS,
    "data.tokens": TOKENS,
    "train.optimizer": OPTIMIZERS,
    "train.schedule": SCHEDULES,
    "train.clip": CLIPS,
    "train.trainable": TRAINABLES,
    "lora.targets": LORA_TARGETS,
    "codec.shape.kind": (SpectralConfig.KIND, ENCODEC),
}
"""Allowed texts, of a key or of each entry of its list."""
SUGGESTIONS: dict[str, tuple[str, ...]] = {"data.stem": (*STEMS, ANY_STEM)}
"""Texts that an editor offers; other spellings are understood, too."""
DEFAULTS: dict[str, Any] = {
    "model.lm.text_dimension": 0,
    "model.lm.feed_forward": None,  # four times the dimension
}
"""Defaults of the file that are not the dataclass's; None is left out."""
TYPES = {bool: "boolean", int: "integer", float: "number", str: "string"}


def schema() -> dict[str, Any]:
    """Return the schema of the whole file."""
    kinds: dict[str, list[type]] = {table: [] for table in TABLES}
    for name, hint in typing.get_type_hints(TrainingConfig).items():
        _collect("data" if name == "loading" else name, hint, kinds)
    tables: dict[str, Any] = {}
    for path, classes in kinds.items():
        *above, name = path.split(".")
        place = tables
        for part in above:
            place = place[part]["properties"]
        place[name] = table(path, classes)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A run of stage train",
        "type": "object",
        "properties": tables,
        "additionalProperties": False,
    }


def _collect(path: str, hint: Any, kinds: dict[str, list[type]]) -> None:
    """Find the dataclasses that a table, and those below it, are read into."""
    for kind in _alternatives(hint):
        if path in kinds and dataclasses.is_dataclass(kind):
            kinds[path].append(kind)
            for name, below in typing.get_type_hints(kind).items():
                _collect(f"{path}.{name}", below, kinds)


def table(path: str, classes: list[type]) -> dict[str, Any]:
    """Return the schema of one table."""
    keys = {}
    for key in TABLES[path]:
        # Where two kinds of codec share a key, the first describes it; its default depends on the kind.
        owners = [kind for kind in classes if key in {field.name for field in dataclasses.fields(kind)}]
        keys[key] = entry(f"{path}.{key}", owners[0] if owners else None, key, has_default=len(owners) == 1)
    return {
        "type": "object",
        "description": _first_paragraph(classes[0]),
        "properties": keys,
        "additionalProperties": False,
    }


def entry(path: str, owner: type | None, key: str, *, has_default: bool) -> dict[str, Any]:
    """Return the schema of one key."""
    content: dict[str, Any] = {"type": "string"}
    if owner is not None:
        content = _typed(typing.get_type_hints(owner)[key])
        field = next(field for field in dataclasses.fields(owner) if field.name == key)
        if description := _attributes(owner).get(key):
            content["description"] = description
        if has_default and field.default is not dataclasses.MISSING:
            content["default"] = 0 if field.default is None else _plain(field.default)
    if path in DEFAULTS:
        content = {**content, "default": DEFAULTS[path]}
        if DEFAULTS[path] is None:
            del content["default"]
    if path in CHOICES:
        content.get("items", content)["enum"] = list(CHOICES[path])
    if path in SUGGESTIONS:
        content["examples"] = list(SUGGESTIONS[path])
    if path == "data.root":
        content = {**content, "type": ["string", "array"]}
    return content


def _typed(hint: Any) -> dict[str, Any]:
    (kind,) = _alternatives(hint)
    if typing.get_origin(kind) is not tuple:
        return {"type": TYPES[kind]}
    entries = [part for part in typing.get_args(kind) if part is not Ellipsis]
    content: dict[str, Any] = {"type": "array", "items": {"type": TYPES[entries[0]]}}
    if Ellipsis not in typing.get_args(kind):
        content |= {"minItems": len(entries), "maxItems": len(entries)}
    return content


def _alternatives(hint: Any) -> list[Any]:
    """Return the members of a union but None; TOML has no null, and writes 0 or leaves the key out."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return [part for part in typing.get_args(hint) if part is not types.NoneType]
    return [hint]


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _first_paragraph(kind: type) -> str:
    return " ".join((kind.__doc__ or "").split("\n\n")[0].split()).replace("`", "")


def _attributes(kind: type) -> dict[str, str]:
    """Read the descriptions of a dataclass's fields from its docstring."""
    found: dict[str, str] = {}
    name, margin = "", None
    inside = False
    for line in (kind.__doc__ or "").splitlines():
        if re.fullmatch(r"\s*(Attributes|Args):", line):
            inside = True
        elif inside and line.strip():
            indent = len(line) - len(line.lstrip())
            margin = indent if margin is None else margin
            if indent < margin:
                break
            if indent == margin and (match := re.match(r"\s*(\w+): (.*)", line)):
                name, found[match[1]] = match[1], match[2]
            else:
                found[name] += " " + line.strip()
    return {key: text.replace("`", "") for key, text in found.items()}
