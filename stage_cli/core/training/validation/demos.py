"""Demos: what the model writes for some validation songs, to be heard and seen beside what the songs have there."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

from stage_cli.core.accompaniment.track import gain_for, write_scaled
from stage_cli.core.audio.writing import AtomicAudioWriter
from stage_cli.core.data.item import Item
from stage_cli.core.generation.config import GenerationConfig
from stage_cli.core.generation.graphs import forget_recordings
from stage_cli.core.generation.song import generate_song
from stage_cli.core.training.config.sections import ValidateConfig
from stage_cli.core.training.record.demo_files import AUDIO_PARTS, demo_path
from stage_cli.core.training.task.batches import TokenBatch
from stage_cli.core.training.task.stem_task import StemTask
from stage_cli.core.training.validation.losses import evaluating, moved
from stage_cli.core.training.validation.picture import DemoPicture, draw_demo
from stage_cli.errors import StageError


class Demos:
    """Write demos of the same items again and again, from the weights of the moment.

    Args:
        task: what is trained.
        validate: how many, guidance, temperature, top-k, seed.
        items: of different songs, their contexts as long as their targets; asked for once.
    """

    def __init__(self, task: StemTask, validate: ValidateConfig, items: Callable[[], Sequence[Item]]) -> None:
        self.task = task
        self.config = GenerationConfig(
            guidance=validate.demo_guidance,
            temperature=validate.demo_temperature,
            top_k=validate.demo_top_k,
            seed=validate.seed,
        )
        self._items = items
        self._prepared: list[tuple[Item, TokenBatch]] = []

    def write(self, folder: Path, step: int, check: Callable[[], None] = lambda: None) -> tuple[Path, ...]:
        """Generate, and write the audio and the picture of each demo.

        The weights are taken as they are, in fp32 and not in the precision of the training's forward pass.

        Args:
            folder: made if it does not exist; files of these names are replaced.
            step: of the weights, for the titles.
            check: called before each frame; what it raises ends the work.

        Returns:
            The files.

        Raises:
            StageError: a song cannot be read, or a file cannot be written.
            OutOfMemoryError: torch's.
        """
        paths: list[Path] = []
        with torch.no_grad(), evaluating(self.task.module), _any_algorithm():
            for number, (item, tokens) in enumerate(self._tokens(), 1):
                generated = self._generate(tokens, len(item.target), check)
                sounds = _sounds(item, generated)
                for part in AUDIO_PARTS:
                    paths.append(demo_path(folder, number, part))
                    _write_audio(paths[-1], sounds[part], self._sample_rate)
                paths.append(demo_path(folder, number, "picture"))
                draw_demo(self._picture(item, sounds, step), paths[-1])
        forget_recordings(self.task.model.lm)  # the training needs its memory more
        return tuple(paths)

    @property
    def _sample_rate(self) -> int:
        return self.task.model.config.codec.sample_rate

    def _tokens(self) -> list[tuple[Item, TokenBatch]]:
        """Items and their tokens on the CPU, made once."""
        if not self._prepared:
            device = self.task.model.runtime.device
            prepared = []
            for item in self._items():
                batch = self.task.collate([item]).to(device)
                prepared.append((item, moved(self.task.inputs(batch, 0, drop=False), "cpu")))
            self._prepared = prepared
        return self._prepared

    def _generate(self, tokens: TokenBatch, samples: int, check: Callable[[], None]) -> np.ndarray:
        """Write the stem for one context: `[samples]` float32."""
        model = self.task.model
        tokens = moved(tokens, model.runtime.device)
        text = None
        if tokens.text is not None and tokens.text_mask is not None:
            text = model.project_text(tokens.text, tokens.text_mask)
        parts = generate_song(
            model.lm,
            tokens.context,
            self.config,
            window=model.config.window_frames,
            text=text,
            on_frames=lambda _: check(),
        )
        codes = torch.cat(list(parts), dim=2).to(model.runtime.codec_device)
        audio = model.codec.decode(codes)[0].mean(dim=0)[:samples].float().cpu().numpy()
        if not np.isfinite(audio).all():
            raise StageError("the codec returned samples that are no numbers")
        return audio

    def _picture(self, item: Item, sounds: dict[str, np.ndarray], step: int) -> DemoPicture:
        heard = f"mix of {', '.join(item.context_stems)}" if item.context_kind == "mix" else item.context_kind
        stems = f"{item.stem} · context: {heard}".replace("_", " ")
        return DemoPicture(
            title=f"{item.song} from {item.start:.1f} s · {stems} · step {step:,}",
            sample_rate=self._sample_rate,
            context=sounds["context"],
            generated=sounds["generated"],
            target=sounds["target"],
            beats=item.beats,
            downbeats=item.downbeats,
        )


def _sounds(item: Item, generated: np.ndarray) -> dict[str, np.ndarray]:
    """All parts of a demo; the mix is as loud as its parts together, which may be above full scale."""
    mix = np.zeros(max(len(item.context), len(generated)), dtype=np.float32)
    mix[: len(item.context)] += item.context
    mix[: len(generated)] += generated
    return {"context": item.context, "generated": generated, "mix": mix, "target": item.target}


def _write_audio(path: Path, samples: np.ndarray, sample_rate: int) -> None:
    """Write a FLAC file; what is too loud is turned down."""
    gain = gain_for(float(np.abs(samples).max(initial=0.0)))
    with AtomicAudioWriter(path, sample_rate, 1, "flac", overwrite=True, frames=len(samples)) as writer:
        write_scaled([samples], writer, gain)


@contextmanager
def _any_algorithm() -> Generator[None]:
    """Allow algorithms that need not give the same bits each time: of those that draw tokens, CUDA has no other."""
    if not torch.are_deterministic_algorithms_enabled():  # torch imports its compiler even to switch nothing: seconds
        yield
        return
    warns = torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(False)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(True, warn_only=warns)
