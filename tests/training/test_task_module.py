"""The loss: against the transformers library, against a slow one written token by token, and batch against row."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from random_weights import randomise
from torch import Tensor, nn
from torch.nn import functional as F
from transformers_reference import make_musicgen

from stage_cli.core.data.dataset import left_pad_codes
from stage_cli.core.lm.config import LanguageModelConfig
from stage_cli.core.lm.layout import delayed_sequence
from stage_cli.core.lm.transformer import LanguageModel
from stage_cli.core.model import StageModel
from stage_cli.core.training.stem_module import StemModule, TokenBatch
from stage_cli.core.training.stem_task import parameter_groups

K, CODES, TEXT, PAD, SEPARATOR = 4, 32, 24, 32, 33
# fp32; the same sums in another order.
TOLERANCE = 1e-5
EVEN = (1 / K,) * K
LENGTHS = (7, 3, 0, 7)
# Layouts of the language model's config.
OPTIONS: dict[str, dict[str, Any]] = {
    "published": {},
    "restart": {"positions": "restart"},
    "full": {"context_attention": "full"},
    "aligned": {"aligned": True},
    "convolutions": {"context_attention": "full", "convolutions": 2},
    "all": {"positions": "restart", "context_attention": "full", "aligned": True, "convolutions": 2},
}


def make_module(
    *,
    text: bool = True,
    separator: bool = True,
    weights: Sequence[float] = EVEN,
    seed: int = 0,
    positions: str = "absolute",
    context_attention: str = "causal",
    aligned: bool = False,
    convolutions: int = 0,
) -> StemModule:
    config = LanguageModelConfig(
        codebooks=K,
        codebook_size=CODES,
        dimension=64,
        layers=2,
        heads=4,
        feed_forward=96,
        text_dimension=TEXT if text else None,
        separator=separator,
        positions=positions,
        context_attention=context_attention,
        aligned_context=aligned,
        context_convolutions=convolutions,
    )
    module = StemModule(LanguageModel(config), nn.Linear(TEXT, 64) if text else None, weights)
    randomise(module.lm, seed)
    if module.text_projection is not None:
        randomise(module.text_projection, seed + 1)
    if separator:
        module.lm.embeddings.data[:, PAD] = 0
    return module


def codes(T: int, seed: int) -> Tensor:
    return torch.randint(0, CODES, (K, T), generator=torch.Generator().manual_seed(seed))


def make_batch(lengths: Sequence[int] = LENGTHS, target_frames: int = 6, *, text: bool = True) -> TokenBatch:
    """Contexts of these lengths (0: dropped); texts of 4, 3, 2, … vectors, the last row has none."""
    rows = len(lengths)
    contexts = [codes(length, 10 + row) for row, length in enumerate(lengths)]
    target = torch.stack([codes(target_frames, 50 + row) for row in range(rows)])
    batch = TokenBatch(left_pad_codes(contexts, PAD), tuple(lengths), target)
    if not text:
        return batch
    vectors = torch.randn(rows, 4, TEXT, generator=torch.Generator().manual_seed(1))
    counts = torch.tensor([4 - row % 4 for row in range(rows - 1)] + [0])
    return TokenBatch(batch.context, batch.context_frames, target, vectors, torch.arange(4) < counts[:, None])


def row_of(batch: TokenBatch, row: int) -> TokenBatch:
    """One row on its own: nothing padded."""
    text = mask = None
    if batch.text is not None and batch.text_mask is not None and (count := int(batch.text_mask[row].sum())):
        text, mask = batch.text[row : row + 1, :count], batch.text_mask[row : row + 1, :count]
    length = batch.context_frames[row]
    context = batch.context[row : row + 1, :, batch.context.shape[2] - length :]
    return TokenBatch(context, (length,), batch.target[row : row + 1], text, mask)


# Against the transformers library ------------------------------------------------------------------------------------


@pytest.mark.parametrize("with_text", [False, True], ids=["no text", "text"])
def test_the_loss_is_the_transformers_librarys(musicgen_dir: Path, with_text: bool) -> None:
    """No context: MusicGen's own loss on the same random weights and tokens; it averages codebook by codebook."""
    reference = make_musicgen()
    model = StageModel.from_pretrained(str(musicgen_dir), device="cpu", precision="float32")
    assert not model.config.lm.separator
    target = torch.stack([codes(11, seed) for seed in (1, 2, 3)])
    # The library wants delayed labels, pads where a codebook has not begun: written here without our delay pattern.
    labels = torch.full((3, 11, K), PAD)
    for k in range(K):
        for t in range(11 - k):
            labels[:, t + k, k] = target[:, k, t]
    text = mask = theirs = None
    if with_text:
        text, mask = torch.randn(3, 5, 32, generator=torch.Generator().manual_seed(4)), torch.ones(3, 5) > 0
        theirs = reference.enc_to_dec_proj(text)
    expected = reference.decoder(labels=labels, encoder_hidden_states=theirs)
    module = StemModule(model.lm, model.text_projection, EVEN)
    outputs = module(TokenBatch(target[:, :, :0], (0, 0, 0), target, text, mask))
    assert expected.loss.item() > 2
    torch.testing.assert_close(outputs["loss"], expected.loss, atol=TOLERANCE, rtol=0)
    # The gradients too: what is learned is the same.
    model.lm.requires_grad_(True)
    module(TokenBatch(target[:, :, :0], (0, 0, 0), target, text, mask))["loss"].backward()
    expected.loss.backward()
    heads = torch.cat([head.weight.grad for head in reference.decoder.lm_heads])
    torch.testing.assert_close(model.lm.output_heads.weight.grad, heads, atol=TOLERANCE, rtol=0)
    tables = torch.stack([table.weight.grad for table in reference.decoder.model.decoder.embed_tokens])
    # The library never learns its pads; a plain MusicGen of ours does, and none is trained without growing.
    torch.testing.assert_close(model.lm.embeddings.grad[:, :PAD], tables[:, :PAD], atol=TOLERANCE, rtol=0)


# Against a slow loss -------------------------------------------------------------------------------------------------


def slow_losses(module: StemModule, batch: TokenBatch) -> list[float]:
    """The loss of each codebook, row by row and token by token, through the masked forward pass of generation."""
    lm, losses = module.lm, [[] for _ in range(K)]
    for row in range(len(batch)):
        alone = row_of(batch, row)
        # Left padding that a batch would have: masked, so it changes nothing.
        context = F.pad(alone.context, (2, 0), value=PAD)
        text = None
        if alone.text is not None and module.text_projection is not None:
            text = module.text_projection(alone.text)
        tokens = delayed_sequence(context, alone.target, lm.config)
        logits = lm(*tokens, text=text, context_steps=context.shape[2] + 1)[0]
        separator = context.shape[2]
        T = separator + 1 + alone.target.shape[2]
        for k in range(K):
            for t in range(alone.target.shape[2]):
                step = separator + 2 + k + t  # of this token in the delayed sequence
                if step <= T:  # the sequence is cut to S = T + 1 steps
                    chances = logits[k, step - 1].double().log_softmax(dim=-1)
                    losses[k].append(-chances[alone.target[0, k, t]].item())
    assert [len(values) for values in losses] == [len(batch) * (batch.target.shape[2] - k) for k in range(K)]
    return [sum(values) / len(values) for values in losses]


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("text", [False, True], ids=["no text", "text"])
@torch.no_grad()
def test_the_loss_is_that_of_the_masked_sequence(text: bool, options: dict[str, Any]) -> None:
    for lengths in (LENGTHS, (0, 0), (5,), (1, 9, 2)):
        module = make_module(text=text, **options)
        batch = make_batch(lengths, text=text)
        outputs = module(batch)
        expected = torch.tensor(slow_losses(module, batch))
        torch.testing.assert_close(outputs["codebook_losses"], expected, atol=TOLERANCE, rtol=0)
        torch.testing.assert_close(outputs["loss"], expected.mean(), atol=TOLERANCE, rtol=0)
        assert expected.std() > 0.01  # the codebooks differ: a mix-up would show


@torch.no_grad()
def test_logits_are_those_of_the_masked_sequence() -> None:
    module, batch = make_module(text=False), make_batch(text=False)
    logits = module.target_logits(batch)
    whole = module.lm(*delayed_sequence(batch.context, batch.target, module.lm.config))
    separator = batch.context.shape[2]
    expected = whole[:, :, separator + 1 : separator + 1 + batch.target.shape[2]].transpose(1, 2)
    torch.testing.assert_close(logits, expected, atol=TOLERANCE, rtol=0)
    assert expected.std() > 0.3


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@torch.no_grad()
def test_hidden_frames_are_learned_but_not_seen(options: dict[str, Any]) -> None:
    module, batch = make_module(text=False, **options), make_batch(text=False)
    hidden = torch.zeros(len(batch), 6, dtype=torch.bool)
    hidden[0, 2:4] = True
    gaps = replace(batch, hidden=hidden)
    logits, plain = module.target_logits(gaps), module.target_logits(batch)
    # What stands there changes what has to be predicted, and nothing of what is seen.
    other = batch.target.clone()
    other[0, :, 2:4] = (other[0, :, 2:4] + 1) % CODES
    changed = replace(gaps, target=other)
    assert torch.equal(module.target_logits(changed), logits)
    assert not torch.equal(module(changed)["codebook_losses"], module(gaps)["codebook_losses"])
    # Nothing changes before a gap and in other rows; behind it all does.
    torch.testing.assert_close(logits[1:], plain[1:], atol=TOLERANCE, rtol=0)
    torch.testing.assert_close(logits[0, :3], plain[0, :3], atol=TOLERANCE, rtol=0)
    assert ((logits[0, 3:] - plain[0, 3:]).abs().amax(dim=(1, 2)) > 1e-3).all()


def test_codebook_weights() -> None:
    even, batch = make_module(), make_batch()
    losses = even(batch)["codebook_losses"]
    weights = (0.5, 0.25, 0.25, 0.0)
    weighted = make_module(weights=weights)(batch)
    assert torch.equal(weighted["codebook_losses"], losses)
    torch.testing.assert_close(weighted["loss"], (losses * torch.tensor(weights)).sum())
    torch.testing.assert_close(even(batch)["loss"], losses.mean())
    with pytest.raises(ValueError, match="3 weights for 4 codebooks"):
        make_module(weights=(1.0, 0.0, 0.0))


def test_a_codebook_without_weight_teaches_nothing() -> None:
    """The last head's gradient is zero; the first one's is not."""
    module = make_module(weights=(0.5, 0.25, 0.25, 0.0))
    module(make_batch())["loss"].backward()
    heads = module.lm.output_heads.weight.grad.view(K, CODES, -1)
    assert heads[3].abs().max() == 0
    assert (heads[:3].abs().amax(dim=(1, 2)) > 0).all()


def test_targets_shorter_than_the_delay() -> None:
    """Two frames, four codebooks: the cut leaves nothing of the last two, and no number that is not one."""
    module = make_module(text=False)
    outputs = module(make_batch((3, 1), target_frames=2, text=False))
    assert torch.isfinite(outputs["loss"])
    assert (outputs["codebook_losses"] > 0).tolist() == [True, True, False, False]


# Rows do not know each other -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("separator", [True, False], ids=["STAGE", "plain"])
def test_a_row_of_a_batch_equals_the_row_alone(separator: bool) -> None:
    """Contexts and texts of unequal lengths, dropped ones too: losses and gradients are the mean of the rows' own."""
    module, batch = make_module(separator=separator), make_batch()
    together = module(batch)
    together["loss"].backward()
    gradients = {name: parameter.grad.clone() for name, parameter in module.named_parameters()}
    module.zero_grad()
    logits = module.target_logits(batch)
    losses = []
    for row in range(len(batch)):
        alone = row_of(batch, row)
        torch.testing.assert_close(module.target_logits(alone)[0], logits[row], atol=TOLERANCE, rtol=0)
        loss = module(alone)["loss"] / len(batch)
        loss.backward()
        losses.append(loss.detach())
    torch.testing.assert_close(together["loss"], torch.stack(losses).sum(), atol=TOLERANCE, rtol=0)
    for name, parameter in module.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[name], atol=TOLERANCE, rtol=0, msg=name)


def test_what_a_dropped_context_was_cannot_matter() -> None:
    """A dropped row equals a row that never had a context, and the context of the others matters."""
    module = make_module(text=False)
    batch = make_batch((5, 5), text=False)
    one = batch.with_contexts([batch.contexts()[0], batch.contexts()[1][:, :0]], PAD)
    other = batch.with_contexts([codes(5, 99), batch.contexts()[1][:, :0]], PAD)
    with torch.no_grad():
        first, second = module.target_logits(one), module.target_logits(other)
    assert torch.equal(first[1], second[1])
    assert (first[0] - second[0]).abs().max() > 0.1
    assert (first[1] - module.target_logits(batch)[1]).abs().max() > 0.1


def test_only_target_tokens_are_learned() -> None:
    """Changing a context token changes no label: the loss's gradient at the heads comes from target tokens alone."""
    module = make_module(text=False)
    target = torch.full((1, K, 5), 7)
    context = torch.full((1, K, 6), 11)
    module(TokenBatch(context, (6,), target))["loss"].backward()
    heads = module.lm.output_heads.weight.grad.view(K, CODES, -1)
    # A softmax pushes all tokens down and only labels up: along the mean hidden state, token 7 alone goes up.
    hidden = torch.einsum("kcd->kd", heads * (torch.arange(CODES) == 7)[None, :, None])
    sides = torch.einsum("kcd,kd->kc", heads, hidden)
    assert (sides[:, 7] > 0).all()
    assert (sides[:, 11] < 0).all()


def test_the_end_of_the_target_is_cut() -> None:
    """The last k tokens of codebook k lie beyond the cut: they are neither input nor label."""
    module, batch = make_module(), make_batch()
    loss = module(batch)["loss"]
    for k in range(K):
        changed = batch.target.clone()
        changed[:, k, 6 - k :] = (changed[:, k, 6 - k :] + 1) % CODES
        assert torch.equal(
            module(TokenBatch(batch.context, batch.context_frames, changed, batch.text, batch.text_mask))["loss"], loss
        )
        changed[:, k, 5 - k] = (changed[:, k, 5 - k] + 1) % CODES
        assert (
            module(TokenBatch(batch.context, batch.context_frames, changed, batch.text, batch.text_mask))["loss"]
            != loss
        )


# Text ----------------------------------------------------------------------------------------------------------------


def test_every_weight_has_a_gradient_in_each_pass() -> None:
    """Also where no item of a micro-batch has a description: processes and passes average gradients of all weights."""
    module = make_module()
    module(make_batch(text=False))["loss"].backward()
    missing = [name for name, parameter in module.named_parameters() if parameter.grad is None]
    assert missing == []
    for name, parameter in module.named_parameters():
        is_text = ".text_" in name or name.startswith("text_projection")
        assert (parameter.grad.abs().max() == 0) == is_text, name


@torch.no_grad()
def test_no_description_is_no_text() -> None:
    """Exactly as generation without a description: the cross-attention adds nothing."""
    module, batch = make_module(), make_batch((4,), text=False)
    logits = module.target_logits(batch)
    tokens = delayed_sequence(batch.context, batch.target, module.lm.config)
    expected = module.lm(*tokens)[:, :, 5:11].transpose(1, 2)
    torch.testing.assert_close(logits, expected, atol=TOLERANCE, rtol=0)
    masked = TokenBatch(batch.context, (4,), batch.target, torch.randn(1, 3, TEXT), torch.zeros(1, 3, dtype=torch.bool))
    torch.testing.assert_close(module.target_logits(masked), expected, atol=TOLERANCE, rtol=0)


# The pad -------------------------------------------------------------------------------------------------------------


def test_the_pad_is_frozen_at_zero() -> None:
    """Its gradient is exactly zero, so neither Adam nor decay moves it; the separator learns."""
    module, batch = make_module(), make_batch()
    optimizer = torch.optim.AdamW(module.parameters(), lr=0.1, weight_decay=0.5)
    for _ in range(3):
        optimizer.zero_grad()
        module(batch)["loss"].backward()
        gradient = module.lm.embeddings.grad
        assert gradient[:, PAD].abs().max() == 0
        assert (gradient[:, SEPARATOR].abs().amax(dim=1) > 0).all()
        before = module.lm.embeddings.detach().clone()
        optimizer.step()
    assert module.lm.embeddings[:, PAD].abs().max() == 0
    assert (module.lm.embeddings[:, SEPARATOR] != before[:, SEPARATOR]).any()


def test_pads_would_have_a_gradient_otherwise() -> None:
    """Pads do stand in the sequences (step k of codebook k): a plain MusicGen learns them."""
    module = make_module(separator=False)
    module(make_batch())["loss"].backward()
    assert module.lm.embeddings.grad[:, PAD].abs().max() > 0


# Memory and speed ----------------------------------------------------------------------------------------------------


def test_checkpointing_changes_no_gradient() -> None:
    batch = make_batch()
    gradients = []
    for on in (False, True):
        module = make_module()
        module.lm.set_checkpointing(on)
        runs: list[int] = []
        for layer in module.lm.layers:
            layer.feed_forward_in.register_forward_hook(lambda *_, runs=runs: runs.append(1))
        module(batch)["loss"].backward()
        assert len(runs) == (2 if on else 1) * len(module.lm.layers)  # computed again for the gradient
        gradients.append({name: parameter.grad for name, parameter in module.named_parameters()})
    for name, gradient in gradients[0].items():
        assert torch.equal(gradient, gradients[1][name]), name


def test_heads_see_only_the_steps_that_are_learned() -> None:
    module, batch = make_module(), make_batch()
    seen = []
    module.lm.output_heads.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0].shape))
    inside = []
    module.lm.layers[0].register_forward_hook(lambda _, inputs, __: inside.append(inputs[0].shape))
    module(batch)
    assert seen == [(4, 6, 64)]
    # Not padded beyond the batch's own longest: context 7, separator, target 6; the last step predicts nothing.
    assert inside == [(4, 7 + 6, 64)]
    module(make_batch((3, 2)))
    assert inside[1] == (2, 3 + 6, 64)


def test_no_mask_is_made() -> None:
    """Rows begin with their first attended step, so causal attention is enough, and no value is asked of the device."""
    module = make_module(text=False)
    masks = []
    module.lm.layers[0].register_forward_hook(lambda _, inputs, __: masks.append(inputs[1]))
    module(make_batch(text=False))
    assert masks == [None]


def test_parameter_groups() -> None:
    module = make_module()
    groups = parameter_groups(module)
    names = [name for group in groups for name in group.names]
    assert sorted(names) == sorted(name for name, _ in module.named_parameters())
    parameters = dict(module.named_parameters())
    matrices, others, vectors = groups
    assert (matrices.kind, matrices.decay) == ("matrix", True)
    assert all(parameters[name].ndim == 2 and name.startswith("lm.layers.") for name in matrices.names)
    assert len(matrices.names) == 2 * 7  # two layers: four of attention to itself and to text, two of the feed-forward
    assert (others.kind, set(others.names)) == (
        "other",
        {"lm.embeddings", "lm.output_heads.weight", "text_projection.weight"},
    )
    assert (vectors.kind, vectors.decay) == ("other", False)
    assert all(parameters[name].ndim == 1 for name in vectors.names)
    context_heads = make_module(context_attention="full", aligned=True, convolutions=1)
    matrices = parameter_groups(context_heads)[0]
    assert {"lm.aligned.weight", "lm.context_convolutions.blocks.0.outer.weight"} < set(matrices.names)
    module.lm.embeddings.requires_grad_(False)
    assert "lm.embeddings" not in [name for group in parameter_groups(module) for name in group.names]


def test_random_batches_against_the_slow_loss() -> None:
    """Shapes drawn at random: more corners than anybody lists."""
    numbers = random.Random(0)
    module = make_module(text=False)
    for _ in range(5):
        lengths = [numbers.randrange(6) for _ in range(numbers.randrange(1, 4))]
        batch = make_batch(lengths, numbers.randrange(4, 8), text=False)
        with torch.no_grad():
            losses = module(batch)["codebook_losses"]
            torch.testing.assert_close(losses, torch.tensor(slow_losses(module, batch)), atol=TOLERANCE, rtol=0)
