"""Genres and moods by the public Discogs-EffNet models, which users fetch themselves (https://essentia.upf.edu/models).

Licence of the models: CC BY-NC-SA 4.0. Source: Alonso-Jiménez, Serra and Bogdanov, "Music representation learning
based on editorial metadata from Discogs", ISMIR 2022.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stage_cli.core.audio.spectra import BANDS, mel_bands
from stage_cli.core.files import display_name
from stage_cli.errors import StageError

EMBEDDING_MODEL = "discogs-effnet-bsdynamic-1.onnx"
GENRE_MODEL = "genre_discogs400-discogs-effnet-1"
MOOD_MODEL = "mtg_jamendo_moodtheme-discogs-effnet-1"
"""Names of the files; a classifier is NAME.onnx with its class names in NAME.json."""

MOST_TAGS = 3
"""Of each kind: what a description of STAGE's training holds (docs/dev/model.md)."""

_PATCH = 128  # frames of mel bands that the network sees at once (2 s)
_PATCH_HOP = 62  # frames from one patch to the next (1 s), as in essentia's TensorflowPredictEffnetDiscogs
_BATCH = 32
_LEAST_GENRE, _LEAST_MOOD = 0.1, 0.05  # mean activations below are no tags; mood activations are small throughout


@dataclass(frozen=True)
class Tags:
    """Genres and moods of a song, the strongest first, three of each at most."""

    genres: tuple[str, ...]
    moods: tuple[str, ...]


class Tagger:
    """The models of a folder.

    Args:
        folder: holds `discogs-effnet-bsdynamic-1.onnx`, and one or both of the classifiers (.onnx and .json).

    Raises:
        StageError: onnxruntime is not installed, or a model is missing or cannot be loaded.
    """

    def __init__(self, folder: Path) -> None:
        missing = missing_files(folder)
        if missing:
            raise StageError(
                f"`tags`: {display_name(folder)} lacks {' and '.join(missing)}",
                next_step="download it from https://essentia.upf.edu/models (see docs/data.md)",
            )
        self._embed = _session(folder / EMBEDDING_MODEL)
        self._genres = _Classifier.open(folder, GENRE_MODEL)
        self._moods = _Classifier.open(folder, MOOD_MODEL)

    def __call__(self, audio: np.ndarray) -> Tags:
        """Tag a song, `[samples]` float32 at 16 kHz; less than 2 seconds have no tags."""
        bands = mel_bands(audio)
        if len(bands) < _PATCH:
            return Tags((), ())
        patches = np.lib.stride_tricks.sliding_window_view(bands, (_PATCH, BANDS))[::_PATCH_HOP, 0]
        name = self._embed.get_inputs()[0].name
        embeddings = np.concatenate([
            _run(self._embed, ["embeddings"], name, np.ascontiguousarray(patches[first : first + _BATCH]))
            for first in range(0, len(patches), _BATCH)
        ])  # fmt: skip
        return Tags(
            self._genres.strongest(embeddings, _LEAST_GENRE) if self._genres else (),
            self._moods.strongest(embeddings, _LEAST_MOOD) if self._moods else (),
        )


@dataclass(frozen=True)
class _Classifier:
    session: Any
    classes: Sequence[str]

    @classmethod
    def open(cls, folder: Path, name: str) -> _Classifier | None:
        if not (folder / f"{name}.onnx").exists():
            return None
        path = folder / f"{name}.json"
        try:
            classes = json.loads(path.read_text(encoding="utf-8"))["classes"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise StageError(
                f"`tags`: cannot read the class names in {display_name(path)}",
                why=str(error),
                next_step="download it from https://essentia.upf.edu/models (see docs/data.md)",
            ) from None
        return cls(_session(folder / f"{name}.onnx"), [_spoken(name) for name in classes])

    def strongest(self, embeddings: np.ndarray, least: float) -> tuple[str, ...]:
        """Return the classes with the highest mean activation, if it is `least` or more."""
        activations = _run(self.session, None, self.session.get_inputs()[0].name, embeddings).mean(axis=0)
        if len(activations) != len(self.classes):
            raise StageError(
                f"`tags`: a model has {len(activations)} classes, its .json names {len(self.classes)}",
                next_step="download both again",
            )
        order = np.argsort(-activations)[:MOST_TAGS]
        return tuple(dict.fromkeys(self.classes[index] for index in order if activations[index] >= least))


def missing_files(folder: Path) -> list[str]:
    """Return what a folder of models lacks, in words."""
    missing = [] if (folder / EMBEDDING_MODEL).is_file() else [EMBEDDING_MODEL]
    if not any((folder / f"{name}.onnx").is_file() for name in (GENRE_MODEL, MOOD_MODEL)):
        missing.append(f"{GENRE_MODEL}.onnx or {MOOD_MODEL}.onnx")
    return missing


def fingerprint(folder: Path) -> str:
    """Return a short hash of the models' contents: other models, other tags."""
    digest = hashlib.sha256()
    for name in (EMBEDDING_MODEL, *(f"{name}.{end}" for name in (GENRE_MODEL, MOOD_MODEL) for end in ("onnx", "json"))):
        if (folder / name).is_file():
            digest.update(name.encode() + (folder / name).read_bytes())
    return digest.hexdigest()[:16]


def require_onnxruntime() -> Any:
    """Return the module.

    Raises:
        StageError: it is not installed.
    """
    try:
        return importlib.import_module("onnxruntime")
    except ImportError as error:
        raise StageError(
            "`tags` needs onnxruntime, which cannot be imported",
            why=str(error),
            next_step='install it: pip install "stage-cli[tags]"; or leave --tags out',
        ) from None


@functools.lru_cache(maxsize=1)
def tagger(folder: Path) -> Tagger:
    """Return the tagger of a folder; a process loads it once."""
    return Tagger(folder)


def _session(path: Path) -> Any:
    onnxruntime = require_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1  # songs are prepared side by side, a process each
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own kinds have no common base of their own
        raise StageError(
            f"`tags`: cannot load {display_name(path)}", why=str(error).splitlines()[0], next_step="download it again"
        ) from None


def _run(session: Any, outputs: list[str] | None, name: str, values: np.ndarray) -> np.ndarray:
    try:
        result: np.ndarray = session.run(outputs, {name: values})[0]
    except Exception as error:  # as above
        raise StageError(
            "`tags`: a model cannot take the song",
            why=str(error).splitlines()[0],
            next_step="take the models that docs/data.md names",
        ) from None
    return result


def _spoken(name: str) -> str:
    """Return a class name as a description has it: "Rock---Indie Rock" is "Indie Rock"."""
    return name.rpartition("---")[2]
