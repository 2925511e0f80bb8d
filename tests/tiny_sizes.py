"""The sizes of the tests' tiny models."""

from __future__ import annotations

from stage_cli.core.codec.config import CodecConfig
from stage_cli.core.lm.config import LanguageModelConfig
from stage_cli.core.players.config import PlayerConfig
from stage_cli.core.players.features import FeatureSettings

TINY_CODEC = CodecConfig(
    sample_rate=8000, filters=4, dimension=16, ratios=(8, 5, 4), lstm_layers=1, codebooks=4, codebook_size=32
)
TINY_LM = LanguageModelConfig(
    codebooks=4, codebook_size=32, dimension=64, layers=2, heads=2, feed_forward=128, text_dimension=None
)
TINY_PLAYER = PlayerConfig(
    window=96,
    history=40,
    ears=16,
    ear_layers=2,
    ear_heads=2,
    convolutions=3,
    pen=16,
    pen_layers=2,
    pen_heads=2,
    stroke=16,
    features=FeatureSettings(bands=12),
)
