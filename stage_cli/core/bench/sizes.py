"""The published sizes of MusicGen, which random weights are made in. Imports no torch."""

from __future__ import annotations

from stage_cli.core.lm.config import LanguageModelConfig


def _musicgen(dimension: int, layers: int, heads: int) -> LanguageModelConfig:
    return LanguageModelConfig(dimension=dimension, layers=layers, heads=heads, feed_forward=4 * dimension)


SIZES: dict[str, LanguageModelConfig] = {
    "musicgen-small": _musicgen(1024, 24, 16),
    "musicgen-medium": _musicgen(1536, 48, 24),
    "musicgen-large": _musicgen(2048, 48, 32),
}
"""By the name of the published model (arXiv 2306.05284, section 4.1), in STAGE's layout."""
