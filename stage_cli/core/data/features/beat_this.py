"""Beats and downbeats by the neural tracker Beat This, an optional package.

Source: Foscarin, Schlüter and Widmer, "Beat This! Accurate beat tracking without DBN postprocessing", ISMIR 2024.
"""

from __future__ import annotations

import functools
import importlib
import pickle
from pathlib import Path
from typing import Any

import numpy as np

from stage_cli.core.data.features.accents import RATE
from stage_cli.core.data.features.rhythm import rounded, sounding_range, tempo
from stage_cli.core.data.features.annotations import Rhythm
from stage_cli.errors import StageError

CHECKPOINT = "final0"
"""The published checkpoint, which is fetched once into torch's cache."""

_SHORTEST_FOR_BEAT_THIS = 2.0  # seconds; the network needs a window of audio


def track_with_beat_this(mix: np.ndarray, checkpoint: str = CHECKPOINT) -> Rhythm:
    """Find beats, tempo and bars of a mix, `[frames]` float32 at 44.1 kHz.

    The tracker tells no confidence: it is 1 where it has found beats.

    Raises:
        StageError: the package is not installed, or its weights cannot be loaded.
    """
    first, last = sounding_range(mix)
    if last - first < _SHORTEST_FOR_BEAT_THIS * RATE:
        return Rhythm(None, 0.0, (), (), None, 0.0, "beat-this")
    beats, downbeats = tracker(checkpoint)(np.asarray(mix, dtype=np.float32), RATE)
    times, starts = rounded(beats), rounded(downbeats)
    # The network may see a downbeat a frame from its beat, or one without a beat.
    on_beats = tuple(sorted({min(times, key=lambda beat, start=start: abs(beat - start)) for start in starts}))
    counts = np.diff([times.index(start) for start in on_beats]) if times else np.array([])
    return Rhythm(
        bpm=tempo(times),
        confidence=1.0 if times else 0.0,
        beats=times,
        downbeats=on_beats if times else (),
        beats_per_bar=int(np.bincount(counts).argmax()) if len(counts) else None,
        bars_confidence=1.0 if len(counts) else 0.0,
        source="beat-this",
    )


@functools.lru_cache(maxsize=1)
def tracker(checkpoint: str = CHECKPOINT) -> Any:
    """Return the tracker with its weights: a callable of (audio, Hz) that gives beats and downbeats in seconds.

    Args:
        checkpoint: name of a published one, or the path of a local one.

    Raises:
        StageError: the package is not installed, or its weights cannot be loaded.
    """
    try:
        inference = importlib.import_module("beat_this.inference")
    except ImportError as error:
        raise StageError(
            "the tracker beat-this needs the package beat-this, which cannot be imported",
            why=str(error),
            next_step='install it: pip install "stage-cli[beat-this]"; or use essentia, the default',
        ) from None
    try:
        path = _local(checkpoint, inference.CHECKPOINT_URL)
        return inference.Audio2Beats(checkpoint_path=str(path), device="cpu", dbn=False)
    except (OSError, ValueError, RuntimeError, KeyError, pickle.UnpicklingError) as error:
        raise StageError(
            f"the weights {checkpoint!r} of Beat This cannot be loaded",
            why=str(error).partition("\n")[0],
            next_step="they are fetched once: run it with a connection to the internet (see docs/data.md)",
        ) from error


def _local(checkpoint: str, url: str) -> Path:
    """Return a checkpoint's file, fetched if need be: what the package fetches itself it unpickles without limits."""
    import torch

    if Path(checkpoint).is_file():
        return Path(checkpoint)
    path = Path(torch.hub.get_dir()) / "checkpoints" / f"beat_this-{checkpoint}.ckpt"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(f"{url}/{checkpoint}.ckpt", str(path), progress=False)
    return path
