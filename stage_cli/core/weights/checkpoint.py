"""From files to a plan: which config, which tensor of ours from which file. Nothing is read but names and shapes.

Load a codec alone, wherever it lies: in a directory of its own, or in a model's.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from stage_cli.core.codec.codec import Codec
from stage_cli.core.codec.config import AnyCodecConfig, make_codec
from stage_cli.core.lm.config import LanguageModelConfig
from stage_cli.core.lm.transformer import LanguageModel
from stage_cli.core.model_config import MODEL_TYPE, StageConfig, read_config
from stage_cli.core.weights.adapter_config import ADAPTER_TYPE, AdapterConfig, find_base, read_adapter_config
from stage_cli.core.weights.adapters import open_adapters
from stage_cli.core.weights.formats import (
    FORMATS,
    TRANSFORMERS,
    Format,
    Plan,
    TensorSource,
    codec_config,
    codec_recipes,
    find_codec,
    find_format,
    is_codec_training_state,
    same,
)
from stage_cli.core.weights.hub import HUB_ID, fetch_model, resolve
from stage_cli.core.weights.own_format import CODEC_TYPE, read_codec_config, read_own_config, shared_codec
from stage_cli.core.weights.tensors import PickleFile, Shape, TensorFile, open_checkpoint
from stage_cli.errors import WeightsError

MODEL_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
CONFIG_FILE = "config.json"
RUN_CONFIG_FILE = "config.toml"
AUDIOCRAFT_FILE = "state_dict.bin"
AUDIOCRAFT_CODEC_FILE = "compression_state_dict.bin"


@dataclass(frozen=True)
class LanguageModelPart:
    """A language model found in a file.

    Attributes:
        config: its sizes.
        source: its tensors and the text projection's.
        form: the format of the file.
    """

    config: LanguageModelConfig
    source: TensorSource
    form: Format


@dataclass(frozen=True)
class CodecPart:
    """A codec found in a file: its sizes, and its tensors' recipes."""

    config: AnyCodecConfig
    source: TensorSource


def plan_directory(directory: Path, *, offline: bool = False) -> Plan:
    """Plan a model from a directory: ours, an adapter's, or one laid out like `facebook/musicgen-*`.

    Args:
        directory: the model's.
        offline: use only files that are already on this machine (some of audiocraft's models name a published codec).

    Raises:
        WeightsError: nothing in it makes a whole model.
        HubError: the codec that it names cannot be fetched.
    """
    if (directory / CONFIG_FILE).exists():
        values = read_config(directory / CONFIG_FILE)
        if values.get("model_type") == MODEL_TYPE:
            return _plan_own(directory, values)
        if values.get("model_type") == "musicgen":
            return _plan_transformers(directory, values)
        if values.get("model_type") == ADAPTER_TYPE:
            return plan_adapter(directory, AdapterConfig.from_dict(values), offline=offline)
    if (directory / AUDIOCRAFT_FILE).exists():
        return _plan_audiocraft(directory, offline=offline)
    if (directory / RUN_CONFIG_FILE).exists():
        raise WeightsError(
            f"The training run {directory} has not made a model yet",
            why="it writes one at each validation that is the best so far, and at its end",
            next_step="go on with it: stage train --config … --resume",
        )
    raise WeightsError(
        f"{directory} is not a model that stage-cli can read",
        why=f"it has neither a {CONFIG_FILE} of a STAGE or MusicGen model nor an audiocraft {AUDIOCRAFT_FILE}",
        next_step="turn a checkpoint file into a model with: stage models import FILE --stem drums",
    )


def plan_adapter(directory: Path, config: AdapterConfig, *, offline: bool = False) -> Plan:
    """Plan the model that an adapter makes of its base.

    Args:
        directory: the adapter's.
        config: the adapter's.
        offline: use only files that are already on this machine.

    Raises:
        WeightsError: the adapter is damaged, its base is not there, or it was trained on another one.
        HubError: its base cannot be fetched.
    """
    stack = open_adapters(directory, config, offline=offline)
    plan = plan_directory(stack[-1].base, offline=offline)
    for adapter in reversed(stack):
        plan = adapter.applied_to(plan, own_shapes(adapter.config.model))
    return plan


def weights_file(directory: Path) -> Path:
    """Find the safetensors file of a directory, or the index of its shards."""
    single, index = directory / MODEL_FILE, directory / INDEX_FILE
    return index if index.exists() and not single.exists() else single


def find_language_model(path: Path) -> LanguageModelPart:
    """Find the language model of a published checkpoint file.

    Raises:
        WeightsError: the file cannot be read, or holds no language model of a known format.
    """
    file = open_checkpoint(path)
    form = find_format(file.shapes)
    if form is None:
        raise WeightsError(
            f"{path} holds no language model of a known format",
            why=f"known are: {', '.join(form.name for form in FORMATS)}",
        )
    config = form.config(file.shapes, _heads(path, file, form))
    pattern = re.compile(form.ignorable)

    def ignorable(name: str) -> bool:
        # The codec's tensors are looked for, and checked, on their own.
        in_codec = bool(form.codec_prefix) and name.startswith(form.codec_prefix)
        return in_codec or pattern.fullmatch(name) is not None

    return LanguageModelPart(config, TensorSource(file, form.recipes(config), ignorable), form)


def find_codec_part(file: TensorFile, prefix: str, *, sample_rate: int = 32000) -> CodecPart | None:
    """Find a codec under a prefix of a file's names, or None."""
    style = find_codec(file.shapes, prefix)
    if style is None:
        return None
    config = codec_config(file.shapes, prefix, style, sample_rate=sample_rate)

    def ignorable(name: str) -> bool:
        return not name.startswith(prefix) or is_codec_training_state(name)

    return CodecPart(config, TensorSource(file, codec_recipes(config, style, file.shapes, prefix), ignorable))


def codec_of_directory(directory: Path, *, offline: bool = False) -> CodecPart | None:
    """Find the codec of a local directory: a MusicGen, an EnCodec (`facebook/encodec_32khz`), audiocraft's, or ours.

    Raises:
        WeightsError: its files cannot be read.
        HubError: audiocraft's names a published codec, which cannot be fetched.
    """
    if (adapter := read_adapter_config(directory)) is not None:
        return codec_of_directory(find_base(adapter, directory, offline=offline), offline=offline)
    if weights_file(directory).exists():
        return _safetensors_codec(directory)
    return _audiocraft_codec(directory, offline=offline)


def _safetensors_codec(directory: Path) -> CodecPart | None:
    values = read_config(directory / CONFIG_FILE) if (directory / CONFIG_FILE).exists() else {}
    if values.get("model_type") == MODEL_TYPE and (shared := shared_codec(directory, values)) is not None:
        return _shared_codec_part(shared)
    file = open_checkpoint(weights_file(directory))
    if values.get("model_type") == CODEC_TYPE:
        config = read_codec_config(values)
        return CodecPart(
            config, TensorSource(file, {name: same(name) for name in codec_shapes(config)}, lambda _: False)
        )
    if values.get("model_type") == MODEL_TYPE:
        plan = _plan_own(directory, values)
        recipes = {name: recipe for name, recipe in plan.sources[0].recipes.items() if name.startswith("codec.")}
        return CodecPart(plan.config.codec, TensorSource(file, recipes, lambda name: not name.startswith("codec.")))
    rate = (_section(values, "audio_encoder") or values).get("sampling_rate", 32000)
    prefix = TRANSFORMERS.codec_prefix if find_codec(file.shapes, TRANSFORMERS.codec_prefix) else ""
    return find_codec_part(file, prefix, sample_rate=rate)


def _shared_codec_part(directory: Path) -> CodecPart:
    """The codec of a directory of its own, which models beside it share."""
    part = _safetensors_codec(directory) if weights_file(directory).exists() else None
    if part is None:
        raise WeightsError(f"{directory} holds no codec, and a model beside it needs one")
    return part


def _audiocraft_codec(directory: Path, *, offline: bool) -> CodecPart | None:
    """Find audiocraft's codec: in its file, or the published one that the file names."""
    path = directory / AUDIOCRAFT_CODEC_FILE
    if not path.exists():
        return None
    file = open_checkpoint(path)
    name = file.extras.get("pretrained") if isinstance(file, PickleFile) else None
    if name is None:
        return find_codec_part(file, "")
    if HUB_ID.fullmatch(str(name)) is None:
        raise WeightsError(f"{path} names a codec that is not on the Hub", why=str(name))
    # Always the Hub's, never a folder of that name: the file may come from anybody.
    published = fetch_model(str(name), offline=offline)
    return _safetensors_codec(published) if weights_file(published).exists() else None


def codec_shapes(config: AnyCodecConfig) -> dict[str, Shape]:
    """List the tensors of a codec of ours: names, `codec.…`, and shapes."""
    with torch.device("meta"):
        state = make_codec(config).state_dict()
    return {f"codec.{name}": tuple(tensor.shape) for name, tensor in state.items()}


def own_shapes(config: StageConfig) -> dict[str, Shape]:
    """List the tensors of a model in our own format: names and shapes of `StageModel.state_dict()`."""
    with torch.device("meta"):
        parts = {"codec": make_codec(config.codec), "lm": LanguageModel(config.lm)}
        if config.lm.text_dimension is not None:
            parts["text_projection"] = nn.Linear(config.lm.text_dimension, config.lm.dimension)
    return {
        f"{part}.{name}": tuple(tensor.shape)
        for part, module in parts.items()
        for name, tensor in module.state_dict().items()
    }


def _plan_own(directory: Path, values: Mapping[str, Any]) -> Plan:
    config = read_own_config(directory, values)
    shared = shared_codec(directory, values)
    file = open_checkpoint(weights_file(directory))
    shapes = own_shapes(config)
    names = [name for name in shapes if shared is None or not name.startswith("codec.")]
    own = TensorSource(file, {name: same(name) for name in names}, lambda _: False)
    linears = (name for name, shape in shapes.items() if name.startswith("lm.") and len(shape) == 2)
    sources = (own,) if shared is None else (own, _shared_codec_part(shared).source)
    return Plan(config, sources, all(map(file.rounded, linears)))


def _plan_transformers(directory: Path, values: Mapping[str, Any]) -> Plan:
    part = find_language_model(weights_file(directory))
    rate = _section(values, "audio_encoder").get("sampling_rate", 32000)
    codec = find_codec_part(part.source.file, part.form.codec_prefix, sample_rate=rate)
    if codec is None:
        raise WeightsError(f"{directory} has no codec (audio_encoder.*) beside its language model")
    # The text encoder lies in the same checkpoint.
    return Plan(plain_config(part, codec, text_encoder=".", base=directory.name), (part.source, codec.source))


def _plan_audiocraft(directory: Path, *, offline: bool) -> Plan:
    part = find_language_model(directory / AUDIOCRAFT_FILE)
    codec = _audiocraft_codec(directory, offline=offline)
    if codec is None:
        raise WeightsError(
            f"{directory} has no {AUDIOCRAFT_CODEC_FILE} with a codec beside its {AUDIOCRAFT_FILE}",
            next_step="import it with a codec: stage models import … --base facebook/musicgen-small",
        )
    return Plan(plain_config(part, codec, base=directory.name), (part.source, codec.source))


def plain_config(part: LanguageModelPart, codec: CodecPart, **details: Any) -> StageConfig:
    """Make the config of a model that was read from published weights, whose licence their authors state."""
    details.setdefault("licence", "unknown" if part.config.separator else "CC-BY-NC-4.0 (MusicGen)")
    return StageConfig(codec=codec.config, lm=part.config, **details)


def _heads(path: Path, file: TensorFile, form: Format) -> int | None:
    """Attention heads, where something beside the tensors says how many: no shape does."""
    if isinstance(file, PickleFile):
        settings = str(file.extras.get("xp.cfg", ""))
        match = re.search(r"^transformer_lm:\n(?:[ \t].*\n)*?[ \t]+num_heads: (\d+)", settings, re.MULTILINE)
        return int(match[1]) if match else None
    config = path.parent / CONFIG_FILE
    if form is TRANSFORMERS and config.exists():
        heads = _section(read_config(config), "decoder").get("num_attention_heads")
        return heads if isinstance(heads, int) else None
    return None


def _section(values: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """One part's settings in a MusicGen's config; empty if they are not there."""
    section = values.get(name, {})
    if not isinstance(section, Mapping):
        raise WeightsError(f"The {name} of the model's {CONFIG_FILE} is not a JSON object")
    return section


def load_codec(name: str, *, device: str = "cpu", offline: bool = False) -> Codec:
    """Load the codec of a directory or Hub repository: a model of ours, a MusicGen, or an EnCodec on its own.

    Raises:
        UsageError: no such name.
        HubError: it cannot be fetched.
        WeightsError: it holds no codec, or a broken one.
    """
    directory = resolve(name, offline=offline)
    part = codec_of_directory(directory, offline=offline)
    if part is None:
        raise WeightsError(f"{directory} holds no codec", next_step="name a model, or facebook/encodec_32khz")
    codec = make_codec(part.config)
    expected = codec.state_dict()
    part.source.check({f"codec.{name}": tuple(tensor.shape) for name, tensor in expected.items()})
    codec.load_state_dict(
        {name.removeprefix("codec."): tensor.float().clone() for name, tensor in part.source.tensors()}
    )
    return codec.to(device).eval()
