"""STAGE's language model wired from x-transformers 1.26.0, as docs/dev/model.md says: an independent reference.

Nothing of `stage_cli` is imported here. Delay pattern, masks and positions are written from the page's words, token by
token, so that a mistake in our vectorised code cannot repeat itself here.
"""

from __future__ import annotations

import math
import warnings
from typing import Any

import torch
from torch import Tensor, nn

with warnings.catch_warnings():
    warnings.simplefilter("ignore", FutureWarning)  # it imports torch.cuda.amp.autocast
    from x_transformers import Decoder, TransformerWrapper

K, CODES, WIDTH, HEADS, LAYERS, TEXT_WIDTH = 4, 32, 128, 2, 2, 24
PAD, SEPARATOR = CODES, CODES + 1


class SummedEmbeddings(nn.Module):
    """`[B, K, S]` tokens → `[B, S, D]`: K embeddings summed; the pad's is a frozen zero vector."""

    def __init__(self) -> None:
        super().__init__()
        self.emb = nn.ModuleList(nn.Embedding(CODES + 2, WIDTH, padding_idx=PAD) for _ in range(K))

    def forward(self, tokens: Tensor) -> Tensor:
        total = torch.zeros(())
        for k, table in enumerate(self.emb):
            total = total + table(tokens[:, k])
        return total


class SinusoidalPositions(nn.Module):
    """`[cos | sin]`, counted from the first attended step of each row; no parameters."""

    def forward(self, tokens: Tensor, pos: Tensor, seq_start_pos: Tensor | None = None) -> Tensor:
        half = WIDTH // 2
        rows = []
        for row in pos.tolist():
            for position in row:
                angles = [position / 10000 ** (i / (half - 1)) for i in range(half)]
                rows.append([math.cos(a) for a in angles] + [math.sin(a) for a in angles])
        return torch.tensor(rows, dtype=torch.float32).view(*pos.shape, WIDTH)


class Heads(nn.Module):
    """`[B, S, D]` → `[B, K, S, codes]`."""

    def __init__(self) -> None:
        super().__init__()
        self.linears = nn.ModuleList(nn.Linear(WIDTH, CODES, bias=False) for _ in range(K))

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([linear(x) for linear in self.linears], dim=1)


class StageDecoder(TransformerWrapper):
    """x-transformers' wrapper with the three modules replaced; its forward takes tokens `[B, K, S]`."""

    def __init__(self) -> None:
        layers = Decoder(
            dim=WIDTH,
            depth=LAYERS,
            heads=HEADS,
            attn_dim_head=64,
            attn_flash=True,
            ff_no_bias=True,
            cross_attend=True,
        )
        super().__init__(num_tokens=CODES + 2, max_seq_len=0, attn_layers=layers)
        self.token_emb = SummedEmbeddings()
        self.pos_emb = SinusoidalPositions()
        self.to_logits = Heads()


class StageReference(nn.Module):
    """The decoder and the text projection, with the names that STAGE's checkpoints give them."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.lm: Any = nn.Module()
        self.lm.decoder = StageDecoder()
        self.condition_provider: Any = nn.Module()
        self.condition_provider.embedders = nn.ModuleDict({"description": nn.Module()})
        self.condition_provider.embedders["description"].output_proj = nn.Linear(TEXT_WIDTH, WIDTH)
        generator = torch.Generator().manual_seed(seed)
        for name, tensor in self.named_parameters():
            noise = torch.randn(tensor.shape, generator=generator)
            if (".0.0.weight" in name and tensor.dim() == 1) or "norm.weight" in name:
                tensor.data.copy_(1 + 0.2 * noise)
            else:
                tensor.data.copy_(noise / (tensor[0].numel() if tensor.dim() > 1 else 25) ** 0.5)
        tables: Any = self.lm.decoder.token_emb.emb
        for table in tables:
            table.weight.data[PAD] = 0
        self.eval()

    @torch.inference_mode()
    def logits(self, sequence: Sequence, vectors: Tensor | None, text_mask: Tensor | None) -> Tensor:
        """Logits `[B, K, S, codes]`; without a description the text is one vector of zeros."""
        B = sequence.tokens.shape[0]
        text = torch.zeros(B, 1, WIDTH)
        if vectors is not None and text_mask is not None:
            text = self.condition_provider.embedders["description"].output_proj(vectors) * text_mask[..., None]
        return self.lm.decoder(sequence.tokens, pos=sequence.positions, mask=sequence.attended, context=text)


class Sequence:
    """`[context | separator | target]`, delayed, with mask and positions, one token at a time.

    Args:
        contexts: for each row its context's frames, each K codes; left-padded to the longest. None: dropped, all pads.
        targets: for each row its target's frames, all equally long.

    Attributes:
        tokens: `[B, K, S]`, S = T + K.
        attended: `[B, S]`.
        positions: `[B, S]`.
        context_frames: Tc.
    """

    def __init__(self, contexts: list[list[list[int]] | None], targets: list[list[list[int]]]) -> None:
        self.context_frames = max(len(context or []) for context in contexts)
        tokens, attended, positions = [], [], []
        for context, target in zip(contexts, targets, strict=True):
            padding = [[PAD] * K] * (self.context_frames - len(context or []))
            frames = [*padding, *(context or []), [SEPARATOR] * K, *target]
            steps = len(frames) + K
            rows = [[PAD] * steps for _ in range(K)]
            for number, frame in enumerate(frames):
                for k in range(K):
                    rows[k][1 + number + k] = frame[k]  # one step of pads, then k steps late
            row_attended = []
            for step in range(steps):
                valid = [
                    rows[k][step] != PAD or step > rows[k].index(SEPARATOR)  # a pad after its separator is valid
                    for k in range(K)
                ]
                row_attended.append(any(valid))
            first = row_attended.index(True)
            tokens.append(rows)
            attended.append(row_attended)
            positions.append([max(0, step - first) for step in range(steps)])
        self.tokens = torch.tensor(tokens)
        self.attended = torch.tensor(attended)
        self.positions = torch.tensor(positions)
