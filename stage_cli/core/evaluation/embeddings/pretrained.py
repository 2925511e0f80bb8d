"""Networks of the transformers library from a directory: tensors are read by us, and nothing in it is executed."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stage_cli.core.weights.checkpoint import weights_file
from stage_cli.core.weights.hub import resolve
from stage_cli.core.weights.tensors import open_checkpoint
from stage_cli.errors import WeightsError

PICKLE = "pytorch_model.bin"
"""Where older repositories keep their weights; read with `weights_only=True`."""


def network_directory(name: str, *, offline: bool = False) -> Path:
    """Find a network's directory by path or Hub id, fetching it if needed.

    Raises:
        UsageError: no such name.
        HubError: it cannot be fetched.
    """
    return resolve(name, offline=offline, network=True)


def read_tensors(directory: Path) -> dict[str, Tensor]:
    """Read all tensors of a directory's weights.

    Raises:
        WeightsError: there are none, or they cannot be read.
    """
    path = weights_file(directory)
    if not path.exists():
        path = directory / PICKLE
    if not path.exists():
        raise WeightsError(f"{directory} holds no weights", why=f"neither model.safetensors nor {PICKLE} is in it")
    file = open_checkpoint(path)
    return {name: file.read(name).clone() for name in file.shapes}


def build(network: Any, config: Any, tensors: Mapping[str, Tensor], directory: Path) -> Any:
    """Make a network of the transformers library, in fp32 and evaluation mode.

    Args:
        network: the class.
        config: of the network.
        tensors: its weights; unknown ones are let be.
        directory: where they are from, for the message.

    Raises:
        WeightsError: a weight is missing or misshapen.
    """
    with _quiet():
        try:
            made, found = network.from_pretrained(
                None, config=config, state_dict=dict(tensors), dtype=torch.float32, output_loading_info=True
            )
        except (RuntimeError, ValueError, KeyError) as error:
            raise WeightsError(f"{directory} does not fit", why=str(error).strip().splitlines()[0]) from None
    wrong = sorted({*found["missing_keys"], *(key[0] for key in found["mismatched_keys"])})
    if wrong:
        raise WeightsError(
            f"{directory} does not fit a {network.__name__}",
            why=f"{len(wrong)} weights are missing or misshapen, such as {', '.join(wrong[:3])}",
            next_step="fetch it again, or name another one",
        )
    return made.eval()


@contextmanager
def _quiet() -> Generator[None]:
    """Keep the library from showing a progress bar and a report of its own."""
    from transformers.utils import logging

    bar, verbosity = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bar:
            logging.enable_progress_bar()
