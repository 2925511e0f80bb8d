"""The folder of a report: one run at a time writes it, of one kind of settings, and nothing in it is half-written.

What is kept of each clip and each output, so that a second run does only what is missing.

`items/0001.json` is a clip, with its audio as `audio/0001.context.flac` and `audio/0001.target.flac`;
`items/0001.SYSTEM.json` an output, with `audio/0001.SYSTEM.flac` and the arrays of what was heard in
`items/0001.SYSTEM.npz`. The JSON file is written last: where it is, all is. Audio is read back from its file before
anything is done with it, so that a resumed run hears the same samples as one that was never stopped. Files are mono
FLAC of 24 bit; what is above full scale is turned down, and up again on reading.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
import shutil
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from stage_cli.core.audio.reading import probe, read_blocks, to_mono
from stage_cli.core.audio.writing import AtomicAudioWriter, gain_for, write_scaled
from stage_cli.core.evaluation.clips import Clip, ClipPlan
from stage_cli.core.evaluation.music import Analysis
from stage_cli.core.evaluation.report.results import FINISHED_FILE, ITEMS_FILE, REPORT_FILE, RESULTS_FILE
from stage_cli.core.files import display_name, lock_file, shown, write_text, write_whole
from stage_cli.core.music.rhythm import Key
from stage_cli.errors import StageError, UsageError

SETTINGS_FILE = "settings.json"
AUDIO_FOLDER = "audio"
RECORDS_FOLDER = "items"
_LOCK_FILE = ".lock"
_OWN = (SETTINGS_FILE, AUDIO_FOLDER, RECORDS_FOLDER, ITEMS_FILE, REPORT_FILE, RESULTS_FILE, FINISHED_FILE)


class ReportFolder:
    """Where everything of a report lies.

    Args:
        path: of the folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.audio = path / AUDIO_FOLDER
        self.records = path / RECORDS_FOLDER

    def prepare(self, settings: Mapping[str, Any], *, overwrite: bool) -> None:
        """Make the folder ready for an evaluation; what an earlier one of the same settings has made is kept.

        Args:
            settings: that a report cannot change half-way.
            overwrite: throw away a report of other settings.

        Raises:
            UsageError: it holds something else, or a report of other settings and `overwrite` is off.
            StageError: it cannot be written.
        """
        wanted = json.loads(json.dumps(settings))
        found = self._settings()
        if found is not None and found != wanted:
            if not overwrite:
                name = next(key for key in {**wanted, **found} if found.get(key) != wanted.get(key))
                raise UsageError(
                    f"{display_name(self.path)} holds a report of other settings",
                    why=f"{name.replace('_', ' ')} is {shown(found.get(name))} there, {shown(wanted.get(name))} here",
                    next_step="use `overwrite` to throw it away, or another `out`",
                )
            self._clear()
        elif found is None and (others := self._others()):
            raise UsageError(
                f"{display_name(self.path)} holds other files",
                why=f"{others[0]} is of no report",
                next_step="name an empty or a new folder as `out`",
            )
        if found != wanted:
            write_text(self.path / SETTINGS_FILE, json.dumps(wanted, indent=1) + "\n")
        for folder in (self.audio, self.records):
            try:
                folder.mkdir(parents=True, exist_ok=True)
                for left in folder.glob(".*.part"):  # of a run that was killed
                    left.unlink()
            except OSError as error:
                raise _unwritable(folder, error) from None

    @contextmanager
    def locked(self) -> Generator[None]:
        """Keep other runs out; the folder is made, and the lock ends with this process, however that ends.

        Raises:
            UsageError: another process holds it; or the folder's name is a file's.
            StageError: the folder cannot be made.
        """
        if self.path.exists() and not self.path.is_dir():
            raise UsageError(f"`out` {display_name(self.path)} is a file", next_step="name a folder")
        existed = self.path.is_dir()
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            handle = os.open(self.path / _LOCK_FILE, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o644)
        except OSError as error:
            raise _unwritable(self.path, error) from None
        try:
            if not lock_file(handle):
                raise UsageError(
                    f"another process is writing {display_name(self.path)}",
                    next_step="wait for it, or choose another `out`",
                )
            yield
        finally:
            os.close(handle)
            if self._settings() is None:  # nothing was begun: nothing is left
                self._forget(existed=existed)

    def _forget(self, *, existed: bool) -> None:
        try:
            (self.path / _LOCK_FILE).unlink(missing_ok=True)
            if not existed:
                self.path.rmdir()
        except OSError:
            return

    def _settings(self) -> dict[str, Any] | None:
        try:
            found = json.loads((self.path / SETTINGS_FILE).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def _others(self) -> list[str]:
        return sorted(entry.name for entry in self.path.iterdir() if entry.name != _LOCK_FILE)

    def _clear(self) -> None:
        try:
            for name in _OWN:
                path = self.path / name
                if path.is_dir():
                    shutil.rmtree(path)
                else:
                    path.unlink(missing_ok=True)
        except OSError as error:
            raise _unwritable(self.path, error) from None


def digest_of(*parts: Any) -> str:
    """Return a short hash of anything that JSON can hold."""
    text = json.dumps(parts, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def _unwritable(path: Path, error: OSError) -> StageError:
    return StageError(
        f"cannot write to {display_name(path)}",
        why=error.strerror or str(error),
        next_step="free some space, or choose another `out`",
    )


ONSETS, CHROMA = "onsets", "chroma"
SMALL = (ONSETS, CHROMA, "stem_clap")
_DAMAGED = (ValueError, KeyError, TypeError, OSError, EOFError, StageError)


@dataclass(frozen=True)
class TakeRecord:
    """How an output came about.

    Attributes:
        digest: of all that decides on its samples.
        seed: None where nothing was drawn.
        gain: with which its file was written, at most 1.
        compute_seconds: of generating it; None where that was not measured.
        peak_memory: bytes; None likewise.
    """

    digest: str
    seed: int | None = None
    gain: float = 1.0
    compute_seconds: float | None = None
    peak_memory: int | None = None


@dataclass(frozen=True, eq=False)
class AnalysisRecord:
    """What was heard in an output.

    Attributes:
        digest: of all that decides on what is heard.
        analysis: beats, onsets, …
        arrays: vectors of embeddings and of COCOLA, by name.
    """

    digest: str
    analysis: Analysis
    arrays: dict[str, np.ndarray] = field(default_factory=dict)


class Records:
    """The clips and outputs in the folder of a report.

    Args:
        folder: of the report.
    """

    def __init__(self, folder: ReportFolder) -> None:
        self._folder = folder

    def audio_name(self, clip_id: str, part: str) -> str:
        """Return the path of an audio file relative to the report's folder."""
        return f"{AUDIO_FOLDER}/{clip_id}.{part}.flac"

    def keep_clip(self, clip: Clip) -> None:
        """Write a clip.

        Raises:
            StageError: it cannot be written.
        """
        parts = [clip.context] if clip.target is None else [clip.context, clip.target]
        gain = gain_for(max(float(np.abs(part).max(initial=0.0)) for part in parts))
        for name, part in zip(("context", "target"), parts, strict=False):
            self._write_audio(clip.plan.id, name, part, clip.sample_rate, gain)
        stored = {
            "digest": clip.digest,
            **asdict(clip.plan),
            "start": clip.start,
            "context_stems": clip.context_stems,
            "beats": clip.beats.tolist(),
            "downbeats": clip.downbeats.tolist(),
            "bpm": clip.bpm,
            "key": None if clip.key is None else asdict(clip.key),
            "description": clip.description,
            "has_target": clip.target is not None,
            "target_error": clip.target_error,
        }
        _write_json(self._json(clip.plan.id), stored)

    def clip(self, plan: ClipPlan, digest: str) -> Clip | None:
        """Read a clip that is kept; None where there is none of this digest, or its files are damaged."""
        try:
            stored = _read_json(self._json(plan.id))
            if stored["digest"] != digest:
                return None
            context, rate = read_audio(self._folder.path / self.audio_name(plan.id, "context"))
            target = None
            if stored["has_target"]:
                target, _ = read_audio(self._folder.path / self.audio_name(plan.id, "target"))
            return Clip(
                plan=plan,
                digest=digest,
                start=stored["start"],
                context_stems=tuple(stored["context_stems"]),
                beats=np.array(stored["beats"], dtype=np.float64),
                downbeats=np.array(stored["downbeats"], dtype=np.float64),
                bpm=stored["bpm"],
                key=None if stored["key"] is None else Key(**stored["key"]),
                description=stored["description"],
                context=context,
                target=target,
                sample_rate=rate,
                target_error=stored["target_error"],
            )
        except _DAMAGED:
            return None

    def keep_take(
        self, clip_id: str, part: str, audio: np.ndarray, sample_rate: int, take_record: TakeRecord
    ) -> TakeRecord:
        """Write an output; return how, with the gain of its file.

        Raises:
            StageError: it cannot be written.
        """
        gain = gain_for(float(np.abs(audio).max(initial=0.0)))
        self._json(clip_id, part).unlink(missing_ok=True)  # of another digest: not beside audio that it is not of
        self._write_audio(clip_id, part, audio, sample_rate, gain)
        kept = TakeRecord(
            take_record.digest, take_record.seed, gain, take_record.compute_seconds, take_record.peak_memory
        )
        _write_json(self._json(clip_id, part), {"made": asdict(kept)})
        return kept

    def keep_mix(self, clip_id: str, part: str, mix: np.ndarray, sample_rate: int) -> None:
        """Write context and output together.

        Raises:
            StageError: it cannot be written.
        """
        self._write_audio(clip_id, f"{part}.mix", mix, sample_rate, gain_for(float(np.abs(mix).max(initial=0.0))))

    def take_record(self, clip_id: str, part: str, digest: str) -> TakeRecord | None:
        """Return how a kept output was made; None where there is none of this digest."""
        try:
            take_record = TakeRecord(**_read_json(self._json(clip_id, part))["made"])
            return take_record if take_record.digest == digest else None
        except _DAMAGED:
            return None

    def audio(self, clip_id: str, part: str, take_record: TakeRecord) -> tuple[np.ndarray, int] | None:
        """Read an output, `[samples]`, and its rate in Hz; None where its file is missing or damaged."""
        try:
            audio, rate = read_audio(self._folder.path / self.audio_name(clip_id, part))
        except _DAMAGED:
            return None
        return audio / np.float32(take_record.gain), rate

    def has_audio(self, clip_id: str, part: str) -> bool:
        """Whether there is a file of this name."""
        return (self._folder.path / self.audio_name(clip_id, part)).is_file()

    def keep_analysis(self, clip_id: str, part: str, take_record: TakeRecord, analysed: AnalysisRecord) -> None:
        """Write what was heard in an output.

        Raises:
            StageError: it cannot be written.
        """
        analysis = asdict(analysed.analysis)
        arrays = dict(analysed.arrays) | {ONSETS: analysis.pop("onsets")}
        if (chroma := analysis.pop("chroma")) is not None:
            arrays[CHROMA] = chroma
        content = io.BytesIO()
        np.savez(content, **arrays)  # ty: ignore[invalid-argument-type]
        _write_bytes(self._npz(clip_id, part), content.getvalue())
        stored = {"made": asdict(take_record), "listened": {"digest": analysed.digest, "heard": analysis}}
        _write_json(self._json(clip_id, part), stored)

    def analysed(self, clip_id: str, part: str, digest: str) -> AnalysisRecord | None:
        """Return what was heard in a kept output; None where there is none of this digest, or it is damaged.

        Of its arrays only those of one row for each clip or window are read; `array` reads the others.
        """
        try:
            stored = _read_json(self._json(clip_id, part))["listened"]
            if stored["digest"] != digest:
                return None
            with np.load(self._npz(clip_id, part), allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files if name in SMALL or name.startswith("cocola_")}
            values = stored["heard"]
            analysis = Analysis(
                beats=tuple(values["beats"]),
                bpm=values["bpm"],
                onsets=arrays.pop(ONSETS),
                loudness=math.nan if values["loudness"] is None else values["loudness"],
                silent=values["silent"],
                clipped=math.nan if values["clipped"] is None else values["clipped"],
                key=None if values["key"] is None else Key(**values["key"]),
                chroma=arrays.pop(CHROMA, None),
            )
            return AnalysisRecord(digest, analysis, arrays)
        except _DAMAGED:
            return None

    def array(self, clip_id: str, part: str, name: str) -> np.ndarray | None:
        """Return one array of what was heard in an output; None where there is none."""
        try:
            with np.load(self._npz(clip_id, part), allow_pickle=False) as file:
                return file[name]
        except _DAMAGED:
            return None

    def _json(self, clip_id: str, part: str = "") -> Path:
        return self._folder.records / f"{clip_id}{f'.{part}' if part else ''}.json"

    def _npz(self, clip_id: str, part: str) -> Path:
        return self._folder.records / f"{clip_id}.{part}.npz"

    def _write_audio(self, clip_id: str, part: str, audio: np.ndarray, sample_rate: int, gain: float) -> None:
        path = self._folder.path / self.audio_name(clip_id, part)
        with AtomicAudioWriter(path, sample_rate, 1, "flac", overwrite=True, frames=len(audio)) as writer:
            write_scaled([audio], writer, gain)


def read_audio(path: Path) -> tuple[np.ndarray, int]:
    """Read a file as mono, `[samples]` float32, and its rate in Hz.

    Raises:
        AudioError: it cannot be read.
    """
    return np.concatenate([to_mono(block) for block in read_blocks(path)]), probe(path).sample_rate


def _write_json(path: Path, values: Mapping[str, Any]) -> None:
    write_text(path, json.dumps(_finite(values), ensure_ascii=False, indent=1, allow_nan=False) + "\n")


def _read_json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def _write_bytes(path: Path, content: bytes) -> None:
    write_whole(path, lambda part: part.write_bytes(content))


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _finite(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
