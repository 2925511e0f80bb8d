"""Residual vector quantization: latents to codes and back, and the training of the codebooks.

Source: EnCodec (arXiv 2210.13438, section 3.2); codebooks that follow their latents by an exponential moving
average instead of a gradient: VQ-VAE (arXiv 1711.00937, appendix A.1); revival of dead codes: Jukebox (2005.00341).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stage_cli.core.codec.config import CodecShape


@dataclass(frozen=True)
class CodebookTraining:
    """How codebooks follow the latents.

    Args:
        decay: of the moving averages, per batch.
        epsilon: Laplace smoothing of the cluster sizes, so that an empty cluster divides by no zero.
        revive_below: a code that is chosen, on the moving average, less than this share of the mean code's times
            is dead and gets replaced by a latent of the batch. 0 never replaces.
        from_data: start the codebooks from latents of the first batch; False keeps those there are.

    Raises:
        ValueError: a value is out of its range.
    """

    decay: float = 0.99
    epsilon: float = 1e-5
    revive_below: float = 0.1
    from_data: bool = True

    def __post_init__(self) -> None:
        if not 0 <= self.decay < 1:
            raise ValueError(f"decay must be at least 0 and under 1, not {self.decay}")
        if self.epsilon <= 0:
            raise ValueError(f"epsilon must be over 0, not {self.epsilon}")
        if not 0 <= self.revive_below < 1:
            raise ValueError(f"revive_below must be at least 0 and under 1, not {self.revive_below}")


@dataclass(frozen=True)
class QuantizerOutput:
    """What a training step sees.

    Shapes: quantized `[B, D, T]` (its gradient goes straight through to the latents), codes `[B, K, T]`,
    commitment_loss `[]` (mean over the codebooks), perplexity `[K]` (how many codes the batch used, in effect),
    revived `[K]` (codes replaced after this batch).
    """

    quantized: Tensor
    codes: Tensor
    commitment_loss: Tensor
    perplexity: Tensor
    revived: Tensor


class CodebookStatistics(nn.Module):
    """The moving averages behind codebooks in training; inference has none.

    Shapes: cluster_size `[K, codebook_size]` (latents a batch), vector_sum `[K, codebook_size, D]`, started `[]`.
    """

    def __init__(self, codebooks: Tensor) -> None:
        super().__init__()
        self.cluster_size = nn.Buffer(torch.zeros(codebooks.shape[:2], device=codebooks.device))
        self.vector_sum = nn.Buffer(torch.zeros_like(codebooks, dtype=torch.float32))
        self.started = nn.Buffer(torch.tensor(False, device=codebooks.device))


class ResidualVectorQuantizer(nn.Module):
    """K codebooks, each of which quantizes what the ones before it left over.

    Args:
        config: of the codec.
        apart: (codebooks, dimensions): the last codebooks are for the last dimensions alone, and the others for the
            rest; each side is quantized on its own. (0, 0) parts nothing.

    The state is one tensor, `codebooks [K, codebook_size, D]`. `start_training` adds `statistics.*` to it, which a
    checkpoint to resume from keeps and a checkpoint for use drops (`stop_training`).
    """

    statistics: CodebookStatistics | None

    def __init__(self, config: CodecShape, *, apart: tuple[int, int] = (0, 0)) -> None:
        super().__init__()
        # The first codebook of each side, and the side's dimensions.
        parting = config.dimension - apart[1]
        self._sides = {0: slice(parting), config.codebooks - apart[0]: slice(parting, None)} if any(apart) else {}
        self.codebooks = nn.Buffer(torch.zeros(config.codebooks, config.codebook_size, config.dimension))
        self.statistics = None
        self.settings = CodebookTraining()

    def encode(self, latents: Tensor) -> Tensor:
        """Return the nearest codes: `[B, D, T]` → `[B, K, T]`, int64."""
        rows = residual = _rows(latents)
        codes = []
        for k, codebook in enumerate(self.codebooks.float()):
            residual = self._left(k, rows, residual)
            indices = _nearest(residual, codebook)
            residual = residual - F.embedding(indices, codebook)
            codes.append(indices)
        return _grid(codes, latents)

    def decode(self, codes: Tensor) -> Tensor:
        """Return the sum of the codes' vectors: `[B, K, T]` → `[B, D, T]`."""
        vectors = self.codebooks.new_zeros(codes.shape[0], codes.shape[2], self.codebooks.shape[2])
        for indices, codebook in zip(codes.unbind(1), self.codebooks, strict=True):
            vectors = vectors + F.embedding(indices, codebook)
        return vectors.transpose(1, 2)

    def start_training(self, settings: CodebookTraining | None = None) -> None:
        """Let `forward` in training mode update the codebooks, with moving averages that begin at the next batch."""
        self.settings = settings or CodebookTraining()
        self.statistics = CodebookStatistics(self.codebooks)

    def stop_training(self) -> None:
        """Fix the codebooks and drop the moving averages, from the state dict too."""
        self.statistics = None

    def forward(self, latents: Tensor, *, generator: torch.Generator | None = None) -> QuantizerOutput:
        """Quantize for training, `latents [B, D, T]`; in training mode update the codebooks after their use.

        Args:
            latents: what the encoder wrote.
            generator: draws the latents that start codebooks and replace dead codes.

        Raises:
            ValueError: the codebooks are to be updated and there is no generator.
        """
        learning = self._learning(generator)
        # Distances between large vectors and their differences do not survive 16 bits.
        with torch.autocast(latents.device.type, enabled=False):
            rows = _rows(latents)
            residual, quantized = rows, torch.zeros_like(rows)
            codes, losses, perplexities, revived = [], [], [], []
            for k in range(self.codebooks.shape[0]):
                residual = self._left(k, rows, residual)
                if learning:
                    self._start(residual.detach(), k, *learning)
                codebook = self.codebooks[k].float()
                indices = _nearest(residual.detach(), codebook)
                vectors = F.embedding(indices, codebook)
                losses.append(F.mse_loss(residual, vectors))
                counts = torch.bincount(indices, minlength=codebook.shape[0]).float()
                perplexities.append(_perplexity(counts))
                if learning:
                    revived.append(self._update(residual.detach(), indices, counts, k, *learning))
                quantized = quantized + vectors
                residual = residual - vectors
                codes.append(indices)
            if learning:
                learning[0].started.fill_(True)
            straight_through = rows + (quantized - rows).detach()
        batch, width, time = latents.shape
        return QuantizerOutput(
            quantized=straight_through.reshape(batch, time, width).transpose(1, 2).to(latents.dtype),
            codes=_grid(codes, latents),
            commitment_loss=torch.stack(losses).mean(),
            perplexity=torch.stack(perplexities),
            revived=torch.stack(revived)
            if revived
            else torch.zeros(len(codes), dtype=torch.int64, device=latents.device),
        )

    def _left(self, k: int, rows: Tensor, residual: Tensor) -> Tensor:
        """Return what codebook k quantizes `[n, D]`: what is left, or with the first of a side, all of its dimensions.

        The codebooks of a side are zero in the other dimensions, and stay so.
        """
        if k not in self._sides:
            return residual
        own = torch.zeros(rows.shape[1], device=rows.device)
        own[self._sides[k]] = 1
        return rows * own

    def _learning(self, generator: torch.Generator | None) -> tuple[CodebookStatistics, torch.Generator] | None:
        """Return what an update of the codebooks needs, or None where there is to be none."""
        if self.statistics is None or not self.training:
            return None
        if generator is None:
            raise ValueError("training the codebooks needs a torch.Generator")
        return self.statistics, generator

    @torch.no_grad()
    def _start(self, rows: Tensor, k: int, statistics: CodebookStatistics, generator: torch.Generator) -> None:
        """At the first batch: let every code of codebook k begin as if chosen as often as the others."""
        if statistics.started:
            return
        size = self.codebooks.shape[1]
        if self.settings.from_data:
            self.codebooks[k] = _draw(rows, size, generator)
        statistics.cluster_size[k] = rows.shape[0] / size
        statistics.vector_sum[k] = self.codebooks[k].float() * (rows.shape[0] / size)

    @torch.no_grad()
    def _update(
        self,
        rows: Tensor,
        indices: Tensor,
        counts: Tensor,
        k: int,
        statistics: CodebookStatistics,
        generator: torch.Generator,
    ) -> Tensor:
        """Move codebook k towards its latents and replace its dead codes; return how many, `[]`."""
        settings = self.settings
        size, vector_sum = statistics.cluster_size[k], statistics.vector_sum[k]
        batch_sum = torch.zeros_like(vector_sum).index_add_(0, indices, rows)
        size.lerp_(counts, 1 - settings.decay)
        vector_sum.lerp_(batch_sum, 1 - settings.decay)
        total, mean = size.sum(), size.mean()
        smoothed = (size + settings.epsilon) / (total + len(size) * settings.epsilon) * total
        moved = vector_sum / smoothed[:, None]
        dead = size < settings.revive_below * mean
        # Drawn in every step, dead codes or not: the generator's position then depends on the step alone.
        drawn = _draw(rows, len(size), generator)
        size.copy_(torch.where(dead, mean, size))
        vector_sum.copy_(torch.where(dead[:, None], drawn * mean, vector_sum))
        self.codebooks[k] = torch.where(dead[:, None], drawn, moved)
        return dead.sum()


def _rows(latents: Tensor) -> Tensor:
    """`[B, D, T]` → `[B · T, D]`, fp32."""
    return latents.float().transpose(1, 2).reshape(-1, latents.shape[1])


def _grid(codes: list[Tensor], latents: Tensor) -> Tensor:
    """K times `[B · T]` → `[B, K, T]`."""
    return torch.stack([indices.view(latents.shape[0], latents.shape[2]) for indices in codes], dim=1)


def _nearest(rows: Tensor, codebook: Tensor) -> Tensor:
    """`[n, D]`, `[codebook_size, D]` → `[n]`, the nearest code of each row.

    The rows' own length changes no winner, only rounding: it stays, so that near ties fall as in EnCodec.
    """
    distance = rows.pow(2).sum(1, keepdim=True) - 2 * rows @ codebook.t() + codebook.pow(2).sum(1)
    return (-distance).max(dim=-1).indices


def _draw(rows: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Return `count` of the rows `[n, D]`, each at most once if there are enough."""
    available = rows.shape[0]
    if available >= count:
        chosen = torch.randperm(available, generator=generator, device=generator.device)[:count]
    else:
        chosen = torch.randint(available, (count,), generator=generator, device=generator.device)
    return rows[chosen.to(rows.device)]


def _perplexity(counts: Tensor) -> Tensor:
    share = counts / counts.sum()
    return torch.exp(-torch.xlogy(share, share).sum())
