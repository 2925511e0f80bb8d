"""Accompaniment generation: write a fitting stem for music that already exists.

from stage_cli import StageModel
model = StageModel.from_pretrained("stage-drums")
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stage_cli.core.model import StageModel

__version__ = "0.1.0"
__all__ = ["StageModel", "__version__"]


def __getattr__(name: str) -> Any:
    # Lazy: `stage --help` must not wait for torch.
    if name == "StageModel":
        from stage_cli.core.model import StageModel

        return StageModel
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
