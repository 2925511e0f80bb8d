"""Models as systems: each clip's context in, a stem out; and what a model's codec makes of the true stems.

A clip takes the path of `stage generate` (`core/accompany.py`): what is measured is what users get.
"""

from __future__ import annotations

import dataclasses
import hashlib
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

from stage_cli.core.accompany import AccompanySettings, accompany
from stage_cli.core.audio.chunks import resample
from stage_cli.core.codec.codec import Codec
from stage_cli.core.contexts import ArrayContext
from stage_cli.core.evaluation.clips import Clip
from stage_cli.core.evaluation.records import digest_of
from stage_cli.core.evaluation.settings import EvaluationConfig
from stage_cli.core.evaluation.systems import System, Take, true_stem
from stage_cli.core.machine import resident_peak
from stage_cli.core.model import StageModel, runtime_for
from stage_cli.core.model_config import read_config
from stage_cli.core.precision import choose_device
from stage_cli.core.weights.checkpoint import load_codec, plan_directory
from stage_cli.core.weights.hub import resolve
from stage_cli.core.weights.own_format import shared_codec
from stage_cli.errors import UsageError, WeightsError

_RESET = Path("/proc/self/clear_refs")


def begin_peak(device: torch.device) -> None:
    """Forget earlier peaks, where that is possible: on CUDA, and of processes on Linux."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    try:
        _RESET.write_text("5", encoding="ascii")
    except OSError:  # another system, or a container that hides it: the peak is the whole process's so far
        return


def peak_memory(device: torch.device) -> int | None:
    """Return bytes since `begin_peak`: what torch held on CUDA, elsewhere what this process held; None: unknown."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    return resident_peak()


_WEIGHTS = (".json", ".safetensors", ".bin")


class ModelSystem(System):
    """A model that generates stems.

    Args:
        spec: its name, as users give it.
        title: of the system.
        directory: where it is.
        config: of the evaluation.

    Attributes:
        weights: hash of its files.

    Raises:
        UsageError: the model writes another stem.
        WeightsError: its files cannot be used.
    """

    role, embedded, mixed, draws, writes = "system", True, True, True, True

    def __init__(self, spec: str, title: str, directory: Path, config: EvaluationConfig) -> None:
        self.name, self.title = f"model:{title}", title
        self.spec = spec
        self._config = config
        plan = plan_directory(directory, offline=config.offline)
        found = plan.config
        if found.stem not in (None, config.stem):
            raise UsageError(
                f"{spec} writes {found.stem}, not {config.stem}",
                next_step=f"use `stem` {found.stem}, or another `model`",
            )
        if config.descriptions and not found.takes_text:
            raise UsageError(f"{spec} takes no description", next_step="leave `descriptions` out")
        self.weights = directory_content(directory)
        self._sampling = {
            kind: config.generation_of(found.sampling_for(metronome=kind == "metronome")) for kind in config.contexts
        }
        sampling = {kind: settings.sampling for kind, settings in self._sampling.items()}
        precision = runtime_for(found, config.device, config.precision, rounded=plan.rounded).precision
        self.content = digest_of(self.weights, precision, sampling, config.descriptions)
        self.about = {
            "name": spec if resolve_is_name(spec) else Path(spec).name,
            "parameters": found.lm.parameters,
            "sample_rate": found.codec.sample_rate,
            "window_seconds": found.window_seconds,
            "licence": found.licence,
            "base": found.base,
            "precision": precision,
            **_differing(sampling),
            "content": self.weights[:16],
        }
        self._model: StageModel | None = None

    @contextmanager
    def opened(self) -> Generator[None]:
        """Hold the model in memory."""
        config = self._config
        self._model = StageModel.from_pretrained(
            self.spec, device=config.device, precision=config.precision, offline=config.offline
        )
        try:
            if config.descriptions:
                self._model.text_encoder()
            yield
        finally:
            self._model = None
            if torch.cuda.is_available():
                torch.cuda.empty_cache()

    def take(self, clip: Clip) -> Take:
        """Generate the stem, at the clip's rate.

        Raises:
            WeightsError: the model returns samples that are no numbers.
            DeviceError: out of memory.
        """
        assert self._model is not None
        model = self._model
        sampling = self._sampling[clip.plan.context_kind]
        settings = AccompanySettings(
            dataclasses.replace(sampling, seed=clip.plan.seed, variations=1),
            description=clip.description.strip() or None if self._config.descriptions else None,
        )
        begin_peak(model.runtime.device)
        began = time.perf_counter()
        (stem,) = accompany(model, ArrayContext(clip.context, clip.sample_rate), settings)
        return Take(stem.audio, stem.sample_rate, time.perf_counter() - began, peak_memory(model.runtime.device))


def _differing(sampling: Mapping[str, Mapping[str, float]]) -> dict[str, float | str]:
    """Sampling settings for each kind of context, each with both of its values where they are two."""
    first, *others = sampling.values()
    return {
        name: value if all(other[name] == value for other in others) else f"{value:g} (metronome: {others[0][name]:g})"
        for name, value in first.items()
    }


class CodecSystem(System):
    """The true stems after a model's codec: no stem that the model writes can sound better than its codec.

    Args:
        model: whose codec it is.
        config: of the evaluation.
    """

    embedded, mixed, writes = True, True, True

    def __init__(self, model: ModelSystem, config: EvaluationConfig) -> None:
        self.name, self.title = f"codec:{model.title}", f"true stems, codec of {model.title}"
        self._spec, self._config = model.spec, config
        self.content = model.weights
        self._codec: Codec | None = None

    @contextmanager
    def opened(self) -> Generator[None]:
        """Hold the codec in memory."""
        device = codec_device(self._config.device)
        self._codec = load_codec(self._spec, device=device, offline=self._config.offline)
        try:
            yield
        finally:
            self._codec = None

    def take(self, clip: Clip) -> Take:
        """Encode and decode the true stem.

        Raises:
            StageError: there is none, or the codec returns samples that are no numbers.
        """
        assert self._codec is not None
        rate = self._codec.config.sample_rate
        with torch.inference_mode():
            codes = _encode(self._codec, resample(true_stem(clip), clip.sample_rate, rate))
            audio = _decode(self._codec, codes, round(clip.seconds * rate))
        # At the clip's rate, as what models generate.
        return Take(_exactly(resample(audio, rate, clip.sample_rate), len(clip.context)), clip.sample_rate)


def model_title(spec: str, directory: Path) -> tuple[str, str]:
    """Return what a model is called in tables, and what tells it from another one of that name."""
    path = directory if Path(spec).expanduser().is_dir() else Path(spec.partition("@")[0])
    if path.name == "model" and path.parent.name:  # of a training run
        path = path.parent
    return path.name, path.parent.name


def resolve_is_name(spec: str) -> bool:
    """Whether a model was named by a name, and not by a path of this machine."""
    return not Path(spec).expanduser().exists()


def find_models(config: EvaluationConfig) -> list[tuple[str, Path]]:
    """Return each model's name and directory, fetching what is not here.

    Raises:
        UsageError: no such model.
        HubError: it cannot be fetched.
    """
    return [(spec, resolve(spec, offline=config.offline)) for spec in config.models]


def directory_content(directory: Path) -> str:
    """Return a hash of the weights and settings in a model's directory, and in that of a codec which it shares.

    Raises:
        WeightsError: a file cannot be read.
    """
    whole = hashlib.sha256()
    values = read_config(directory / "config.json") if (directory / "config.json").exists() else {}
    shared = shared_codec(directory, values)
    try:
        for path in [*sorted(directory.iterdir()), *(sorted(shared.iterdir()) if shared is not None else ())]:
            if path.suffix in _WEIGHTS and path.is_file():
                with path.open("rb") as file:
                    whole.update(path.name.encode() + hashlib.file_digest(file, "sha256").digest())
    except OSError as error:
        raise WeightsError(f"cannot read {directory}", why=error.strerror or str(error)) from None
    return whole.hexdigest()


def codec_device(device: str) -> str:
    """Return where a codec and the embeddings run: on Apple's MPS codecs return garbled audio."""
    given = choose_device(device)
    return "cpu" if given.type == "mps" else str(given)


def _encode(codec: Codec, audio: np.ndarray) -> torch.Tensor:
    weight = next(codec.parameters())
    samples = torch.from_numpy(np.ascontiguousarray(audio)).to(weight.device, weight.dtype)
    return codec.encode(samples.expand(1, codec.config.channels, -1))


def _decode(codec: Codec, codes: torch.Tensor, samples: int) -> np.ndarray:
    audio = codec.decode(codes)[0].mean(dim=0)[:samples].float().cpu().numpy()
    if not np.isfinite(audio).all():
        raise WeightsError(
            "The model's codec returned samples that are no numbers",
            why="its weights are damaged, or this device computes them wrongly",
            next_step="try `device` cpu, or fetch the model again",
        )
    return _exactly(audio, samples)


def _exactly(audio: np.ndarray, samples: int) -> np.ndarray:
    return np.pad(audio[:samples], (0, max(0, samples - len(audio))))
