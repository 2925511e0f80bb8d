"""Prepare many songs: on several processes of one machine, or a part of them on each of several machines."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from concurrent.futures import Future, as_completed
from dataclasses import replace

from stage_cli.core.data.layouts.source import SongFolder
from stage_cli.core.data.prepare import PreparedSong, prepare_song, remove_unfinished
from stage_cli.core.data.processes import worker_pool
from stage_cli.core.data.settings import PrepareSettings


def prepare_songs(songs: Sequence[SongFolder], settings: PrepareSettings, jobs: int) -> Generator[PreparedSong]:
    """Prepare songs and yield each as it is ready, in any order; those that fail are yielded too.

    Closing the iterator early, or an exception in its consumer, stops the other processes; unfinished files are
    deleted on the way.

    Args:
        songs: to prepare.
        settings: how.
        jobs: processes, 1 or more; 1 works in this one.

    Raises:
        StageError: a package or a model that the settings need is missing, or a process was killed.
    """
    settings = _complete(settings)
    jobs = min(jobs, len(songs))
    if jobs <= 1:
        yield from (prepare_song(song, settings) for song in songs)
        return
    unfinished = {song.id: song for song in songs}
    try:
        with worker_pool(jobs) as pool:
            futures: list[Future[PreparedSong]] = [pool.submit(prepare_song, song, settings) for song in songs]
            for future in as_completed(futures):
                result = future.result()
                del unfinished[result.id]
                yield result
    finally:
        for song in unfinished.values():
            remove_unfinished(settings.folder_of(song))


def _complete(settings: PrepareSettings) -> PrepareSettings:
    """Find out now, once, whether what the settings ask for is there, not in each process for each song."""
    if settings.check:
        return settings if settings.tags is None else _with_tags(settings)
    if settings.beats == "beat-this":
        from stage_cli.core.data.features.beat_this import tracker

        tracker()
    if settings.tags is None:
        return settings
    from stage_cli.core.data.features.tags import tagger

    tagger(settings.tags)
    return _with_tags(settings)


def _with_tags(settings: PrepareSettings) -> PrepareSettings:
    from stage_cli.core.data.features.tags import fingerprint

    return replace(settings, tags_fingerprint=fingerprint(settings.tags)) if settings.tags else settings
