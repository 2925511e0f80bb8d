"""A set of synthetic band songs in MoisesDB's layout (`data.json`, `<stem>/<track>.wav`), and the same in memory."""

from __future__ import annotations

import json
import shutil
import statistics
import uuid
import wave
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import as_completed
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from stage_cli.core.band.arrangements import open_arrangements
from stage_cli.core.band.composer import compose
from stage_cli.core.band.instruments import SAMPLE_RATE
from stage_cli.core.band.mixing import RenderedPart, render
from stage_cli.core.band.performances import open_drummers
from stage_cli.core.band.randomness import chance, generator
from stage_cli.core.band.score import Score
from stage_cli.core.band.settings import DemoSettings
from stage_cli.core.band.sounds import open_bank, recipe, resolve
from stage_cli.core.band.theory import PITCH_CLASSES
from stage_cli.core.files import shown
from stage_cli.core.machine import worker_pool
from stage_cli.core.music.beats import BeatGrid
from stage_cli.core.music.notes import Note
from stage_cli.errors import StageError, UsageError

DATA_FILE = "data.json"
RECIPE = "demo_data"
"""Entry of `data.json` that says what the song was made by: equal recipes, equal songs."""
_NAMESPACE = uuid.UUID("5c0e1f60-7e3b-5d0a-9a3e-2d6f1b8c4a11")
_BYTES_PER_FRAME = 4  # stereo, 16 bit
_HEADER = 44


def song_id(seed: int, index: int) -> str:
    """Return the song's id, the name of its folder."""
    return str(uuid.uuid5(_NAMESPACE, f"song {seed} {index}"))


def annotations(score: Score) -> dict[str, Any]:
    """Return what is exactly known of a song, ready for JSON. Times are seconds from its first sample.

    Keys: bpm (of the median beat interval), beats, downbeats, beats_per_bar, time_signature, swing, key (tonic,
    scale, mode; None if unknown), style, sections (kind, start, end), chords (chord, start, end), and the performance
    that the drums are from, if they are not invented.
    """
    times = [round(time, 6) for time in score.beat_times]
    intervals = [after - before for before, after in pairwise(score.beat_times)]
    bpm = 60 / statistics.median(intervals) if intervals else score.bpm
    bar = score.meter.beats_per_bar

    def seconds(beat: float) -> float:
        return round(float(np.interp(beat, range(len(times) + 1), [*times, score.duration])), 6)

    key = score.key
    known: dict[str, Any] = {
        "bpm": round(bpm, 4),
        "beats": times,
        "downbeats": times[::bar],
        "beats_per_bar": bar,
        "time_signature": score.meter.name,
        "swing": round(score.swing, 4),
        "key": None if key is None else {"tonic": PITCH_CLASSES[key.tonic], "scale": key.scale, "mode": key.mode},
        "style": score.style,
        "sections": [
            {"kind": s.kind, "start": seconds(s.first_bar * bar), "end": seconds((s.first_bar + s.bars) * bar)}
            for s in score.sections
        ],
        "chords": [
            {"chord": span.chord.name, "start": seconds(span.beat), "end": seconds(span.beat + span.beats)}
            for span in score.chords
        ],
    }
    return known | ({"drummer": score.drummer} if score.drummer else {})


def write_song(folder: Path, score: Score, tracks: Sequence[RenderedPart], recipe: dict[str, Any]) -> None:
    """Write a song's folder; one that exists is replaced.

    All is written to a hidden folder beside it, `data.json` last, which then gets its name.

    Raises:
        OSError: it cannot be written; nothing is left, and an older song keeps its place.
    """
    part, old = _unfinished(folder)
    remove_unfinished(folder)
    try:
        part.mkdir(parents=True)
        stems: dict[str, dict[str, Any]] = {}
        for number, track in enumerate(tracks):
            name = str(uuid.uuid5(_NAMESPACE, f"{folder.name} {number} {track.stem} {track.track_type}"))
            stem_id = str(uuid.uuid5(_NAMESPACE, f"{folder.name} {track.stem}"))
            stem = stems.setdefault(track.stem, {"id": stem_id, "stemName": track.stem, "tracks": []})
            stem["tracks"].append({"id": name, "trackType": track.track_type, "extension": "wav", "has_bleed": False})
            (part / track.stem).mkdir(exist_ok=True)
            _write_wav(part / track.stem / f"{name}.wav", track.audio)
        content = {
            "song": score.title,
            "artist": score.artist,
            "genre": score.genre,
            "stems": list(stems.values()),
            "annotations": annotations(score),
            RECIPE: recipe,
        }
        (part / DATA_FILE).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        if folder.exists():
            folder.rename(old)
            part.rename(folder)
            shutil.rmtree(old)
        else:
            part.rename(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def remove_unfinished(folder: Path) -> None:
    """Delete what a killed run has left of a song beside its folder."""
    for left in _unfinished(folder):
        shutil.rmtree(left, ignore_errors=True)


def _unfinished(folder: Path) -> tuple[Path, Path]:
    """Return the hidden folders of a song: what is being written, and what is being replaced."""
    return folder.with_name(f".{folder.name}.part"), folder.with_name(f".{folder.name}.old")


def read_recipe(folder: Path) -> dict[str, Any] | None:
    """Return what a song was made by; None unless it is a whole demo song."""
    try:
        content = json.loads((folder / DATA_FILE).read_text(encoding="utf-8"))
        recipe = content[RECIPE]
        frames = round(recipe["seconds"] * SAMPLE_RATE)
        size = _HEADER + frames * _BYTES_PER_FRAME
        whole = all(
            (folder / stem["stemName"] / f"{track['id']}.wav").stat().st_size == size
            for stem in content["stems"]
            for track in stem["tracks"]
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return recipe if whole else None


def _write_wav(path: Path, audio: np.ndarray) -> None:
    """Write `[2, frames]` within ±1 as 16-bit PCM, rounded to the nearest step."""
    scaled = audio * np.float32(32767)
    np.rint(scaled, out=scaled)
    left, right = np.clip(scaled, -32768, 32767, out=scaled).astype("<i2")
    samples = np.empty((audio.shape[1], 2), dtype="<i2")
    samples[:, 0], samples[:, 1] = left, right
    # The standard library's writer: it reports a full disk as the system does.
    with path.open("xb") as file, wave.open(file, "wb") as sound:
        sound.setnchannels(2)
        sound.setsampwidth(2)
        sound.setframerate(SAMPLE_RATE)
        sound.writeframes(samples.data)


@dataclass(frozen=True)
class SongReport:
    """One song of a set: its folder, what it is, and whether it was written now or had been there."""

    index: int
    path: str
    title: str
    style: str
    bpm: float
    time_signature: str
    key: str
    stems: tuple[str, ...]
    seconds: float
    written: bool


def compose_and_render(
    seed: int,
    index: int,
    seconds: float,
    *,
    sounds: str = "synth",
    soundfont: Path | None = None,
    tempo_changes: str = "some",
    drummers: Path | None = None,
    arrangements: Path | None = None,
    arrangement_share: float = 0.25,
    kits: Path | None = None,
) -> dict[str, np.ndarray]:
    """Return a song's stems by name, each `[frames, 2]` float32 at 44.1 kHz; no file is written.

    The same as the files of `stage demo-data`, but not rounded to 16 bits. Their sum is the mix, within ±1. `make_song`
    returns notes and beats with them.

    Args:
        seed: of the set.
        index: of the song in the set.
        seconds: length; a shorter one is the beginning of a longer one but for one gain over all.
        sounds: "synth", "soundfont", "mixed" or "auto".
        soundfont: file; Debian's FluidR3 if left out.
        tempo_changes: "never", "some" or "always".
        drummers: folder of drum performances.
        arrangements: folder of MIDI files, some of which are songs of the set.
        arrangement_share: of the set that are arrangements.
        kits: folder of recorded kits and instruments.

    Raises:
        UsageError: a value is out of range, or a folder holds nothing that can be used.
        StageError: the soundfont, or the library that reads it, is missing.
    """
    settings = DemoSettings(
        1, seconds, seed, sounds, soundfont, tempo_changes, drummers, arrangements, arrangement_share, kits
    )
    return make_song(settings, index).stems()


@dataclass(frozen=True, eq=False)
class BandSong:
    """A song in memory: what is played, and how it sounds.

    Attributes:
        score: parts with their notes, beats, sections, chords.
        tracks: rendered parts; the drums are several tracks. Their sum is the mix, within ±1.
    """

    score: Score
    tracks: tuple[RenderedPart, ...]

    def stems(self) -> dict[str, np.ndarray]:
        """Return the audio of each stem, `[frames, 2]` float32 at 44.1 kHz; stems without notes are left out."""
        return self._summed(lambda track: track.stem)

    def parts(self) -> dict[str, np.ndarray]:
        """Return the audio of each part by its name in the score, as `stems` does."""
        return self._summed(lambda track: track.part)

    def notes(self, stem: str) -> list[Note]:
        """Return the notes of a stem's parts, by onset; empty if the song has no such stem."""
        return sorted(
            Note(note.onset, note.duration, note.pitch, min(max(round(note.velocity * 127), 1), 127))
            for part in self.score.parts
            if part.stem == stem
            for note in part.notes
        )

    @property
    def grid(self) -> BeatGrid:
        """Beats and downbeats, exact."""
        times = self.score.beat_times
        return BeatGrid(times, times[:: self.score.meter.beats_per_bar])

    def _summed(self, name: Callable[[RenderedPart], str]) -> dict[str, np.ndarray]:
        sums: dict[str, np.ndarray] = {}
        for track in self.tracks:
            sums[name(track)] = sums[name(track)] + track.audio if name(track) in sums else track.audio
        return {key: np.ascontiguousarray(audio.T) for key, audio in sums.items()}


def make_song(settings: DemoSettings, index: int) -> BandSong:
    """Return the `index`-th song of a set, as `stage demo-data` writes it; no file is written.

    About 40 times as fast as real time. Soundfonts and folders of MIDI are opened once in a process.

    Args:
        settings: of the set; `songs` does not matter.
        index: of the song, 0 or more.

    Raises:
        UsageError: a folder or a soundfont cannot be used.
        StageError: the library that reads soundfonts is missing.
    """
    settings = resolve(settings)
    score = compose_song(settings, index)
    return BandSong(score, tuple(render(score, open_bank(settings), (settings.seed, index))))


def compose_song(settings: DemoSettings, index: int) -> Score:
    """Return what the `index`-th song of a set plays, without its sound: notes, beats, sections, chords."""
    key = (settings.seed, index)
    if settings.arrangements is not None and chance(generator(*key, "kind"), settings.arrangement_share):
        return open_arrangements(settings.arrangements).arrange(key, settings.seconds)
    drummers = None if settings.drummers is None else open_drummers(settings.drummers)
    return compose(settings.seed, index, settings.seconds, tempo_changes=settings.tempo_changes, drummers=drummers)


def write_demo_data(
    output: Path,
    settings: DemoSettings,
    *,
    jobs: int = 1,
    overwrite: bool = False,
    on_progress: Callable[[float, float], None] = lambda *_: None,
) -> Generator[SongReport]:
    """Write a set of songs under a folder and yield a report of each; songs that are there already are kept.

    Args:
        output: folder; made if it is not there.
        settings: what to write.
        jobs: processes.
        overwrite: replace songs that were made by other settings.
        on_progress: called with (seconds of audio done, seconds in all).

    Raises:
        UsageError: the folder holds something else, or songs of other settings and `overwrite` is off.
        StageError: the folder cannot be written; the soundfont, or the library that reads it, is missing.
    """
    settings = resolve(settings)
    recipes = [recipe(settings, index) for index in range(settings.songs)]
    _prepare_folder(output)
    kept, due = _plan(output, settings, recipes, overwrite=overwrite)
    total = settings.songs * settings.seconds
    done = len(kept) * settings.seconds
    on_progress(done, total)
    for index in kept:
        yield _report(output / song_id(settings.seed, index), settings, index, written=False)
    for report in _write_all(output, settings, due, jobs):
        done += settings.seconds
        on_progress(done, total)
        yield report


def _prepare_folder(output: Path) -> None:
    """Make the folder, and make sure that it is ours and can be written to."""
    if output.exists() and not output.is_dir():
        raise UsageError(f"cannot write songs to {output}", why="it is a file", next_step="name a folder")
    try:
        output.mkdir(parents=True, exist_ok=True)
        entries = [entry for entry in output.iterdir() if not entry.name.startswith(".")]
        probe = output / ".stage-demo-data.part"
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        raise StageError(
            f"cannot write to {output}", why=error.strerror or str(error), next_step="choose another folder"
        ) from error
    if entries and not any(read_recipe(entry) for entry in entries):
        raise UsageError(
            f"{output} holds other files",
            why=f"{entries[0].name} is no demo song",
            next_step="name an empty or a new folder",
        )


def _plan(
    output: Path, settings: DemoSettings, recipes: list[dict[str, Any]], *, overwrite: bool
) -> tuple[list[int], list[int]]:
    """Return the songs that are there, and those that are to be written."""
    kept, due = [], []
    for index, wanted in enumerate(recipes):
        folder = output / song_id(settings.seed, index)
        found = read_recipe(folder) if folder.exists() else None
        if found == wanted:
            kept.append(index)
            continue
        if found is not None and not overwrite:
            other = next(name for name in wanted | found if found.get(name) != wanted.get(name))
            raise UsageError(
                f"{output} holds songs of other settings",
                why=f"{other.replace('_', ' ')} is {shown(found.get(other))} there, {shown(wanted.get(other))} here",
                next_step="use `overwrite` to replace them, or another folder",
            )
        due.append(index)
    return kept, due


def _write_all(output: Path, settings: DemoSettings, due: list[int], jobs: int) -> Generator[SongReport]:
    if jobs == 1 or len(due) < 2:
        for index in due:
            yield _make_song(output, settings, index)
        return
    unfinished = set(due)
    try:
        with worker_pool(min(jobs, len(due))) as pool:
            for future in as_completed([pool.submit(_make_song, output, settings, index) for index in due]):
                report = future.result()
                unfinished.remove(report.index)
                yield report
    finally:
        for index in unfinished:
            remove_unfinished(output / song_id(settings.seed, index))


def _make_song(output: Path, settings: DemoSettings, index: int) -> SongReport:
    folder = output / song_id(settings.seed, index)
    song = make_song(settings, index)
    write_song(folder, song.score, song.tracks, recipe(settings, index))
    return _report(folder, settings, index, written=True)


def _report(folder: Path, settings: DemoSettings, index: int, *, written: bool) -> SongReport:
    content = json.loads((folder / DATA_FILE).read_text(encoding="utf-8"))
    known = content["annotations"]
    return SongReport(
        index=index,
        path=str(folder),
        title=" – ".join(name for name in (content["song"], content["artist"]) if name),
        style=known["style"],
        bpm=known["bpm"],
        time_signature=known["time_signature"],
        key=f"{known['key']['tonic']} {known['key']['mode']}" if known["key"] else "",
        stems=tuple(stem["stemName"] for stem in content["stems"]),
        seconds=settings.seconds,
        written=written,
    )


def as_dict(report: SongReport) -> dict[str, Any]:
    """Return a report ready for JSON."""
    return asdict(report)
