"""The weights that a training from scratch starts with.

Pre-norm layers see inputs of variance one, so each linear's weights have the variance 1 / its inputs; what is added to
the residual stream is scaled down by √(2 · layers), as in GPT-2, so that depth does not blow it up. The K embeddings of
a step sum to the size of the sinusoidal positions (½ of variance). The heads begin with logits of standard deviation
0.5: the first loss is ln(codebook_size) + 0.125, and no codebook is preferred.
"""

from __future__ import annotations

import math
import re
from pathlib import Path

import torch
from torch import Tensor

from stage_cli.core.lm.config import LanguageModelConfig
from stage_cli.core.weights.tensors import Shape, TensorFile

_FIRST_LOGITS = 0.5
_RESIDUAL = re.compile(r"lm\.layers\.\d+\.(attention_out|text_out|feed_forward_out)\.weight")


class InitialWeights(TensorFile):
    """The random weights of a language model and its text projection, as if they lay in a file.

    Args:
        config: the language model's.
        shapes: of the tensors, by our names (`lm.…`, `text_projection.…`).
        seed: fixes them; each tensor is drawn from (seed, its place among the sorted names) alone.
    """

    def __init__(self, config: LanguageModelConfig, shapes: dict[str, Shape], seed: int) -> None:
        self.path = Path("initial weights")
        self.shapes = shapes
        self._config = config
        self._seeds = {name: (seed * 1_000_003 + place) % 2**63 for place, name in enumerate(sorted(shapes))}

    def read(self, name: str) -> Tensor:
        """Draw one tensor, fp32."""
        shape = self.shapes[name]
        if len(shape) == 1:
            return torch.ones(shape) if name.endswith("norm.weight") else torch.zeros(shape)
        if name == "lm.aligned.weight" or name.endswith(".outer.weight"):
            return torch.zeros(shape)  # the model starts as it is without
        generator = torch.Generator().manual_seed(self._seeds[name])
        tensor = torch.randn(shape, generator=generator) * self._deviation(name, shape)
        if name == "lm.embeddings" and self._config.separator:
            tensor[:, self._config.pad] = 0
        return tensor

    def _deviation(self, name: str, shape: Shape) -> float:
        if name == "lm.embeddings":
            return math.sqrt(0.5 / self._config.codebooks)
        if name == "lm.output_heads.weight":
            return _FIRST_LOGITS / math.sqrt(shape[1])
        if name.endswith(".kernel"):
            return 1 / math.sqrt(shape[2])
        scale = math.sqrt(2 * self._config.layers) if _RESIDUAL.fullmatch(name) else 1.0
        return 1 / (math.sqrt(shape[1]) * scale)
