"""The transformers library's MusicGen as an independent reference: the same random weights, through our loading code.

Both compute in fp32 on the same CPU; sums are only ordered differently, so 1e-4 on logits of size ~1 is generous.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoTokenizer, MusicgenForConditionalGeneration
from transformers_reference import make_musicgen

from stage_cli.core.generation.config import GenerationConfig
from stage_cli.core.generation.song import decode_window
from stage_cli.core.lm.layout import delayed_sequence
from stage_cli.core.model import StageModel

TOLERANCE = 1e-4
K, CODES = 4, 32
PAD = CODES


@pytest.fixture(scope="module")
def reference() -> MusicgenForConditionalGeneration:
    return make_musicgen()


@pytest.fixture(scope="module")
def ours(musicgen_dir: Path) -> StageModel:
    return StageModel.from_pretrained(str(musicgen_dir), device="cpu", precision="float32")


def _tokenizer(directory: Path) -> Any:
    return AutoTokenizer.from_pretrained(directory)


def _text_ids() -> tuple[Tensor, Tensor]:
    """Two texts of different lengths, padded on the right as T5's are; ids 0 are padding."""
    ids = torch.tensor([[3, 14, 7, 15, 1, 0, 0], [5, 14, 10, 16, 8, 15, 1]])
    return ids, ids != 0


def _delayed(B: int, T: int, seed: int = 0) -> Tensor:
    """Delayed tokens `[B, K, T + K]` written without our delay pattern: pads, then each codebook one step later."""
    codes = torch.randint(0, CODES, (B, K, T), generator=torch.Generator().manual_seed(seed))
    delayed = torch.full((B, K, T + K), PAD)
    for k in range(K):
        for t in range(T):
            delayed[:, k, t + k + 1] = codes[:, k, t]
    return delayed


def _every_step(S: int, B: int) -> tuple[Tensor, Tensor]:
    """Attended steps and positions of plain MusicGen: all, counted from step 0."""
    return torch.ones(B, S, dtype=torch.bool), torch.arange(S).expand(B, S)


@torch.inference_mode()
def _reference_logits(reference: Any, delayed: Tensor, text: Tensor | None, mask: Tensor | None = None) -> Tensor:
    """The decoder's logits `[B, K, S, codes]`; `text` is what it attends to, already projected."""
    B, _, S = delayed.shape
    output = reference.decoder(
        input_ids=delayed.reshape(B * K, S), encoder_hidden_states=text, encoder_attention_mask=mask
    )
    return output.logits.reshape(B, K, S, CODES)


@torch.inference_mode()
def _our_logits(ours: StageModel, delayed: Tensor, text: Tensor | None) -> Tensor:
    return ours.lm(delayed, *_every_step(delayed.shape[2], delayed.shape[0]), text=text)


def test_the_config_is_read_from_the_checkpoint(ours: StageModel) -> None:
    lm, codec = ours.config.lm, ours.config.codec
    assert (lm.codebooks, lm.codebook_size, lm.dimension, lm.layers, lm.heads) == (4, 32, 48, 3, 4)
    assert (lm.feed_forward, lm.text_dimension, lm.separator) == (96, 32, False)
    assert (codec.sample_rate, codec.ratios, codec.codebooks, codec.codebook_size) == (8000, (8, 5, 4), 4, 32)


def test_logits_without_text(reference: MusicgenForConditionalGeneration, ours: StageModel) -> None:
    delayed = _delayed(B=2, T=12)
    expected = _reference_logits(reference, delayed, None)
    assert expected.std() > 0.1  # the weights matter
    torch.testing.assert_close(_our_logits(ours, delayed, None), expected, atol=TOLERANCE, rtol=0)


def test_logits_with_text(reference: MusicgenForConditionalGeneration, ours: StageModel) -> None:
    # The whole reference, text encoder and projection included, one text at a time: no padding in play.
    ids, mask = _text_ids()
    delayed = _delayed(B=2, T=12)
    with_text = []
    for row in range(2):
        length = int(mask[row].sum())
        with torch.inference_mode():
            expected = reference(
                input_ids=ids[row : row + 1, :length],
                attention_mask=torch.ones(1, length, dtype=torch.long),
                decoder_input_ids=delayed[row],
            ).logits[None]
            vectors = reference.text_encoder(ids[row : row + 1, :length]).last_hidden_state
            text = ours.project_text(vectors, torch.ones(1, length, dtype=torch.bool))
        logits = _our_logits(ours, delayed[row : row + 1], text)
        torch.testing.assert_close(logits, expected, atol=TOLERANCE, rtol=0)
        with_text.append(logits)
    # A text that changed nothing would pass all of the above.
    assert (torch.cat(with_text) - _our_logits(ours, delayed, None)).abs().max() > 0.1


def test_masked_text_vectors_take_part_as_zeros(reference: MusicgenForConditionalGeneration, ours: StageModel) -> None:
    # audiocraft, and so the published weights, multiply the vectors by the mask and attend to the zeros too.
    ids, mask = _text_ids()
    delayed = _delayed(B=2, T=8)
    with torch.inference_mode():
        vectors = reference.text_encoder(ids, attention_mask=mask.long()).last_hidden_state
        zeroed = reference.enc_to_dec_proj(vectors) * mask[..., None]
        text = ours.project_text(vectors, mask)
    torch.testing.assert_close(text, zeroed, atol=1e-6, rtol=0)
    expected = _reference_logits(reference, delayed, zeroed)  # no mask: the zeros are attended to
    torch.testing.assert_close(_our_logits(ours, delayed, text), expected, atol=TOLERANCE, rtol=0)


def test_our_sequence_is_the_references(reference: Any, ours: StageModel) -> None:
    # A context without separator: what came before, delayed together with the target.
    generator = torch.Generator().manual_seed(5)
    context, target = (torch.randint(0, CODES, (1, K, T), generator=generator) for T in (6, 5))
    tokens, attended, positions = delayed_sequence(context, target, ours.config.lm)
    start = torch.cat([torch.full((K, 1), PAD), context[0], target[0]], dim=1)
    _, theirs = reference.decoder.build_delay_pattern_mask(start, PAD, max_length=6 + 5 + K)
    assert torch.equal(tokens[0], theirs)
    with torch.inference_mode():
        logits = ours.lm(tokens, attended, positions)
    torch.testing.assert_close(logits, _reference_logits(reference, tokens, None), atol=TOLERANCE, rtol=0)


def _reference_codes(reference: Any, monkeypatch: pytest.MonkeyPatch, **inputs: Any) -> Tensor:
    """The codes that the library's own `generate` hands to its codec, `[K, T]`."""
    seen: list[Tensor] = []

    def decode(codes: Tensor, *args: Any, **options: Any) -> Any:
        seen.append(codes)
        return type("Decoded", (), {"audio_values": torch.zeros(1, 1, 1)})

    monkeypatch.setattr(reference.audio_encoder, "decode", decode)
    reference.generate(do_sample=False, use_cache=True, **inputs)
    return seen[0][0, 0]


def _greedy(ours: StageModel, known: Tensor, frames: int, guidance: float, text: Tensor) -> Tensor:
    """Our greedy codes `[1, K, T]` without a context."""
    config = GenerationConfig(temperature=0.0, guidance=guidance)
    return decode_window(ours.lm, known[:, :, :0], known, torch.zeros(1, K, frames), config, text=text)


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_greedy_tokens_equal_those_of_generate(
    reference: MusicgenForConditionalGeneration,
    ours: StageModel,
    musicgen_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
    guidance: float,
) -> None:
    frames = 20
    description = "genres: rock, jazz. moods: sad."
    text = ours.encode_description(description)
    batch = _tokenizer(musicgen_dir)([description], return_tensors="pt")
    expected = _reference_codes(
        reference,
        monkeypatch,
        input_ids=batch["input_ids"],
        attention_mask=batch["attention_mask"],
        guidance_scale=guidance,
        max_new_tokens=frames + K - 1,
    )
    codes = _greedy(ours, torch.empty(1, K, 0, dtype=torch.long), frames, guidance, text)
    assert expected.shape == (K, frames)
    assert len(expected.unique()) > 5  # not one token over and over
    assert torch.equal(codes[0], expected)


def test_greedy_continuation_equals_that_of_generate(
    reference: MusicgenForConditionalGeneration,
    ours: StageModel,
    musicgen_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    frames, known = 16, 5
    start = torch.randint(0, CODES, (1, K, known), generator=torch.Generator().manual_seed(9))
    text = ours.encode_description("mood: dark.")
    batch = _tokenizer(musicgen_dir)(["mood: dark."], return_tensors="pt")
    expected = _reference_codes(
        reference,
        monkeypatch,
        input_ids=batch["input_ids"],
        attention_mask=batch["attention_mask"],
        decoder_input_ids=start[0],
        guidance_scale=3.0,
        max_length=frames + K,
    )
    codes = _greedy(ours, start, frames, 3.0, text)
    assert torch.equal(expected[:, :known], start[0])
    assert torch.equal(codes[0], expected)
