"""Accompaniment generation: write a fitting stem for music that already exists.

from stage_cli import StagePlayer
player = StagePlayer.from_pretrained("player-drums")
stem = player.accompany("mix.wav", seed=1)
stem.save("drums.wav")
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stage_cli.core.accompany import Stem
    from stage_cli.core.model import StageModel
    from stage_cli.core.players.accompanist import StagePlayer
    from stage_cli.errors import StageError

__version__ = "0.1.0"
__all__ = ["StageError", "StageModel", "StagePlayer", "Stem", "__version__"]

_HOMES = {
    "StageModel": "stage_cli.core.model",
    "StagePlayer": "stage_cli.core.players.accompanist",
    "Stem": "stage_cli.core.accompany",
    "StageError": "stage_cli.errors",
}


def __getattr__(name: str) -> Any:
    # Lazy: `stage --help` must not wait for torch.
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
