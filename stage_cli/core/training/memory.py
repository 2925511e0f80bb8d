"""How much memory a run will need on each device, by formula: before anything is loaded.

Weights, gradients and optimizer states are exact. Activations are what the layers keep for the gradient, counted by
hand from `lm/transformer.py` (a test counts them in a real pass). Allocators, kernels' workspaces and the libraries
come on top: about 1 GB on CUDA.
"""

from __future__ import annotations

from dataclasses import dataclass

from stage_cli.core.codec.config import CodecConfig
from stage_cli.core.codec.kinds import AnyCodecConfig
from stage_cli.core.lm.config import LanguageModelConfig
from stage_cli.core.training.config import RunConfig, TrainingConfig

_FULL, _HALF = 4, 2  # bytes a number


@dataclass(frozen=True)
class MemoryShare:
    """What one thing needs on each device.

    Attributes:
        name: of the thing.
        size: bytes.
        formula: how it was found, for people.
    """

    name: str
    size: int
    formula: str


@dataclass(frozen=True)
class ParameterCounts:
    """Numbers of parameters.

    Attributes:
        trained: that learn.
        matrices: those of them in matrices that map hidden states to hidden states, which Muon can take.
        frozen: of the language model, where an adapter is trained.
        codec: of the codec.
        text_encoder: of the text encoder; 0 if there is none, or it is not known.
    """

    trained: int
    matrices: int
    frozen: int
    codec: int
    text_encoder: int


def estimate_memory(
    config: TrainingConfig,
    lm: LanguageModelConfig,
    codec: AnyCodecConfig,
    counts: ParameterCounts,
    *,
    on_cuda: bool,
    half: bool,
    processes: int = 1,
) -> tuple[MemoryShare, ...]:
    """Estimate the memory of a training step, largest first.

    Args:
        config: the run's.
        lm: the language model's sizes.
        codec: the codec's.
        counts: parameters.
        on_cuda: whether it runs there; this decides how the codec works.
        half: whether the forward pass is in 16 bits.
        processes: that share weights, gradients and states when `run.sharding` is "fsdp".
    """
    parts = processes if config.run.sharding == "fsdp" else 1
    in_parts = f" / {parts} processes" if parts > 1 else ""
    model = counts.trained + counts.frozen
    shares = [
        MemoryShare("weights", _FULL * model // parts, f"4 bytes × {model:,}{in_parts}"),
        MemoryShare("gradients", _FULL * counts.trained // parts, f"4 bytes × {counts.trained:,}{in_parts}"),
        _optimizer(config, counts, parts, in_parts),
    ]
    if config.train.ema_decay:
        size = _FULL * counts.trained // parts
        shares.append(MemoryShare("moving average", size, f"4 bytes × {counts.trained:,}{in_parts}"))
    if half:
        size = _HALF * counts.trained
        shares.append(MemoryShare("16-bit copies of weights", size, f"2 bytes × {counts.trained:,}"))
    shares.append(_activations(config, lm, codec, half=half))
    shares.append(_logits(config, lm, codec))
    frozen = counts.codec + counts.text_encoder
    shares.append(MemoryShare("codec and text encoder", _FULL * frozen, f"4 bytes × {frozen:,}"))
    if isinstance(codec, CodecConfig):
        shares.append(_encoding(config, codec, on_cuda=on_cuda))
    return tuple(sorted(shares, key=lambda share: -share.size))


def trains_on_cuda(run: RunConfig) -> bool:
    """Whether a run's device is CUDA's."""
    if run.device == "auto":
        import torch

        return torch.cuda.is_available()
    return run.device.startswith("cuda")


def trains_in_half(run: RunConfig, *, on_cuda: bool) -> bool:
    """Whether the forward pass is in 16 bits, as training decides it, on a device that may not be here."""
    import torch

    from stage_cli.core.precision import training_precision

    device = "cuda" if on_cuda else "cpu" if run.device == "auto" else run.device
    return training_precision(run.precision, torch.device(device)) != "float32"


def steps_of(config: TrainingConfig, codec: AnyCodecConfig) -> int:
    """Return the steps of the longest sequence: context, separator and target, but the last, which predicts nothing."""
    target = codec.frames(round(config.data.chunk_seconds * codec.sample_rate))
    return _context_steps(config, codec) + target


def _context_steps(config: TrainingConfig, codec: AnyCodecConfig) -> int:
    data = config.data
    longest = data.chunk_seconds if data.uncut_probability else data.context_seconds[1]
    return codec.frames(round(longest * codec.sample_rate))


def activation_bytes(lm: LanguageModelConfig, *, checkpointing: bool, half: bool) -> int:
    """Return the bytes that the layers keep of each step of each sequence.

    Kept of each layer, in numbers a step: the inputs of its norms (D each, always fp32), the norms' outputs (D each),
    queries, keys and values (3 D; the text's are left out), the attention's output (D), the feed-forward's two inner
    ones (F each). With text one norm, query and output more. Checkpointing keeps each layer's input, and one layer.
    """
    D, F = lm.dimension, lm.feed_forward
    norms = 2 if lm.text_dimension is None else 3
    inner = norms * D + 3 * D + D + (0 if lm.text_dimension is None else 2 * D) + 2 * F
    layer = _FULL * norms * D + (_HALF if half else _FULL) * inner
    return _FULL * D * lm.layers + layer if checkpointing else layer * lm.layers


def convolution_bytes(lm: LanguageModelConfig, *, half: bool) -> int:
    """Return the bytes that the convolutions over the context keep of each step of each context.

    Kept of each, in numbers a step: its norm's input (D, fp32), and the inputs of the convolution, of both linears and
    of what lies between those (D each).
    """
    return lm.context_convolutions * lm.dimension * (_FULL + 4 * (_HALF if half else _FULL))


def _optimizer(config: TrainingConfig, counts: ParameterCounts, parts: int, in_parts: str) -> MemoryShare:
    muon = counts.matrices if config.train.optimizer == "muon" else 0
    adamw = counts.trained - muon
    size = (2 * _FULL * adamw + _FULL * muon) // parts
    formula = f"8 bytes × {adamw:,} (AdamW)" + (f" + 4 bytes × {muon:,} (Muon)" if muon else "") + in_parts
    return MemoryShare("optimizer states", size, formula)


def _activations(config: TrainingConfig, lm: LanguageModelConfig, codec: AnyCodecConfig, *, half: bool) -> MemoryShare:
    B, S = config.train.micro_batch_size, steps_of(config, codec)
    each = activation_bytes(lm, checkpointing=config.model.checkpointing, half=half)
    size, formula = B * S * each, f"{B} sequences × {S} steps × {each:,} bytes"
    if lm.context_convolutions:
        C, convolutions = _context_steps(config, codec), convolution_bytes(lm, half=half)
        size += B * C * convolutions
        formula += f" + {B} contexts × {C} steps × {convolutions:,} bytes"
    return MemoryShare("activations", size, formula)


def _logits(config: TrainingConfig, lm: LanguageModelConfig, codec: AnyCodecConfig) -> MemoryShare:
    """Logits, their logarithms of softmax, and the gradients of both, of the steps that predict the target."""
    B = config.train.micro_batch_size
    T = codec.frames(round(config.data.chunk_seconds * codec.sample_rate))
    size = 4 * _FULL * B * T * lm.codebooks * lm.codebook_size
    return MemoryShare("logits", size, f"16 bytes × {B} × {T} steps × {lm.codebooks} × {lm.codebook_size}")


def _encoding(config: TrainingConfig, codec: CodecConfig, *, on_cuda: bool) -> MemoryShare:
    """The encoder's first stage at the full sample rate, context and target in one call: its input, branch and sum."""
    from stage_cli.core.codec.codec import Codec

    whole = Codec.WHOLE_SECONDS if on_cuda else Codec.WHOLE_SECONDS_ON_CPU
    samples = round(min(config.data.chunk_seconds, whole) * codec.sample_rate)
    B = config.train.micro_batch_size
    size = 3 * _FULL * 2 * B * samples * codec.filters
    return MemoryShare("encoding", size, f"12 bytes × {2 * B} × {samples:,} samples × {codec.filters} filters")
