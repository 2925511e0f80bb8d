"""The card of a trained codec: the README.md beside its weights."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

from stage_cli.core.training.config import TrainingConfig, to_toml
from stage_cli.core.training.record.published import DataSummary, data_names, public_config
from stage_cli.core.training.record.whole_files import write_text


def write_codec_card(
    config: TrainingConfig, data: DataSummary, directory: Path, step: int, metrics: Mapping[str, float]
) -> None:
    """Write the card into the codec's directory.

    Args:
        config: of the run.
        data: its songs.
        directory: of the codec.
        step: that the weights are of.
        metrics: of that step's validation; may be empty.

    Raises:
        StageError: it cannot be written.
    """
    if config.codec is None:
        raise ValueError("a run without the table [codec] has no codec")
    shape = config.codec.shape
    rows = "".join(
        f"| {name.removeprefix('validation/')} | {value:.4f} |\n"
        for name, value in metrics.items()
        if math.isfinite(value)
    )
    found = f"On songs that it did not learn from:\n\n| | |\n| --- | ---: |\n{rows}\n" if rows else ""
    write_text(
        directory / "README.md",
        f"# A codec for stage-cli\n\n"
        f"{shape.sample_rate / 1000:g} kHz mono, {shape.frame_rate:g} frames a second, {shape.codebooks} codebooks of "
        f"{shape.codebook_size}. Licence: {config.codec.licence}.\n\n"
        f'A language model is trained on it with `[model] codec = "DIRECTORY"` (docs/train.md).\n\n'
        f"Trained from scratch for {step:,} steps on {data.training_songs} songs of {', '.join(data_names(config))}. "
        f"{found}The whole recipe (paths are shortened to their ends):\n\n"
        f"```toml\n{to_toml(public_config(config))}```\n",
    )
