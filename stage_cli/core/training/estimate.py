"""How much memory a run will need on each device, by formula: before anything is loaded.

Weights, gradients and optimizer states are exact. Activations are what the layers keep for the gradient, counted by
hand from `lm/transformer.py` (a test counts them in a real pass). Allocators, kernels' workspaces and the libraries
come on top: about 1 GB on CUDA.

What a run will be, before it starts: parameters, songs and items, steps, memory. Fetches nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from stage_cli.core.codec.config import AnyCodecConfig, CodecConfig
from stage_cli.core.lm.config import LanguageModelConfig
from stage_cli.core.model_config import DEFAULT_TEXT_ENCODER, StageConfig, read_config
from stage_cli.core.players.config import PlayerConfig
from stage_cli.core.training.settings import LoraConfig, RunConfig, TrainingConfig
from stage_cli.core.weights.hub import CATALOG
from stage_cli.core.weights.own_format import read_own_config
from stage_cli.errors import HubError, UsageError

if TYPE_CHECKING:
    from stage_cli.core.data.index import IndexedSong

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


# Models whose published sizes are known before they are fetched (docs/dev/model.md).
_PUBLISHED = {
    "facebook/musicgen-small": LanguageModelConfig(separator=False),
    "facebook/musicgen-medium": LanguageModelConfig(
        dimension=1536, layers=48, heads=24, feed_forward=6144, separator=False
    ),
    "facebook/musicgen-large": LanguageModelConfig(
        dimension=2048, layers=48, heads=32, feed_forward=8192, separator=False
    ),
}


@dataclass(frozen=True)
class MemoryPart:
    """One part of the model.

    Attributes:
        name: of the part.
        parameters: how many; None: not known.
        trained: how many of them learn.
    """

    name: str
    parameters: int | None
    trained: int = 0


@dataclass(frozen=True)
class DataCounts:
    """Songs and items.

    Attributes:
        training_songs: that train.
        validation_songs: that validate.
        left_out: songs that do neither, as they are twins of validation songs.
        items: an epoch.
        validation_items: of each validation.
    """

    training_songs: int
    validation_songs: int
    left_out: int
    items: int
    validation_items: int


@dataclass(frozen=True)
class Estimate:
    """What a run will be.

    Attributes:
        parts: of the model; empty where its sizes are not known.
        data: songs and items.
        steps: of the run.
        epochs: how often each item is drawn.
        audio_hours: of targets, over the run.
        memory: what each device needs, largest first; empty where the model's sizes are not known.
        notes: what is not known, and why.
    """

    parts: tuple[MemoryPart, ...]
    data: DataCounts
    steps: int
    epochs: float
    audio_hours: float
    memory: tuple[MemoryShare, ...]
    notes: tuple[str, ...]

    @property
    def trained(self) -> int:
        """Parameters that learn."""
        return sum(part.trained for part in self.parts)

    @property
    def frozen(self) -> int:
        """Known parameters that do not."""
        return sum((part.parameters or 0) - part.trained for part in self.parts)


def estimate(config: TrainingConfig, *, processes: int = 1) -> Estimate:
    """Look at a run's model and data without loading or fetching them.

    Args:
        config: the run's.
        processes: that will train together.

    Raises:
        UsageError: no such model or codec; no song can be used; a batch cannot be divided among the processes.
        WeightsError: the model's files are not what they should be, or codec and language model do not fit.
        StageError: features of songs are damaged.
    """
    config.train.accumulation(processes)
    notes: list[str] = []
    data = _count_data(config) if config.player is None else _count_stored_songs(config)
    has_model = config.codec is None and config.player is None
    model, directory = _model(config, notes) if has_model else (None, None)
    parts: tuple[MemoryPart, ...] = ()
    memory: tuple[MemoryShare, ...] = ()
    if config.codec is not None:
        parts = _count_codec(config.codec.shape)
        notes.append("the memory of a codec's training is not estimated")
    elif config.player is not None:
        parts = _count_player(config.player.sizes)
        notes.append("the memory of a player's training is not estimated")
    elif model is not None:
        config.train.loss_weights(model.lm.codebooks)
        parts, counts = _count_parameters(config, model, _count_text_encoder(model, directory, notes))
        on_cuda = trains_on_cuda(config.run)
        half = trains_in_half(config.run, on_cuda=on_cuda)
        memory = estimate_memory(config, model.lm, model.codec, counts, on_cuda=on_cuda, half=half, processes=processes)
    items = config.train.steps * config.train.batch_size
    return Estimate(
        parts=parts,
        data=data,
        steps=config.train.steps,
        epochs=items / data.items,
        audio_hours=items * config.data.chunk_seconds / 3600,
        memory=memory,
        notes=tuple(notes),
    )


def _count_data(config: TrainingConfig) -> DataCounts:
    from stage_cli.core.data.dataset import StemDataset
    from stage_cli.core.data.index import find_songs
    from stage_cli.core.data.splits import split_songs

    split = split_songs(find_songs(config.data.root), config.data)
    rate = CodecConfig.sample_rate  # of the items, which are counted and not made

    def items(songs: tuple[IndexedSong, ...], per_song: int | None = None) -> int:
        return len(StemDataset(config.data, rate, config.run.seed, songs=songs, items_per_song=per_song))

    validated = items(split.validation, config.validate.items_per_song) if split.validation else 0
    return DataCounts(
        training_songs=len(split.training),
        validation_songs=len(split.validation),
        left_out=len(split.left_out),
        items=items(split.training),
        validation_items=min(validated, config.validate.most_items),
    )


def _count_stored_songs(config: TrainingConfig) -> DataCounts:
    """Count a player's songs as they will be: those that are composed first, and those that are there."""
    from stage_cli.core.training.player_task import ITEMS_PER_SONG

    there = sum(1 for root in config.data.root for _ in Path(root).expanduser().glob("*.npz"))
    wanted = 0 if config.player is None else config.player.songs
    songs = max(there, wanted)
    held = 0 if config.data.split == "none" else round(songs * config.data.validation_fraction)
    return DataCounts(
        training_songs=songs - held,
        validation_songs=held,
        left_out=0,
        items=max(1, ITEMS_PER_SONG * (songs - held)),
        validation_items=min(held * config.validate.items_per_song, config.validate.most_items),
    )


def _count_player(sizes: PlayerConfig) -> tuple[MemoryPart, ...]:
    import torch

    from stage_cli.core.players.model import PlayerModel

    with torch.device("meta"):
        player = PlayerModel(sizes)
    counts = {name: sum(p.numel() for p in part.parameters()) for name, part in player.named_children()}
    return tuple(MemoryPart(name, count, count) for name, count in counts.items())


def _model(config: TrainingConfig, notes: list[str]) -> tuple[StageConfig | None, Path | None]:
    """Find the sizes of the model to start from, and its directory if it is here."""
    if config.model.from_scratch:
        return _from_scratch(config, notes), None
    base = config.model.base
    directory = _find("model.base", base)
    if directory is not None:
        from stage_cli.core.weights.checkpoint import plan_directory

        found = plan_directory(directory, offline=True).config
        return found, directory
    repository = next((entry.repository for entry in CATALOG if entry.name == base), base).split("@")[0]
    published = _PUBLISHED.get(repository)
    pull = f"stage models pull {base}"
    if published is None:
        notes.append(f"{base} is not on this machine, so its size is not known. Fetch it: {pull}")
        return None, None
    notes.append(f"{base} is not on this machine: the sizes are those published. `stage train` fetches it, or: {pull}")
    return StageConfig(lm=published), None


def _from_scratch(config: TrainingConfig, notes: list[str]) -> StageConfig | None:
    from stage_cli.core.weights.checkpoint import codec_of_directory

    base = None
    if config.model.lm is None:
        base = read_own_config(Path(config.model.base).parent, read_config(Path(config.model.base)))
    lm = base.lm if base is not None else config.model.lm
    directory = _find("model.codec", config.model.codec)
    if lm is None or directory is None:
        notes.append(
            f"{config.model.codec} is not on this machine, so the codec is not known. Fetch it: "
            f"stage models pull {config.model.codec}"
        )
        return None
    part = codec_of_directory(directory, offline=True)
    if part is None:
        raise UsageError(f"model.codec: {config.model.codec} holds no codec", next_step="name a model or a codec")
    encoder = config.model.text_encoder or (base.text_encoder if base is not None else DEFAULT_TEXT_ENCODER)
    return StageConfig(
        codec=part.config,
        lm=replace(lm, separator=True),
        text_encoder=None if lm.text_dimension is None else encoder,
    )


def _find(key: str, name: str) -> Path | None:
    """Find a model's directory on this machine; None if it would have to be fetched."""
    from stage_cli.core.weights.hub import resolve

    try:
        return resolve(name, offline=True)
    except HubError:
        return None
    except UsageError as error:
        raise UsageError(f"{key}: {error.what}", why=error.why, next_step=error.next_step) from None


def _count_parameters(
    config: TrainingConfig, model: StageConfig, text_encoder: int | None
) -> tuple[tuple[MemoryPart, ...], ParameterCounts]:
    from stage_cli.core.training.stem_task import is_hidden_matrix
    from stage_cli.core.weights.checkpoint import own_shapes

    shapes = own_shapes(replace(model, lm=replace(model.lm, separator=True)))
    sizes = {name: math.prod(shape) for name, shape in shapes.items()}
    total = {part: sum(sizes[name] for name in sizes if name.startswith(f"{part}.")) for part in _parts_of(sizes)}
    hidden = (name for name in sizes if name.startswith("lm.") and is_hidden_matrix(name, len(shapes[name])))
    matrices = sum(sizes[name] for name in hidden)
    learned = total["lm"] + total.get("text_projection", 0)
    parts = [MemoryPart("language model", total["lm"], total["lm"])]
    if "text_projection" in total:
        parts.append(MemoryPart("text projection", total["text_projection"], total["text_projection"]))
    trained, frozen = learned, 0
    if config.lora is not None:
        adapter = count_adapter(config.lora, shapes)
        if not model.lm.separator:  # its embedding is new: it learns too
            adapter += model.lm.codebooks * model.lm.dimension
        parts = [*(replace(part, trained=0) for part in parts), MemoryPart("adapter", adapter, adapter)]
        trained, frozen, matrices = adapter, learned, adapter
    parts.append(MemoryPart("codec", total["codec"]))
    if model.lm.text_dimension is not None:
        parts.append(MemoryPart("text encoder", text_encoder))
    return tuple(parts), ParameterCounts(trained, matrices, frozen, total["codec"], text_encoder or 0)


def _count_codec(shape: AnyCodecConfig) -> tuple[MemoryPart, ...]:
    from stage_cli.core.weights.checkpoint import codec_shapes

    sizes = {name: math.prod(tensor) for name, tensor in codec_shapes(shape).items()}
    codebooks = sizes["codec.quantizer.codebooks"]
    learned = sum(sizes.values()) - codebooks
    # Codebooks follow the latents; no gradient changes them.
    return (MemoryPart("encoder and decoder", learned, learned), MemoryPart("codebooks", codebooks))


def count_adapter(lora: LoraConfig, shapes: Mapping[str, tuple[int, ...]]) -> int:
    """Count the parameters of an adapter's matrices: rank × (width in + width out) for each one that it changes.

    Args:
        lora: rank and targets.
        shapes: of the model's tensors by name, `weights.checkpoint.own_shapes`.
    """
    targets = tuple(f".{target}.weight" for target in lora.targets)
    return sum(lora.rank * sum(shape) for name, shape in shapes.items() if name.endswith(targets))


def _parts_of(names: Mapping[str, int]) -> set[str]:
    return {name.split(".")[0] for name in names}


def _count_text_encoder(model: StageConfig, directory: Path | None, notes: list[str]) -> int | None:
    """Count the T5 encoder's parameters from its file's header, if it is here."""
    from stage_cli.core.weights.checkpoint import weights_file
    from stage_cli.core.weights.tensors import open_checkpoint

    name = model.text_encoder
    if name is None or model.lm.text_dimension is None:
        return None
    inside = directory / name if directory is not None else Path(name)
    found = inside if inside.is_dir() else _find("model.text_encoder", name)
    if found is None:
        notes.append(f"The text encoder {name} is not on this machine; its memory is not counted.")
        return None
    file = open_checkpoint(weights_file(found))
    prefix = "text_encoder." if any(key.startswith("text_encoder.") for key in file.shapes) else ""
    counted = {key: shape for key, shape in file.shapes.items() if key.startswith(f"{prefix}encoder.")}
    # The embeddings lie under one of two names, or under both.
    counted.pop(f"{prefix}encoder.embed_tokens.weight", None)
    embeddings = (f"{prefix}shared.weight", f"{prefix}encoder.embed_tokens.weight")
    table = next((file.shapes[key] for key in embeddings if key in file.shapes), (0,))
    return sum(map(math.prod, counted.values())) + math.prod(table)
