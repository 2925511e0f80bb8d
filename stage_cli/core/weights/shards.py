"""The list of files behind a `model.safetensors.index.json`. Imports no torch, so that fetching a model is quick."""

from __future__ import annotations

import json
from pathlib import Path

from stage_cli.errors import WeightsError


def shard_names(index: Path) -> list[str]:
    """Read the names of the shards, which lie in the index's own folder.

    Raises:
        WeightsError: it is missing, is no list of shards, or names another kind of file or one outside its folder.
    """
    try:
        names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except OSError as error:
        raise WeightsError(f"Cannot read the list of shards {index}", why=error.strerror or str(error)) from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise WeightsError(f"{index} is not a list of shards", why=f"{type(error).__name__}: {error}") from None
    for name in names:
        if not isinstance(name, str) or Path(name).name != name or not name.endswith(".safetensors"):
            raise WeightsError(f"{index} names a shard that is not a safetensors file of its own folder", why=str(name))
    return sorted(names)
