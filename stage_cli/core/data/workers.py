"""Prepare many songs: on several processes of one machine, or a part of them on each of several machines."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Generator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from multiprocessing.connection import wait

from stage_cli.core.data.layouts.source import SongFolder
from stage_cli.core.data.prepare import PreparedSong, prepare_song, remove_unfinished
from stage_cli.core.data.settings import PrepareSettings
from stage_cli.errors import StageError


def available_cores() -> int:
    """Return how many processor cores this process may use (batch systems grant fewer than there are)."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


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
    # Not forked: a copy of a process with threads (a progress bar is one) may hang.
    context = multiprocessing.get_context("spawn")
    executor = ProcessPoolExecutor(jobs, mp_context=context, initializer=_begin_worker)
    unfinished = {song.id: song for song in songs}
    try:
        futures: list[Future[PreparedSong]] = [executor.submit(prepare_song, song, settings) for song in songs]
        for future in as_completed(futures):
            result = future.result()
            del unfinished[result.id]
            yield result
    except BrokenProcessPool:
        raise StageError(
            "a process of --jobs was killed",
            why="perhaps it ran out of memory",
            next_step="run the same command again with fewer --jobs: it goes on where it stopped",
        ) from None
    except BaseException:
        # At once, not by an exception in them: one that arrives in a callback of libsndfile would be lost.
        for process in multiprocessing.active_children():
            process.terminate()
        raise
    finally:
        executor.shutdown(wait=True, cancel_futures=True)
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


def _begin_worker() -> None:
    # Ctrl-C reaches every process of a terminal: the first one decides, and terminates the others.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """Do not work on when the process that started this one is gone, whatever has killed it."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os.kill(os.getpid(), signal.SIGTERM)
