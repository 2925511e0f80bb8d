"""Whether an evaluation is finished already: then its results are read instead of made. Imports no torch.

A finished evaluation leaves `finished.json`: a digest of its settings, of the program, and of names, sizes and times of
all the files that it read. While that holds, nothing can come out otherwise.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

from stage_cli import __version__
from stage_cli.core.evaluation.report.results import FINISHED_FILE, REPORT_FILE, Results, read_results
from stage_cli.core.evaluation.settings import EvaluationConfig
from stage_cli.core.files import write_text
from stage_cli.core.weights.hub import resolve
from stage_cli.errors import StageError

_PACKAGE = Path(__file__).parents[2]
_OF_THE_CALL = ("command", "overwrite", "offline")  # decide on nothing that is measured


def finished(config: EvaluationConfig) -> Results | None:
    """Return the results of an evaluation that is finished, None if there is something to do."""
    try:
        stored = json.loads((config.out / FINISHED_FILE).read_text(encoding="utf-8"))
        if not (config.out / REPORT_FILE).is_file() or stored.get("digest") != _digest(config):
            return None
        return read_results(config.out)
    except (OSError, ValueError, AttributeError, StageError):
        return None


def mark_finished(config: EvaluationConfig) -> None:
    """Note that an evaluation is finished.

    Raises:
        StageError: the note cannot be written.
    """
    write_text(config.out / FINISHED_FILE, json.dumps({"digest": _digest(config)}) + "\n")


def _digest(config: EvaluationConfig) -> str:
    settings = {name: str(value) for name, value in asdict(config).items() if name not in _OF_THE_CALL}
    digest = hashlib.sha256(json.dumps([__version__, settings], sort_keys=True).encode())
    for line in _files(config):
        digest.update(line.encode(errors="surrogateescape"))
    return digest.hexdigest()


def _files(config: EvaluationConfig) -> Iterable[str]:
    """List all files that decide on the results, with sizes and times; a model that is not here counts by its name."""
    roots = [_PACKAGE, *(Path(root).expanduser() for root in config.data), *config.generated]
    roots += [path for path in (config.context_folder, config.reference, config.cocola, config.validation_file) if path]
    for name in config.models:
        try:
            roots.append(resolve(name, offline=True))
        except StageError:
            yield f"model {name}\n"
    out = config.out.resolve()
    for root in roots:
        real = root.resolve()
        for path in sorted([real] if real.is_file() else real.rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts and not path.is_relative_to(out):
                status = path.stat()
                yield f"{path}\t{status.st_size}\t{status.st_mtime_ns}\n"
