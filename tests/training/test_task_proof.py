"""Proof that it learns: one batch by heart, and a target that is a function of the context."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from random_weights import randomise
from tiny_sizes import TINY_CODEC, TINY_LM
from torch import Tensor

from stage_cli.core.data.config import DataConfig
from stage_cli.core.data.dataset import left_pad_codes
from stage_cli.core.generation.config import GenerationConfig
from stage_cli.core.generation.song import decode_window
from stage_cli.core.lm.config import LanguageModelConfig
from stage_cli.core.model import StageModel
from stage_cli.core.model_config import StageConfig
from stage_cli.core.training.building import build_model
from stage_cli.core.training.settings import ModelConfig, TrainingConfig
from stage_cli.core.training.stem_module import StemModule, TokenBatch
from stage_cli.core.training.stem_task import parameter_groups

K, CODES, FRAMES = 2, 16, 8


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """These matrices are so small that threads would mostly wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def build(codec: Path, lm: LanguageModelConfig) -> StageModel:
    data = DataConfig(root=("songs",), chunk_seconds=1.0, context_seconds=(1.0, 1.0))
    return build_model(TrainingConfig(data=data, model=ModelConfig(lm=lm, codec=str(codec))))


def optimizers(module: StemModule, *, muon: bool, rate: float) -> list[torch.optim.Optimizer]:
    parameters, groups = dict(module.named_parameters()), parameter_groups(module)
    matrices, others = (
        [parameters[name] for group in groups if (group.kind == "matrix") == wanted for name in group.names]
        for wanted in (True, False)
    )
    if muon:
        return [torch.optim.Muon(matrices, lr=0.02), torch.optim.AdamW(others, lr=rate)]
    return [torch.optim.AdamW(matrices + others, lr=rate, betas=(0.9, 0.95))]


def learn(module: StemModule, batch: TokenBatch, members: list[torch.optim.Optimizer]) -> float:
    loss = module(batch)["loss"]
    loss.backward()
    for member in members:
        member.step()
        member.zero_grad()
    return loss.item()


@pytest.mark.parametrize("muon", [False, True], ids=["adamw", "muon"])
def test_one_batch_is_learned_by_heart(tiny_model_dir: Path, muon: bool) -> None:
    """Random targets after contexts of unequal lengths, one of them dropped, down to a loss of 0.1."""
    model = build(tiny_model_dir, TINY_LM)
    module = StemModule(model.lm, None, (0.25,) * 4)
    generator = torch.Generator().manual_seed(0)
    contexts = [torch.randint(0, 32, (4, length), generator=generator) for length in (6, 3, 0)]
    target = torch.randint(0, 32, (3, 4, 10), generator=generator)
    batch = TokenBatch(left_pad_codes(contexts, 32), (6, 3, 0), target)
    members = optimizers(module, muon=muon, rate=3e-3)
    losses = [learn(module, batch, members) for _ in range(100)]
    assert losses[0] == pytest.approx(3.47, abs=0.3)  # ln 32
    assert losses[-1] < 0.1


class Toy:
    """Contexts at random, and targets that are a permutation of each codebook's codes, frame by frame."""

    def __init__(self) -> None:
        self.generator = torch.Generator().manual_seed(1)
        self.tables = torch.stack([torch.randperm(CODES, generator=self.generator) for _ in range(K)])

    def target_of(self, context: Tensor) -> Tensor:
        """`[B, K, T]` → `[B, K, T]`."""
        return torch.stack([self.tables[k][context[:, k]] for k in range(K)], dim=1)

    def batch(self, rows: int, *, dropped: float = 0.0) -> TokenBatch:
        context = torch.randint(0, CODES, (rows, K, FRAMES), generator=self.generator)
        keep = (torch.rand(rows, generator=self.generator) >= dropped).tolist()
        batch = TokenBatch(context, (FRAMES,) * rows, self.target_of(context))
        return batch.with_contexts(
            [row if kept else row[:, :0] for row, kept in zip(context, keep, strict=True)], CODES
        )


def accuracy(tokens: Tensor, target: Tensor) -> float:
    """Share of right tokens, of those that the cut leaves to be learned."""
    learned = torch.stack([torch.arange(FRAMES) < FRAMES - k for k in range(K)])
    return (tokens == target)[:, learned].float().mean().item()


@torch.no_grad()
def predicted(module: StemModule, batch: TokenBatch) -> Tensor:
    """The likeliest token of each frame, `[B, K, T]`; the last k frames of codebook k are not predicted."""
    best = module.target_logits(batch).argmax(dim=-1)
    return torch.stack([best[:, :, k].roll(-k, dims=1) for k in range(K)], dim=1)


def test_a_target_that_follows_from_the_context(tmp_path: Path) -> None:
    """≥ 99 % of the tokens with the context; chance without it, and with another item's."""
    codec = replace(TINY_CODEC, codebooks=K, codebook_size=CODES)
    lm = LanguageModelConfig(
        codebooks=K, codebook_size=CODES, dimension=64, layers=2, heads=2, feed_forward=128, text_dimension=None
    )
    lender = StageModel(StageConfig(codec=codec, lm=lm, text_encoder=None))
    randomise(lender)
    lender.save_pretrained(tmp_path / "codec")
    model, toy = build(tmp_path / "codec", lm), Toy()
    module = StemModule(model.lm, None, (1 / K,) * K)
    members = optimizers(module, muon=False, rate=1e-2)
    steps = 160
    for step in range(steps):
        for group in members[0].param_groups:
            group["lr"] = 1e-2 * min(1.0, (step + 1) / 20, 2 * (steps - step) / steps)
        learn(module, toy.batch(32, dropped=0.1), members)

    batch = toy.batch(200)
    contexts = batch.contexts()
    without = batch.with_contexts([context[:, :0] for context in contexts], CODES)
    shuffled = batch.with_contexts([*contexts[1:], contexts[0]], CODES)
    assert accuracy(predicted(module, batch), batch.target) >= 0.99
    # 3000 tokens: chance is 1/16, give or take 0.0044.
    assert accuracy(predicted(module, without), batch.target) < 1 / CODES + 0.02
    assert accuracy(predicted(module, shuffled), batch.target) < 1 / CODES + 0.02
    # And generation, which has its own way through the model, finds what was learned.
    with torch.inference_mode():
        written = torch.cat([
            decode_window(
                model.lm.eval(),
                context[None],
                context[None, :, :0],
                torch.zeros(1, K, FRAMES),
                GenerationConfig(temperature=0.0, guidance=1.0),
            )
            for context in contexts[:20]
        ])  # fmt: skip
    assert accuracy(written, batch.target[:20]) >= 0.97
