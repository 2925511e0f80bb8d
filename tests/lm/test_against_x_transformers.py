"""STAGE's layout against x-transformers: masks, positions, text and weights of a checkpoint as users hold it."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers_reference import make_codec
from x_transformers_reference import CODES, HEADS, LAYERS, PAD, TEXT_WIDTH, WIDTH, K, Sequence, StageReference

from stage_cli.core.generation.config import GenerationConfig
from stage_cli.core.generation.song import decode_window
from stage_cli.core.lm.layout import delayed_sequence
from stage_cli.core.model import StageModel
from stage_cli.core.precision import Runtime
from stage_cli.core.weights.checkpoint import find_codec_part, find_language_model, plain_config
from stage_cli.core.weights.formats import Plan

pytestmark = pytest.mark.filterwarnings("ignore:.*sdp_kernel:FutureWarning")  # x-transformers' own

# fp32 on both sides, sums ordered differently; logits are of size ~1.
TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def reference() -> StageReference:
    return StageReference()


@pytest.fixture(scope="module")
def stage_checkpoint(reference: StageReference, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file as STAGE's authors publish: language model, text projection, T5, codec, by their names."""
    state = dict(reference.state_dict())
    state["condition_provider.embedders.description.t5.encoder.final_layer_norm.weight"] = torch.ones(TEXT_WIDTH)
    state |= {f"encodec_model.{name}": tensor for name, tensor in make_codec().state_dict().items()}
    path = tmp_path_factory.mktemp("stage") / "stage-drums.safetensors"
    save_file({name: tensor.clone().contiguous() for name, tensor in state.items()}, path)
    return path


@pytest.fixture(scope="module")
def ours(stage_checkpoint: Path) -> StageModel:
    part = find_language_model(stage_checkpoint)
    codec = find_codec_part(part.source.file, part.form.codec_prefix, sample_rate=8000)
    assert codec is not None
    plan = Plan(plain_config(part, codec, stem="drums"), (part.source, codec.source))
    return StageModel.from_plan(plan, Runtime(torch.device("cpu"), "float32"))


def _frames(count: int, seed: int) -> list[list[int]]:
    numbers = random.Random(seed)
    return [[numbers.randrange(CODES) for _ in range(K)] for _ in range(count)]


def _ours(frames: list[list[int]]) -> Tensor:
    """Frames as `[K, T]`."""
    return torch.tensor(frames, dtype=torch.long).reshape(-1, K).T


def _batch(contexts: list[list[list[int]] | None], targets: list[list[list[int]]]) -> tuple[Tensor, Tensor]:
    """The same batch as our code takes it: contexts left-padded with pads."""
    longest = max(len(context or []) for context in contexts)
    padded = torch.full((len(contexts), K, longest), PAD)
    for row, context in enumerate(contexts):
        if context:
            padded[row, :, longest - len(context) :] = _ours(context)
    return padded, torch.stack([_ours(target) for target in targets])


def _texts(B: int) -> tuple[Tensor, Tensor]:
    """Text vectors of unequal lengths; the last row has no description at all."""
    vectors = torch.randn(B, 5, TEXT_WIDTH, generator=torch.Generator().manual_seed(3))
    lengths = torch.tensor([5, 3, 1, 0][-B:]) if B > 1 else torch.tensor([5])
    return vectors, torch.arange(5) < lengths[:, None]


CASES: dict[str, tuple[list[list[list[int]] | None], list[list[list[int]]]]] = {
    "one": ([_frames(7, 1)], [_frames(6, 2)]),
    "unequal contexts": ([_frames(9, 1), _frames(4, 2), _frames(1, 3)], [_frames(6, 4), _frames(6, 5), _frames(6, 6)]),
    "a dropped context": ([_frames(8, 1), None, _frames(3, 3)], [_frames(5, 4), _frames(5, 5), _frames(5, 6)]),
    "all contexts dropped": ([None, None], [_frames(6, 4), _frames(6, 5)]),
    "only the start of the target": ([_frames(9, 1), _frames(5, 2)], [_frames(2, 4), _frames(2, 5)]),
    "no target yet": ([_frames(6, 1), _frames(2, 2), None], [[], [], []]),
    "a target that ends in pads": (
        [_frames(6, 1), _frames(2, 2)],
        [_frames(3, 4) + [[PAD] * K] * 3, _frames(3, 5) + [[PAD] * K] * 3],
    ),
}


def test_the_config_is_read_from_the_shapes(ours: StageModel) -> None:
    lm, codec = ours.config.lm, ours.config.codec
    assert (lm.codebooks, lm.codebook_size, lm.dimension, lm.layers, lm.heads) == (K, CODES, WIDTH, LAYERS, HEADS)
    assert (lm.feed_forward, lm.text_dimension, lm.separator) == (4 * WIDTH, TEXT_WIDTH, True)
    assert (codec.sample_rate, codec.ratios, codec.codebooks, codec.codebook_size) == (8000, (8, 5, 4), K, CODES)


@pytest.mark.parametrize("case", CASES)
def test_tokens_masks_and_positions(ours: StageModel, case: str) -> None:
    expected = Sequence(*CASES[case])
    tokens, attended, positions = delayed_sequence(*_batch(*CASES[case]), ours.config.lm)
    assert torch.equal(tokens, expected.tokens)
    assert torch.equal(attended, expected.attended)
    assert torch.equal(positions, expected.positions)


@pytest.mark.parametrize("with_text", [False, True], ids=["without text", "with text"])
@pytest.mark.parametrize("case", CASES)
@torch.inference_mode()
def test_logits(reference: StageReference, ours: StageModel, case: str, with_text: bool) -> None:
    sequence = Sequence(*CASES[case])
    vectors, mask = _texts(len(sequence.tokens)) if with_text else (None, None)
    expected = reference.logits(sequence, vectors, mask)
    text = None if vectors is None or mask is None else ours.project_text(vectors, mask)
    logits = ours.lm(*delayed_sequence(*_batch(*CASES[case]), ours.config.lm), text=text)
    # [B, K, S, codes] → the attended steps of all rows.
    expected, logits = (x.transpose(1, 2)[sequence.attended] for x in (expected, logits))
    assert expected.std() > 0.3
    torch.testing.assert_close(logits, expected, atol=TOLERANCE, rtol=0)


def test_the_text_matters(reference: StageReference) -> None:
    sequence = Sequence(*CASES["one"])
    difference = reference.logits(sequence, *_texts(1)) - reference.logits(sequence, None, None)
    assert difference[:, :, 1:].abs().max() > 0.1


@pytest.mark.parametrize("with_text", [False, True], ids=["without text", "with text"])
def test_greedy_generation(reference: StageReference, ours: StageModel, with_text: bool) -> None:
    """Guided decoding with our caches against the reference run anew, uncached, for each step."""
    context, start, frames = _frames(9, 1), _frames(3, 2), 8
    vectors, mask = _texts(1) if with_text else (None, None)
    target = [*start, *([PAD] * K for _ in range(frames - len(start)))]
    for step in range(len(start), frames + K - 1):
        with_context, without = Sequence([context], [target]), Sequence([None], [target])
        conditional = reference.logits(with_context, vectors, mask)[0]
        unconditional = reference.logits(without, None, None)[0]
        # Frame t of codebook k stands at step Tc + 2 + t + k; the step before predicts it.
        here, alone = (len(context or []) + 2 + step - 1 for context in (context, None))
        logits = unconditional[:, alone] + 3.0 * (conditional[:, here] - unconditional[:, alone])
        for k in range(K):
            if len(start) <= step - k < frames:
                target[step - k] = [*target[step - k][:k], int(logits[k].argmax()), *target[step - k][k + 1 :]]
    text = None if vectors is None or mask is None else ours.project_text(vectors, mask)
    codes = decode_window(
        ours.lm,
        _ours(context)[None],
        _ours(start)[None],
        torch.zeros(1, K, frames),
        GenerationConfig(temperature=0.0, guidance=3.0),
        text=text,
    )
    assert codes[0].T.tolist() == target


def test_the_separators_row_is_the_files(reference: StageReference, ours: StageModel) -> None:
    for k in range(K):
        assert torch.equal(ours.lm.embeddings[k], reference.lm.decoder.token_emb.emb[k].weight)
    assert torch.equal(ours.lm.embeddings[:, PAD], torch.zeros(K, WIDTH))
