"""The folder of a report: one run at a time writes it, of one kind of settings, and nothing in it is half-written."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from stage_cli.core.audio.files import display_name
from stage_cli.core.evaluation.report.files import ITEMS_FILE, REPORT_FILE, RESULTS_FILE, write_text
from stage_cli.core.locks import lock_file
from stage_cli.errors import StageError, UsageError

SETTINGS_FILE = "settings.json"
AUDIO_FOLDER = "audio"
RECORDS_FOLDER = "items"
_LOCK_FILE = ".lock"
_OWN = (SETTINGS_FILE, AUDIO_FOLDER, RECORDS_FOLDER, ITEMS_FILE, REPORT_FILE, RESULTS_FILE)


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
                    why=f"{name.replace('_', ' ')} is {found.get(name)} there, {wanted.get(name)} here",
                    next_step="use --overwrite to throw it away, or another --out",
                )
            self._clear()
        elif found is None and (others := self._others()):
            raise UsageError(
                f"{display_name(self.path)} holds other files",
                why=f"{others[0]} is of no report",
                next_step="name an empty or a new folder as --out",
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
            raise UsageError(f"--out {display_name(self.path)} is a file", next_step="name a folder")
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
                    next_step="wait for it, or choose another --out",
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
        next_step="free some space, or choose another --out",
    )
