"""The songs that players learn from: composed, rendered, listened to part by part, and stored."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from stage_cli.core.band.demo_data import BandSong, compose_song, make_song
from stage_cli.core.band.instruments import SAMPLE_RATE
from stage_cli.core.band.randomness import chance, generator
from stage_cli.core.band.settings import DemoSettings
from stage_cli.core.players.config import FeatureSettings
from stage_cli.core.players.store import StoredPart, StoredSong, whole_log_mel, write_song


def listen_to(song: BandSong, name: str, settings: FeatureSettings) -> StoredSong:
    """Listen to each part of a rendered song.

    Args:
        song: with its notes and its audio.
        name: that it gets in the store.
        settings: of the frames.
    """
    audio, score, parts = song.parts(), song.score, []
    for part in score.parts:
        if not part.notes or part.name not in audio:
            continue
        notes = [(n.onset, n.duration, n.pitch, np.clip(round(n.velocity * 127), 1, 127)) for n in part.notes]
        level = whole_log_mel(audio[part.name].mean(axis=1), SAMPLE_RATE, settings)
        parts.append(
            StoredPart(part.name, part.stem, part.instrument, level.astype(np.float16), np.array(notes, np.float32))
        )
    grid = song.grid
    return StoredSong(
        name,
        tuple(parts),
        np.array(grid.beats, np.float64),
        np.array(grid.downbeats, np.float64),
        score.meter.beats_per_bar,
        score.swing,
        score.style,
        score.duration,
        score.drummer,
    )


def compose_store(
    folder: Path,
    settings: DemoSettings,
    features: FeatureSettings,
    *,
    invented: float = 1.0,
    on_song: Callable[[int], None] = lambda _: None,
) -> None:
    """Compose and store the songs of a set; those that are there are kept.

    Args:
        folder: made if it is not there.
        settings: of the set: how many songs, seed, seconds, sounds, drummers.
        features: what is heard of them.
        invented: share of the songs without a human drummer that are kept.
        on_song: called with the number of songs that are done.

    Raises:
        OSError: a song cannot be written.
        StageError: sounds or drummers cannot be read.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(settings.songs):
        name = f"{settings.seed}-{index:05d}"
        path = folder / f"{name}.npz"
        wanted = invented >= 1 or chance(generator(settings.seed, index, "store"), invented)
        if not path.exists() and (wanted or compose_song(settings, index).drummer):
            write_song(path, listen_to(make_song(settings, index), name, features))
        on_song(index + 1)
