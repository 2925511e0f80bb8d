"""A player in torch, as it is trained: ears that hear the whole window, a pen that writes step by step.

Ears: log-mel frames and their rises, the beat grid, notes that are known already; convolutions to 25 steps a second,
then attention in both directions. Pen: causal attention over what was written; within a step the voices are drawn one
after the other, each seeing those before it. RMSNorm, rotary positions, no biases in attention and feed-forwards.
`generate.py` computes the same in numpy.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from stage_cli.core.players.config import GRID_CHANNELS, STROKES, TAGS, PlayerConfig

_ROTARY_BASE = 10_000.0
BEAT_OUTPUTS = 4
"""Of the ears a step: beat and downbeat of its first and its second frame."""


@dataclass
class PlayerInputs:
    """A batch as the model takes it; T steps, 2 T frames, V voices.

    Attributes:
        heard: `[B, 2T, bands]` float, levels in tens of dB.
        grid: `[B, 2T, GRID_CHANNELS]` float.
        known: `[B, T, V]` int, tokens that the ears may see; 0 elsewhere.
        is_known: `[B, T]` bool, steps of which all tokens are known.
        past: `[B, T, V]` int, tokens of the step before each step, as far as the pen may see them.
        hidden: `[B, T]` bool, steps of which `past` is hidden.
        tags: `[B, T, tags]` int.
        target: `[B, T, V]` int, tokens to write.
        weight: `[B, T]` float, share of each step in the loss.
        beats: `[B, T, BEAT_OUTPUTS]` float, 0 to 1.
        beat_weight: `[B, BEAT_OUTPUTS]` float, share of the item's beats in the loss.
    """

    heard: Tensor
    grid: Tensor
    known: Tensor
    is_known: Tensor
    past: Tensor
    hidden: Tensor
    tags: Tensor
    target: Tensor
    weight: Tensor
    beats: Tensor
    beat_weight: Tensor


class AttentionLayer(nn.Module):
    """Attention and a feed-forward with a squared ReLU, each normed first and added."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm = nn.RMSNorm(width, eps=1e-5)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.attention_out = nn.Linear(width, width, bias=False)
        self.feed_forward_norm = nn.RMSNorm(width, eps=1e-5)
        self.feed_forward_in = nn.Linear(width, 3 * width, bias=False)
        self.feed_forward_out = nn.Linear(3 * width, width, bias=False)

    def forward(self, x: Tensor, rotation: tuple[Tensor, Tensor], mask: Tensor | None) -> Tensor:
        """Take and return `[B, T, width]`; `mask` is added to the scores `[T, T]`."""
        batch, steps, width = x.shape
        qkv = self.qkv(self.attention_norm(x)).view(batch, steps, 3, self.heads, width // self.heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        query, key = rotate(query, *rotation), rotate(key, *rotation)
        scores = query @ key.transpose(-1, -2) * (width // self.heads) ** -0.5
        if mask is not None:
            scores = scores + mask
        mixed = torch.softmax(scores, dim=-1) @ value
        x = x + self.attention_out(mixed.transpose(1, 2).reshape(batch, steps, width))
        return x + self.feed_forward_out(torch.relu(self.feed_forward_in(self.feed_forward_norm(x))).square())


class DilatedConvolution(nn.Module):
    """A depthwise convolution of 5 steps and a linear map, normed first and added."""

    def __init__(self, width: int, dilation: int) -> None:
        super().__init__()
        self.dilation = dilation
        self.norm = nn.RMSNorm(width, eps=1e-5)
        self.taps = nn.Parameter(torch.zeros(5, width))
        self.bias = nn.Parameter(torch.zeros(width))
        self.out = nn.Linear(width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Take and return `[B, T, width]`; beyond both ends is silence."""
        steps, reach = x.shape[1], 2 * self.dilation
        padded = functional.pad(self.norm(x), (0, 0, reach, reach))
        mixed = self.bias + sum(
            padded[:, tap * self.dilation : tap * self.dilation + steps] * self.taps[tap] for tap in range(5)
        )
        return x + self.out(functional.silu(mixed))


class Ears(nn.Module):
    """What hears the mix, in both directions of time."""

    def __init__(self, config: PlayerConfig) -> None:
        super().__init__()
        width, bands = config.ears, config.features.bands
        self.first = nn.Conv1d(2 * bands + GRID_CHANNELS, width, 5, padding=2)
        self.halve = nn.Conv1d(width, width, 4, stride=2, padding=1)
        self.known = nn.Parameter(torch.zeros(config.voices * (STROKES + 1), width))
        self.is_known = nn.Parameter(torch.zeros(width))
        self.convolutions = nn.ModuleList([DilatedConvolution(width, 2**n) for n in range(config.convolutions)])
        self.layers = nn.ModuleList([AttentionLayer(width, config.ear_heads) for _ in range(config.ear_layers)])
        self.norm = nn.RMSNorm(width, eps=1e-5)
        self.beats = nn.Linear(width, BEAT_OUTPUTS)
        self._head = width // config.ear_heads

    def forward(self, heard: Tensor, grid: Tensor, known: Tensor, is_known: Tensor) -> Tensor:
        """Return what is heard in each step, `[B, T, width]`."""
        rises = functional.pad((heard[:, 1:] - heard[:, :-1]).clamp(min=0), (0, 0, 1, 0))
        frames = torch.cat([heard, rises, grid], dim=2).transpose(1, 2)
        x = self.halve(functional.silu(self.first(frames))).transpose(1, 2)
        x = x + is_known[:, :, None] * self.is_known
        x = add_rows(x, self.known, known)
        for convolution in self.convolutions:
            x = convolution(x)
        rotation = rotations(x.shape[1], self._head, x.device)
        for layer in self.layers:
            x = layer(x, rotation, None)
        return self.norm(x)


class Pen(nn.Module):
    """What writes, step by step."""

    def __init__(self, config: PlayerConfig) -> None:
        super().__init__()
        width, tokens = config.pen, config.voices * (STROKES + 1)
        self.config = config
        self.heard = nn.Linear(config.ears, width)
        self.past = nn.Parameter(torch.zeros(tokens, width))
        self.hidden = nn.Parameter(torch.zeros(width))
        self.tags = nn.Embedding(sum(TAGS.values()) + len(TAGS), width)
        self.layers = nn.ModuleList([AttentionLayer(width, config.pen_heads) for _ in range(config.pen_layers)])
        self.norm = nn.RMSNorm(width, eps=1e-5)
        self.stroke = nn.Linear(width, config.stroke, bias=False)
        self.struck_before = nn.Parameter(torch.zeros(tokens, config.stroke))
        self.voice = nn.Parameter(torch.zeros(config.voices, config.stroke))
        self.whether = nn.Parameter(torch.zeros(config.voices, config.stroke))
        self.whether_bias = nn.Parameter(torch.full((config.voices,), -3.0))
        self.how = nn.Parameter(torch.zeros(config.voices, config.stroke, STROKES))
        self.how_bias = nn.Parameter(torch.zeros(config.voices, STROKES))
        self._head = width // config.pen_heads

    def states(self, ears: Tensor, past: Tensor, hidden: Tensor, tags: Tensor) -> Tensor:
        """Return what each step is drawn from, `[B, T, stroke]`."""
        x = self.heard(ears) + self.tags(tags + tag_offsets(tags.device)).sum(dim=2)
        x = x + hidden[:, :, None] * self.hidden
        x = add_rows(x, self.past, past * ~hidden[:, :, None])
        steps = x.shape[1]
        mask = history_mask(steps, self.config.history, x.device)
        rotation = rotations(steps, self._head, x.device)
        for layer in self.layers:
            x = layer(x, rotation, mask)
        return self.stroke(self.norm(x))

    def whether_logits(self, states: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Return the logits of each voice being struck, `[B, T, V]`, and what they are read off, `[B, T, V, stroke]`.

        Args:
            states: of `states`.
            tokens: `[B, T, V]` of the steps themselves: a voice sees those before it.
        """
        before = torch.zeros(*tokens.shape, states.shape[2], device=states.device, dtype=states.dtype)
        before = add_rows(before.flatten(0, 2), self.struck_before, tokens.flatten(0, 1), per_voice=True)
        before = before.view(*tokens.shape, -1)
        seen = before.cumsum(dim=2) - before
        hidden = torch.relu(states[:, :, None] + self.voice + seen)
        return (hidden * self.whether).sum(dim=3) + self.whether_bias, hidden


class PlayerModel(nn.Module):
    """Ears and pen."""

    def __init__(self, config: PlayerConfig) -> None:
        super().__init__()
        self.config = config
        self.ears = Ears(config)
        self.pen = Pen(config)

    def forward(self, inputs: PlayerInputs) -> dict[str, Tensor]:
        """Return the loss and its parts: means over items of nats a step.

        Keys: loss, whether, how, beats; and "notes" (whether + how), of which the context gap is taken.
        """
        ears = self.ears(inputs.heard, inputs.grid, inputs.known, inputs.is_known)
        states = self.pen.states(ears, inputs.past, inputs.hidden, inputs.tags)
        logits, hidden = self.pen.whether_logits(states, inputs.target)
        struck = inputs.target > 0
        total = inputs.weight.sum().clamp(min=1)
        whether = functional.binary_cross_entropy_with_logits(logits, struck.float(), reduction="none").sum(dim=2)
        whether = (whether * inputs.weight).sum() / total
        how = logits.new_zeros(())
        weights = inputs.weight[:, :, None].expand_as(struck)[struck]
        places, voices, chosen = hidden[struck], struck.nonzero()[:, 2], inputs.target[struck] - 1
        for voice in range(self.config.voices):
            own = (voices == voice).nonzero()[:, 0]
            if len(own):
                scores = places[own] @ self.pen.how[voice] + self.pen.how_bias[voice]
                losses = functional.cross_entropy(scores, chosen[own], reduction="none")
                how = how + (losses * weights[own]).sum() / total
        beats = functional.binary_cross_entropy_with_logits(self.ears.beats(ears), inputs.beats, reduction="none")
        beats = (beats.mean(dim=1) * inputs.beat_weight).sum() / inputs.beat_weight.sum().clamp(min=1)
        notes = whether + how
        return {
            "loss": notes + 2 * beats,
            "notes": notes.detach(),
            "whether": whether.detach(),
            "how": how.detach(),
            "beats": beats.detach(),
        }


_DEVIATIONS = {
    "taps": 5**-0.5,
    "known": 0.05,
    "past": 0.3,
    "tags.weight": 0.1,
    "struck_before": 0.1,
    "voice": 0.3,
    "how": 0.02,
}


@torch.no_grad()
def draw_weights(module: nn.Module, seed: int) -> None:
    """Give a new player random weights: tables by their use, other matrices even within ± 1 / √inputs.

    Args:
        module: changed; biases of linear maps become zero, other vectors stay as they are.
        seed: fixes the weights; each tensor is drawn from (seed, its place among the sorted names) alone.
    """
    for place, (name, parameter) in enumerate(sorted(module.named_parameters())):
        generator = torch.Generator().manual_seed((seed * 1_000_003 + place) % 2**63)
        deviation = next((value for end, value in _DEVIATIONS.items() if f".{name}".endswith(f".{end}")), None)
        if deviation is not None:
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * deviation)
        elif name.endswith(".weight") and parameter.ndim > 1:
            even = 2 * torch.rand(parameter.shape, generator=generator) - 1
            parameter.copy_(even / parameter[0].numel() ** 0.5)
        elif name.endswith(".bias"):
            parameter.zero_()


def add_rows(x: Tensor, table: Tensor, tokens: Tensor, *, per_voice: bool = False) -> Tensor:
    """Add the rows of struck voices to their steps.

    Args:
        x: `[…, width]`: of each step, or with `per_voice` of each voice of each step, flattened.
        table: `[V · (STROKES + 1), width]`.
        tokens: `[…, V]`; 0 adds nothing.
        per_voice: `x` has a row for each voice.
    """
    voices = tokens.shape[-1]
    flat = tokens.reshape(-1)
    struck = flat.nonzero()[:, 0]
    rows = table[struck % voices * (STROKES + 1) + flat[struck]]
    target = struck if per_voice else struck // voices
    return x.reshape(-1, x.shape[-1]).index_add(0, target, rows).view(x.shape)


def rotations(steps: int, head: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return cosines and sines of the rotary positions, `[steps, head / 2]`."""
    rates = _ROTARY_BASE ** (-torch.arange(0, head, 2, device=device, dtype=torch.float32) / head)
    angles = torch.arange(steps, device=device, dtype=torch.float32)[:, None] * rates
    return angles.cos(), angles.sin()


def rotate(x: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """Rotate `[…, T, head]`: its first half with its second (https://arxiv.org/abs/2104.09864)."""
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cosines - second * sines, second * cosines + first * sines], dim=-1)


def history_mask(steps: int, history: int, device: torch.device) -> Tensor:
    """Return what is added to the pen's scores, `[steps, steps]`: −inf for what is to come and what is too old."""
    distance = torch.arange(steps, device=device)[:, None] - torch.arange(steps, device=device)
    mask = torch.zeros(steps, steps, device=device)
    return mask.masked_fill((distance < 0) | (distance >= history), float("-inf"))


def tag_offsets(device: torch.device) -> Tensor:
    """Return the row of each tag's value 0 in the table of all tags."""
    counts = torch.tensor([0, *(count + 1 for count in TAGS.values())], device=device)
    return counts.cumsum(0)[:-1]
