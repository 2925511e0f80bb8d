"""Writing a model directory: `config.json`, `model.safetensors`, each to a temporary name first."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from stage_cli.core.model_config import StageConfig
from stage_cli.core.weights.checkpoint import CONFIG_FILE, MODEL_FILE
from stage_cli.errors import WeightsError


def save_directory(directory: Path, config: StageConfig, tensors: Iterable[tuple[str, Tensor]]) -> None:
    """Write a model in our own format; existing files of that name are replaced when the new ones are whole.

    Args:
        directory: made if it does not exist.
        config: becomes `config.json`.
        tensors: by our names, in the precision in which they are to be stored.

    Raises:
        WeightsError: it cannot be written.
    """
    state = {name: _on_its_own(tensor.detach().cpu()) for name, tensor in tensors}
    temporary = directory / f".{MODEL_FILE}.part"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        save_file(state, temporary, metadata={"format": "pt"})
        temporary.replace(directory / MODEL_FILE)
        temporary = directory / f".{CONFIG_FILE}.part"
        temporary.write_text(json.dumps(config.to_dict(), indent=2) + "\n", encoding="utf-8")
        temporary.replace(directory / CONFIG_FILE)
    except (OSError, SafetensorError) as error:
        raise WeightsError(f"Cannot write the model to {directory}", why=str(error)) from None
    finally:
        temporary.unlink(missing_ok=True)


def _on_its_own(tensor: Tensor) -> Tensor:
    """Copy a tensor that is only a part or a mapping of something larger; others are taken as they are."""
    whole = tensor.is_contiguous() and tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()
    return tensor if whole else tensor.contiguous().clone()
