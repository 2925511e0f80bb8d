"""Read all tracks of a song side by side, block by block, and sum them by stem.

Prepare one song: its drums mixed into one file, and what is known of it in `features.json`.

Prepare many songs: on several processes of one machine, or a part of them on each of several machines.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, as_completed
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from stage_cli.core.audio import spectra
from stage_cli.core.audio.loudness import StemLevels
from stage_cli.core.audio.reading import AudioInfo, probe, read_blocks
from stage_cli.core.audio.resample import StreamResampler
from stage_cli.core.audio.writing import AtomicAudioWriter
from stage_cli.core.data.layouts import read_song
from stage_cli.core.data.layouts.source import PREPARED_DRUMS, Song, SongFolder
from stage_cli.core.data.settings import PrepareSettings
from stage_cli.core.data.song import (
    FEATURES_FILE,
    SCHEMA_KEY,
    SongFeatures,
    StemFeatures,
    fingerprints,
    read_features,
    same_content,
    write_features,
)
from stage_cli.core.files import display_name
from stage_cli.core.machine import worker_pool
from stage_cli.core.music import default_tracker, rhythm, tags
from stage_cli.core.music.rhythm import Key, Rhythm
from stage_cli.errors import StageError

HOP_SECONDS = 0.1
"""Blocks hold a whole number of hops of this length, but for the last."""

_HOPS_PER_BLOCK = 16


class SongAudio:
    """The stems of a song as one stream: tracks summed by stem, at one rate, shorter ones padded with silence.

    Attributes:
        sample_rate: Hz, the highest of all tracks; slower tracks are resampled.
        hop: frames of 0.1 s.
        channels: of each stem: those of its tracks, mono ones on all channels; where tracks have different numbers
            of channels above one, 1.
        frames: at that rate, once the stream has been iterated.

    Raises (when it is made, or on iterating):
        AudioError: a track is missing, damaged, empty or not finite.
    """

    def __init__(self, song: Song) -> None:
        infos = {stem: [probe(track.path) for track in tracks] for stem, tracks in song.stems.items()}
        self.sample_rate = max(info.sample_rate for stem in infos.values() for info in stem)
        self.hop = round(HOP_SECONDS * self.sample_rate)
        self.channels = {stem: _common_channels(found) for stem, found in infos.items()}
        self.frames = 0
        self._infos = infos

    def __iter__(self) -> Iterator[Mapping[str, np.ndarray]]:
        """Yield, by stem, `[frames, channels]` float32; all of a block have the same number of frames."""
        size = _HOPS_PER_BLOCK * self.hop
        streams = {
            stem: [_TrackStream(info, self.sample_rate, size) for info in infos] for stem, infos in self._infos.items()
        }
        self.frames = 0
        while True:
            blocks = {stem: [stream.read() for stream in tracks] for stem, tracks in streams.items()}
            frames = max(len(block) for stem in blocks.values() for block in stem)
            if not frames:
                return
            self.frames += frames
            yield {stem: _sum(tracks, frames, self.channels[stem]) for stem, tracks in blocks.items()}
            if frames < size:
                return


def mono_sum(blocks: Sequence[np.ndarray], frames: int) -> np.ndarray:
    """Return the sum of blocks `[frames, channels]`, each the mean of its channels: `[frames]` float32."""
    total = np.zeros(frames, dtype=np.float32)
    for block in blocks:
        # Column by column: numpy's mean along rows of two takes ten times as long.
        for channel in range(block.shape[1]):
            total += block[:, channel] / np.float32(block.shape[1])
    return total


class _TrackStream:
    """One file in blocks of exactly `size` frames at the song's rate, until a shorter one, and empty ones, end it."""

    def __init__(self, info: AudioInfo, sample_rate: int, size: int) -> None:
        self._size = size
        self._channels = info.channels
        self._blocks = self._decode(info.path, info.sample_rate, sample_rate)
        self._rest = np.zeros((0, info.channels), dtype=np.float32)

    def read(self) -> np.ndarray:
        parts, frames = [self._rest] if len(self._rest) else [], len(self._rest)
        while frames < self._size and (block := next(self._blocks, None)) is not None:
            parts.append(block)
            frames += len(block)
        joined = parts[0] if len(parts) == 1 else np.concatenate(parts) if parts else self._rest
        self._rest = joined[self._size :]
        return joined[: self._size]

    def _decode(self, path: Path, source_rate: int, sample_rate: int) -> Iterator[np.ndarray]:
        if source_rate == sample_rate:
            yield from read_blocks(path, block_frames=self._size)
            return
        resampler = StreamResampler(source_rate, sample_rate, self._channels)
        for block in read_blocks(path):
            yield resampler.push(block).reshape(-1, self._channels)
        yield resampler.finish()


def _common_channels(infos: Sequence[AudioInfo]) -> int:
    most = max(info.channels for info in infos)
    # Stereo and 5.1 have no common meaning of "channel 2".
    return most if all(info.channels in (1, most) for info in infos) else 1


def _sum(blocks: Sequence[np.ndarray], frames: int, channels: int) -> np.ndarray:
    """Sum blocks of unequal lengths and channels: `[frames, channels]`."""
    first = blocks[0]
    if len(blocks) == 1 and first.shape == (frames, channels):
        return first
    total = np.zeros((frames, channels), dtype=np.float32)
    for block in blocks:
        fitting = block if block.shape[1] in (1, channels) else block.mean(axis=1, keepdims=True, dtype=np.float32)
        total[: len(block)] += fitting
    return total


DRUMS_FILE = f"{PREPARED_DRUMS}/drums.wav"

_ANALYSIS = 1  # counts up when the same song gives other features
_UNPITCHED = frozenset(("drums", "percussion"))


@dataclass(frozen=True)
class PreparedSong:
    """What has become of one song.

    Attributes:
        id: of the song.
        status: "prepared", "unchanged", "outdated" (seen by a check only) or "failed".
        features: None if it failed or is outdated.
        folder: where its features lie.
        tracks: number of tracks by stem.
        notes: what was left out, and why.
        error: why it failed, or None.
        compute_seconds: how long it took.
    """

    id: str
    status: str
    features: SongFeatures | None
    folder: Path
    tracks: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    error: StageError | None = None
    compute_seconds: float = 0.0


def prepare_song(found: SongFolder, settings: PrepareSettings) -> PreparedSong:
    """Prepare a song, unless that has been done and neither its files nor the settings have changed since.

    A song that cannot be prepared is no exception: it comes back as "failed", with the error.

    Whatever ends it early, nothing half-written is left.
    """
    began = time.perf_counter()
    folder = settings.folder_of(found)
    try:
        song = read_song(found)
        status, features = _prepare(song, folder, settings)
        tracks = {stem: len(files) for stem, files in song.stems.items()}
        return PreparedSong(song.id, status, features, folder, tracks, song.notes, None, time.perf_counter() - began)
    except StageError as error:
        failure = error
    except OSError as error:
        failure = StageError(
            f"cannot use {error.filename or folder}", why=error.strerror or str(error), next_step="check the disk"
        )
    except (RuntimeError, ValueError, MemoryError) as error:  # what essentia and torch raise; one song must not end all
        failure = StageError(
            f"{found.id} cannot be analysed",
            why=f"{type(error).__name__}: {error}".partition("\n")[0],
            next_step="leave the song out, and report it",
        )
    return PreparedSong(found.id, "failed", None, folder, error=failure, compute_seconds=time.perf_counter() - began)


def remove_unfinished(folder: Path) -> None:
    """Delete what a killed run has left half-written of the song whose features lie in a folder."""
    for pattern in (f"{PREPARED_DRUMS}/.stage-*.part", f".{FEATURES_FILE}.*.part"):
        for path in folder.glob(pattern):
            path.unlink(missing_ok=True)


def _prepare(song: Song, folder: Path, settings: PrepareSettings) -> tuple[str, SongFeatures | None]:
    before = _earlier_features(folder)
    files = _source_files(song)
    known = before.fingerprint if before else {}
    sources = fingerprints(files, known) | {"settings": f"analysis={_ANALYSIS};{settings.fingerprint}"}
    drums = {f"output:{DRUMS_FILE}": folder / DRUMS_FILE} if "drums" in song.stems else {}
    if before is not None and all(path.is_file() for path in drums.values()):
        now = sources | fingerprints(drums, known)
        stems = {stem: _stem_files(song, stem, folder) for stem in song.stems}
        if same_content(now, known) and {stem: part.files for stem, part in before.stems.items()} == stems:
            return "unchanged", before
    if settings.check:
        SongAudio(song)  # opens every file
        return "outdated", None
    remove_unfinished(folder)
    audio = SongAudio(song)
    measured = _measure(audio, song, folder if drums else None, with_tags=settings.tags is not None)
    song_rhythm, song_key = _rhythm_and_key(song, measured, settings)
    found_tags = tags.tagger(settings.tags)(measured.mix_16k) if settings.tags else tags.Tags((), ())
    features = SongFeatures(
        song=song.id,
        title=song.title,
        artist=song.artist,
        layout=song.layout,
        sample_rate=audio.sample_rate,
        frames=audio.frames,
        stems={
            stem: StemFeatures(_stem_files(song, stem, folder), round(level.active, 4), _rounded(level.loudness))
            for stem, level in measured.levels.items()
        },
        rhythm=song_rhythm,
        key=song_key,
        genres=song.genres or found_tags.genres,
        moods=found_tags.moods,
        fingerprint=sources | fingerprints(drums, {}),
    )
    folder.mkdir(parents=True, exist_ok=True)
    write_features(folder / FEATURES_FILE, features)
    return "prepared", features


@dataclass(frozen=True)
class _Measured:
    """Levels by stem, and mono mixes `[frames]`: of what has pitch and of the rest at 44.1 kHz, of all at 16 kHz."""

    levels: dict[str, StemLevels]
    harmonic: np.ndarray
    percussive: np.ndarray
    mix_16k: np.ndarray


def _measure(audio: SongAudio, song: Song, drums_folder: Path | None, *, with_tags: bool) -> _Measured:
    """Read all of the audio once; write the mixed drums on the way."""
    levels = {stem: StemLevels(audio.sample_rate, audio.channels[stem], audio.hop) for stem in song.stems}
    harmonic = _MonoTrack(audio.sample_rate, rhythm.RATE)
    percussive = _MonoTrack(audio.sample_rate, rhythm.RATE)
    tagged = _MonoTrack(audio.sample_rate, spectra.RATE) if with_tags else None
    with contextlib.ExitStack() as stack:
        writer = None
        if drums_folder is not None:
            # Floats: the sum of tracks may exceed full scale, and must not be turned down or clipped.
            writer = AtomicAudioWriter(
                drums_folder / DRUMS_FILE, audio.sample_rate, audio.channels["drums"], overwrite=True, subtype="FLOAT"
            )
            stack.enter_context(writer)
        for block in audio:
            for stem, samples in block.items():
                levels[stem].push(samples)
            if writer is not None:
                writer.write(block["drums"])
            frames = len(next(iter(block.values())))
            pitched = mono_sum([samples for stem, samples in block.items() if stem not in _UNPITCHED], frames)
            unpitched = mono_sum([samples for stem, samples in block.items() if stem in _UNPITCHED], frames)
            harmonic.push(pitched)
            percussive.push(unpitched)
            if tagged is not None:
                tagged.push(pitched + unpitched)
    empty = np.zeros(0, dtype=np.float32)
    return _Measured(levels, harmonic.finish(), percussive.finish(), tagged.finish() if tagged else empty)


class _MonoTrack:
    """A mono signal that grows block by block, at the rate that an analysis expects."""

    def __init__(self, source_rate: int, sample_rate: int) -> None:
        self._resampler = StreamResampler(source_rate, sample_rate)
        self._blocks: list[np.ndarray] = []

    def push(self, block: np.ndarray) -> None:
        self._blocks.append(self._resampler.push(block).astype(np.float32, copy=False))

    def finish(self) -> np.ndarray:
        joined = np.concatenate([*self._blocks, self._resampler.finish()[:, 0]])
        self._blocks.clear()
        return joined


def _rhythm_and_key(song: Song, measured: _Measured, settings: PrepareSettings) -> tuple[Rhythm, Key | None]:
    if settings.beats != "annotations":
        found = rhythm.track_rhythm(measured.harmonic, measured.percussive, settings.beats)
        return found, rhythm.find_key(measured.harmonic)
    noted = song.annotations
    if noted is None or not noted.beats:
        raise StageError(
            f"{song.id} has no annotated beats",
            next_step=f"use `beats` {default_tracker()}, which finds them in the audio",
        )
    return Rhythm(
        bpm=noted.bpm if noted.bpm is not None else rhythm.tempo(noted.beats),
        confidence=1.0,
        beats=noted.beats,
        downbeats=noted.downbeats,
        beats_per_bar=noted.beats_per_bar,
        bars_confidence=1.0 if noted.downbeats else 0.0,
        source="annotations",
    ), Key(*noted.key, 1.0, "annotations") if noted.key else rhythm.find_key(measured.harmonic)


def _source_files(song: Song) -> dict[str, Path]:
    paths = [*song.metadata, *(track.path for track in song.tracks)]
    return {f"source:{path.relative_to(song.folder).as_posix()}": path for path in paths}


def _stem_files(song: Song, stem: str, folder: Path) -> tuple[str, ...]:
    """Return the audio of a stem as `features.json` names it: relative in the song's folder, else absolute."""
    if stem == "drums":
        return (DRUMS_FILE,)
    if folder == song.folder:
        return tuple(track.path.relative_to(folder).as_posix() for track in song.stems[stem])
    return tuple(str(track.path.absolute()) for track in song.stems[stem])


def _earlier_features(folder: Path) -> SongFeatures | None:
    try:
        return read_features(folder / FEATURES_FILE)
    except StageError:  # none yet, damaged, or of an older schema: made anew
        _refuse_another(folder / FEATURES_FILE)
        return None


def _refuse_another(path: Path) -> None:
    """Raise a StageError if a file holds something else than what this program writes: it is not replaced."""
    if path.is_file() and path.stat().st_size:
        with path.open("rb") as file:
            if SCHEMA_KEY.encode() not in file.read(100):
                raise StageError(
                    f"{display_name(path)} is not by stage prepare-data",
                    why="it would be replaced",
                    next_step="move it away, or write elsewhere: `output` DIR",
                )


def _rounded(loudness: float | None) -> float | None:
    return None if loudness is None else round(loudness, 2)


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
    if settings.beats != "annotations":
        rhythm.load_tracker(settings.beats)
    if settings.tags is None:
        return settings
    from stage_cli.core.music.tags import tagger

    tagger(settings.tags)
    return _with_tags(settings)


def _with_tags(settings: PrepareSettings) -> PrepareSettings:
    from stage_cli.core.music.tags import fingerprint

    return replace(settings, tags_fingerprint=fingerprint(settings.tags)) if settings.tags else settings
