"""The codec inside published checkpoints: its sizes from the tensors' shapes, and the recipe of each tensor."""

from __future__ import annotations

import re
from collections.abc import Mapping

from stage_cli.core.codec.config import CodecConfig
from stage_cli.core.codec.names import IGNORABLE_SUFFIXES, PublishedTensor, Style, published_names
from stage_cli.core.weights.recipes import Recipe, folded, same, stacked
from stage_cli.core.weights.tensors import Shape
from stage_cli.errors import WeightsError

_CODEBOOK: dict[Style, str] = {
    "transformers": r"quantizer\.layers\.(\d+)\.codebook\.embed",
    "audiocraft": r"quantizer\.vq\.layers\.(\d+)\._codebook\.embed",
}


def find_codec(names: Mapping[str, Shape], prefix: str) -> Style | None:
    """Tell whether, and in which naming style, a checkpoint holds a codec under a prefix."""
    for style, codebook in _CODEBOOK.items():
        pattern = re.compile(re.escape(prefix) + codebook)
        if any(pattern.fullmatch(name) for name in names):
            return style
    return None


def codec_config(shapes: Mapping[str, Shape], prefix: str, style: Style, *, sample_rate: int = 32000) -> CodecConfig:
    """Read the codec's sizes off the shapes of its tensors.

    The sample rate and the growth of the dilation leave no trace in the shapes: they are those of the published codecs.

    Raises:
        WeightsError: the tensors are not those of an EnCodec.
    """
    ours = {name.removeprefix(prefix): shape for name, shape in shapes.items() if name.startswith(prefix)}
    encoder = _convolutions(ours, "encoder")
    decoder = _convolutions(ours, "decoder")
    direct = [shape for path, shape in encoder if "." not in path]
    blocks = [(path, shape) for path, shape in encoder if ".block." in path]
    codebooks = [shape for name, shape in ours.items() if re.fullmatch(_CODEBOOK[style], name)]
    lstm = [name for name in ours if re.search(r"encoder\.\w+\.\d+\.lstm\.weight_ih_l\d+$", name)]
    if len(direct) < 3 or len(decoder) < 3 or not codebooks:
        raise WeightsError(
            "The checkpoint's codec is not an EnCodec", why="its encoder, decoder or codebooks are missing"
        )
    downsamples = direct[1:-1]
    residual = [shape for path, shape in blocks if path.endswith(".block.1")]
    return CodecConfig(
        sample_rate=sample_rate,
        channels=direct[0][1],
        filters=direct[0][0],
        dimension=direct[-1][0],
        ratios=tuple(shape[2] // 2 for shape in reversed(downsamples)),
        kernel_size=direct[0][2],
        last_kernel_size=direct[-1][2],
        residual_kernel_size=residual[0][2] if residual else 3,
        residual_layers=len(residual) // len(downsamples),
        compress=residual[0][1] // residual[0][0] if residual else 2,
        conv_shortcut=any(".shortcut" in path for path, _ in encoder),
        lstm_layers=len(lstm),
        codebooks=len(codebooks),
        codebook_size=codebooks[0][0],
    )


def codec_recipes(
    config: CodecConfig, style: Style, names: Mapping[str, Shape], prefix: str, ours: str = "codec."
) -> dict[str, Recipe]:
    """Make the recipe of each of the codec's tensors; weight normalisation is folded where it is stored."""
    return {
        ours + name: _recipe(name, published, names, prefix)
        for name, published in published_names(config, style).items()
    }


def is_codec_training_state(name: str) -> bool:
    """Tell whether a tensor is a statistic of the codebooks' training, which inference does not need."""
    return name.endswith(IGNORABLE_SUFFIXES)


def _recipe(ours: str, published: PublishedTensor, names: Mapping[str, Shape], prefix: str) -> Recipe:
    for length, direction in published.split_names:
        if prefix + length in names and prefix + direction in names:
            return folded(prefix + length, prefix + direction)
    if ours == "quantizer.codebooks":
        return stacked(prefix + name for name in published.names)
    return same(prefix + published.names[0])


def _convolutions(shapes: Mapping[str, Shape], coder: str) -> list[tuple[str, Shape]]:
    """Weights of the convolutions in the order of the layers, as (path inside the list, shape)."""
    pattern = re.compile(
        coder + r"\.(?:layers|model)\.(\d+(?:\.block\.\d+|\.shortcut)?)(?:\.conv|\.convtr)+"
        r"\.(?:weight|weight_v|parametrizations\.weight\.original1)"
    )
    found = [(match[1], shape) for name, shape in shapes.items() if (match := pattern.fullmatch(name))]
    return sorted(found, key=lambda item: [int(number) for number in re.findall(r"\d+", item[0])])
