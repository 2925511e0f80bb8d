"""Writing the directory of a model or an adapter: `config.json` and the tensors, each to a temporary name first."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from stage_cli.core.codec.kinds import AnyCodecConfig
from stage_cli.core.model_config import StageConfig
from stage_cli.core.weights.adapter_config import ADAPTER_FILE, AdapterConfig
from stage_cli.core.weights.checkpoint import CONFIG_FILE, MODEL_FILE
from stage_cli.core.weights.codec_config import codec_config_values
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
    save_tensors(directory, config.to_dict(), tensors)


def save_adapter_directory(directory: Path, config: AdapterConfig, tensors: Iterable[tuple[str, Tensor]]) -> None:
    """Write an adapter, as `save_directory` does a model.

    Raises:
        WeightsError: it cannot be written.
    """
    save_tensors(directory, config.to_dict(), tensors, file=ADAPTER_FILE)


def save_codec_directory(
    directory: Path, config: AnyCodecConfig, licence: str, tensors: Iterable[tuple[str, Tensor]]
) -> None:
    """Write a codec alone, its tensors named `codec.…`, as `save_directory` does a model.

    Raises:
        WeightsError: it cannot be written.
    """
    save_tensors(directory, codec_config_values(config, licence), tensors)


def save_tensors(
    directory: Path, values: Mapping[str, Any], tensors: Iterable[tuple[str, Tensor]], *, file: str = MODEL_FILE
) -> None:
    """Write a directory of any kind of ours; existing files of that name are replaced when the new ones are whole.

    Args:
        directory: made if it does not exist.
        values: become `config.json`.
        tensors: in the precision in which they are to be stored.
        file: name of the tensors' file.

    Raises:
        WeightsError: it cannot be written.
    """
    state = {name: _on_its_own(tensor.detach().cpu()) for name, tensor in tensors}
    temporary = directory / f".{file}.part"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        temporary.touch()
        mode = temporary.stat().st_mode  # what the user's files have; safetensors keeps its own to the owner
        save_file(state, temporary, metadata={"format": "pt"})
        temporary.chmod(mode)
        temporary.replace(directory / file)
        temporary = directory / f".{CONFIG_FILE}.part"
        temporary.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
        temporary.replace(directory / CONFIG_FILE)
    except (OSError, SafetensorError) as error:
        raise WeightsError(f"Cannot write the model to {directory}", why=str(error)) from None
    finally:
        with suppress(OSError):  # what went wrong was said already
            temporary.unlink(missing_ok=True)


def save_text(path: Path, text: str) -> None:
    """Write a small file beside a model's.

    Raises:
        WeightsError: it cannot be written.
    """
    temporary = path.with_name(f".{path.name}.part")
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        raise WeightsError(f"Cannot write {path}", why=str(error)) from None
    finally:
        with suppress(OSError):  # what went wrong was said already
            temporary.unlink(missing_ok=True)


def _on_its_own(tensor: Tensor) -> Tensor:
    """Copy a tensor that is only a part or a mapping of something larger; others are taken as they are."""
    whole = tensor.is_contiguous() and tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()
    return tensor if whole else tensor.contiguous().clone()
