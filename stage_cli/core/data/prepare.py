"""Prepare one song: its drums mixed into one file, and what is known of it in `features.json`."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from stage_cli.core.audio import AtomicAudioWriter, StreamResampler
from stage_cli.core.audio.files import display_name
from stage_cli.core.data.features import accents, beat_this, key, mel_bands, rhythm, tags
from stage_cli.core.data.features.levels import StemLevels
from stage_cli.core.data.fingerprint import fingerprints, same_content
from stage_cli.core.data.layouts import PREPARED_DRUMS, Song, SongFolder, read_song
from stage_cli.core.data.mixing import SongAudio, mono_sum
from stage_cli.core.data.settings import PrepareSettings
from stage_cli.core.data.features.annotations import Key, Rhythm
from stage_cli.core.data.song import FEATURES_FILE, SCHEMA_KEY, SongFeatures, StemFeatures, read_features, write_features
from stage_cli.errors import StageError

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
    harmonic = _MonoTrack(audio.sample_rate, accents.RATE)
    percussive = _MonoTrack(audio.sample_rate, accents.RATE)
    tagged = _MonoTrack(audio.sample_rate, mel_bands.RATE) if with_tags else None
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
    if settings.beats == "beat-this":
        return beat_this.track_with_beat_this(measured.harmonic + measured.percussive), key.find_key(measured.harmonic)
    if settings.beats == "essentia":
        return rhythm.track_rhythm(measured.harmonic, measured.percussive), key.find_key(measured.harmonic)
    noted = song.annotations
    if noted is None or not noted.beats:
        raise StageError(
            f"{song.id} has no annotated beats", next_step="use --beats essentia, which finds them in the audio"
        )
    return Rhythm(
        bpm=noted.bpm if noted.bpm is not None else rhythm.tempo(noted.beats),
        confidence=1.0,
        beats=noted.beats,
        downbeats=noted.downbeats,
        beats_per_bar=noted.beats_per_bar,
        bars_confidence=1.0 if noted.downbeats else 0.0,
        source="annotations",
    ), Key(*noted.key, 1.0, "annotations") if noted.key else key.find_key(measured.harmonic)


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
                    next_step="move it away, or write elsewhere: --output DIR",
                )


def _rounded(loudness: float | None) -> float | None:
    return None if loudness is None else round(loudness, 2)
