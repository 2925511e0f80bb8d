"""Descriptions to vectors: the T5 encoder of the transformers library, imported only when there is a description."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stage_cli.core.model_config import read_config
from stage_cli.errors import WeightsError

# MusicGen checkpoints carry their text encoder under this prefix.
_IN_MUSICGEN = "text_encoder."
_TOKENIZERS = ("tokenizer.json", "spiece.model")
_EMBEDDINGS = ("shared.weight", "encoder.embed_tokens.weight")


class TextEncoder:
    """A frozen T5 encoder with its tokenizer (https://arxiv.org/abs/1910.10683), in fp32.

    Args:
        directory: of a T5, or of a MusicGen that carries one.
        device: where it runs.

    Raises:
        WeightsError: the directory holds no tokenizer or no T5 encoder.
    """

    def __init__(self, directory: Path, device: torch.device) -> None:
        from transformers import AutoTokenizer

        self.device = device
        if not any((directory / file).exists() for file in _TOKENIZERS):
            # The library would make an empty tokenizer, to which every word is unknown.
            raise WeightsError(
                f"{directory} holds no tokenizer",
                why=f"neither of {', '.join(_TOKENIZERS)} is in it",
                next_step="generate without `description`, or fetch the model again",
            )
        try:
            self._tokenizer: Any = AutoTokenizer.from_pretrained(directory, local_files_only=True)
            self._encoder = _load_encoder(directory).to(device).eval()
        except (OSError, ValueError, KeyError) as error:
            raise WeightsError(
                f"{directory} holds no usable T5 text encoder",
                why=str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__,
                next_step="generate without `description`, or fetch the model again",
            ) from None

    @property
    def dimension(self) -> int:
        """Width of the vectors."""
        return int(self._encoder.config.d_model)

    @torch.inference_mode()
    def encode(self, descriptions: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Encode B descriptions.

        Returns:
            Vectors `[B, L, text dimension]` fp32 and mask `[B, L]` bool; an empty description is masked altogether.
        """
        batch = self._tokenizer(list(descriptions), return_tensors="pt", padding=True).to(self.device)
        vectors = self._encoder(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).last_hidden_state
        filled = torch.tensor([bool(text.strip()) for text in descriptions], device=self.device)
        return vectors.float(), batch["attention_mask"].bool() & filled[:, None]


def drop_words(description: str, probability: float, generator: torch.Generator) -> str:
    """Leave each word out with a probability: the word dropout of training."""
    words = description.split()
    kept = torch.rand(len(words), generator=generator) >= probability
    return " ".join(word for word, keep in zip(words, kept.tolist(), strict=True) if keep)


def _load_encoder(directory: Path) -> Any:
    """Load a T5 encoder, or a MusicGen's. By ourselves: the library's loader shows a progress bar of its own."""
    from transformers import T5Config, T5EncoderModel

    from stage_cli.core.weights.checkpoint import weights_file
    from stage_cli.core.weights.tensors import open_checkpoint

    values = read_config(directory / "config.json")
    inside = values.get("model_type") == "musicgen"
    if not inside and values.get("model_type") != "t5":
        raise ValueError(f"its config.json is for a model of type {values.get('model_type')!r}, not 't5'")
    with torch.device("meta"):
        encoder = T5EncoderModel(T5Config(**(values["text_encoder"] if inside else values)))
    file, prefix = open_checkpoint(weights_file(directory)), _IN_MUSICGEN if inside else ""
    expected = encoder.state_dict()
    state = {
        name: file.read(prefix + name).to(torch.float32, copy=True) for name in expected if prefix + name in file.shapes
    }
    for name in _EMBEDDINGS:  # one table under two names; a file may hold it under either
        found = next((state[other] for other in _EMBEDDINGS if other in state), None)
        if found is not None and name in expected:
            state.setdefault(name, found)
    wrong = [name for name in expected if name not in state or state[name].shape != expected[name].shape]
    if wrong:
        raise ValueError(f"its checkpoint lacks {', '.join(wrong[:3])}, or holds them in other shapes")
    encoder.load_state_dict(state, assign=True)
    return encoder
