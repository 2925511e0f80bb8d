"""Which parameters are optimized how."""

from __future__ import annotations

import re

from torch import nn

from stage_cli.core.training.engine.task import ParameterGroup

# What maps hidden states to hidden states. AdamW's steps suit embeddings; for what is heard of the context, whose input
# is eight times as wide as a layer's, they are so large that all else learns more slowly (docs/bundled-models.md).
_HIDDEN = re.compile(r"(?:^|\.)(layers\.\d+|aligned|context_convolutions\.blocks\.\d+)\.")


def is_hidden_matrix(name: str, dimensions: int) -> bool:
    """Whether a parameter is a matrix that maps hidden states to hidden states, which Muon takes."""
    return dimensions == 2 and _HIDDEN.search(name) is not None


def parameter_groups(module: nn.Module) -> list[ParameterGroup]:
    """Divide the trainable parameters: matrices of hidden states (for Muon), other matrices and tables, vectors.

    Norms and biases do not decay. (In STAGE's own training they do; at its rates, 1e-8 a step, that is nothing.)
    """
    trainable = [(name, parameter.ndim) for name, parameter in module.named_parameters() if parameter.requires_grad]
    matrices = tuple(name for name, ndim in trainable if is_hidden_matrix(name, ndim))
    vectors = tuple(name for name, ndim in trainable if ndim < 2)
    others = tuple(name for name, _ in trainable if name not in {*matrices, *vectors})
    groups = [
        ParameterGroup(matrices, "matrix"),
        ParameterGroup(others, "other"),
        ParameterGroup(vectors, "other", decay=False),
    ]
    return [group for group in groups if group.names]
