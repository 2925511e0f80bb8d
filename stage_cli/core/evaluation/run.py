"""What a measurement was made with: versions and hardware, for the report.

`evaluate`: from options to a report. What each part does stands in its module; here is the order.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from stage_cli import __version__
from stage_cli.core.evaluation.clips import ClipSource, FileClips, matching
from stage_cli.core.evaluation.finished import mark_finished
from stage_cli.core.evaluation.measuring import Listener, Maker, Progress, catalogue
from stage_cli.core.evaluation.models import CodecSystem, ModelSystem, codec_device, find_models, model_title
from stage_cli.core.evaluation.records import Records, ReportFolder
from stage_cli.core.evaluation.report.page import write_report
from stage_cli.core.evaluation.report.results import Results, write_items, write_results
from stage_cli.core.evaluation.report.results import SystemResult as ResultSystem
from stage_cli.core.evaluation.settings import EvaluationConfig
from stage_cli.core.evaluation.song_clips import MetronomeClips, SongClips
from stage_cli.core.evaluation.summary import Sums, partners, shown_systems
from stage_cli.core.evaluation.systems import (
    ClickDrum,
    ContextItself,
    Files,
    OtherStem,
    Silence,
    System,
    TrueStem,
    distinct_titles,
)
from stage_cli.core.machine import processor
from stage_cli.core.music import key_finder

_PACKAGES = (
    "torch", "torchaudio", "numpy", "scipy", "mir_eval", "essentia", "librosa", "beat-this", "transformers", "soxr",
    "soundfile",
)  # fmt: skip


def versions() -> dict[str, str]:
    """Return the versions of this program, of Python, and of the packages that decide on numbers."""
    found = {"stage-cli": __version__, "python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def hardware(device: str) -> dict[str, Any]:
    """Return what it ran on.

    Args:
        device: of the models, as torch names it.
    """
    found: dict[str, Any] = {
        "device": device,
        "processor": processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "system": f"{platform.system()} {platform.machine()}",
    }
    if device.startswith("cuda"):
        found["gpu"] = torch.cuda.get_device_name(device)
    return found


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation left.

    Attributes:
        results: everything that was found.
        report: the page.
    """

    results: Results
    report: Path


def evaluate(
    config: EvaluationConfig,
    *,
    on_progress: Progress = lambda *_: None,
    on_note: Callable[[str], None] = lambda _: None,
) -> Evaluation:
    """Make what is missing of an evaluation, measure it, and write its report.

    Args:
        config: what is evaluated.
        on_progress: called with what is being done and how many of how many are; may raise to stop: what is kept is
            whole, and the next run goes on from there.
        on_note: called with what the user should know.

    Raises:
        UsageError: an option names something that is not there, or the folder holds something else.
        StageError: a model, an embedding or a song cannot be used at all, or the folder cannot be written.
    """
    folder = ReportFolder(config.out)
    with folder.locked():
        source = _source(config)
        for note in source.notes:
            on_note(note)
        models = _models(config)
        systems = [*models, *_files(config, source)]
        listener = Listener(config, models[0].weights if models else "")
        listener.load()
        if {config.tracker, key_finder()} != {"essentia"}:
            on_note(f"Beats: {config.tracker}. Keys: {key_finder()}.")
        folder.prepare(config.decisive, overwrite=config.overwrite)
        records = Records(folder)
        maker = Maker(config, source, records, listener, on_progress)
        maker.write_clips()
        take_record = [plan for plan in source.plans if plan.id in maker.evidence.clips]
        partner = partners(take_record, config.generation.seed)
        if not partner:
            on_note("All clips are of one song: there is nothing to shuffle, and no interval.")
        anchors = _anchors(source, maker, partner)
        if config.baselines and source.has_targets:
            anchors += [CodecSystem(model, config) for model in models]
        maker.generate_takes(anchors, "anchors")
        for system in systems:
            maker.generate_takes([system], system.title)
        on_progress("metrics", 0, 1)
        sums = Sums(config, source.plans, [*systems, *anchors], maker.evidence, records, listener, partner)
        results = _results(config, sums, [*systems, *anchors], maker, listener, shuffled=bool(partner))
        on_progress("metrics", 1, 1)
        write_results(config.out, results)
        write_items(config.out, results)
        report = write_report(config.out, progress=lambda done, total: on_progress("page", done, total))
        if not results.failures:
            mark_finished(config)
        return Evaluation(results, report)


def _source(config: EvaluationConfig) -> ClipSource:
    if config.source == "data":
        return SongClips(config)
    return MetronomeClips(config) if config.source == "metronome-set" else FileClips(config)


def _models(config: EvaluationConfig) -> list[ModelSystem]:
    found = find_models(config)
    named = [model_title(spec, directory) for spec, directory in found]
    titles = distinct_titles([title for title, _ in named], [other for _, other in named])
    return [ModelSystem(spec, title, directory, config) for (spec, directory), title in zip(found, titles, strict=True)]


def _files(config: EvaluationConfig, source: ClipSource) -> list[System]:
    if not isinstance(source, FileClips):
        return []
    folders = [folder.resolve() for folder in config.generated]
    titles = distinct_titles([folder.name for folder in folders], [folder.parent.name for folder in folders])
    return [
        Files(folder, title, matching(folder, source.contexts, config.stem), source.plans)
        for folder, title in zip(config.generated, titles, strict=True)
    ]


def _anchors(source: ClipSource, maker: Maker, partner: dict[str, str]) -> list[System]:
    found: list[System] = []
    if source.has_targets:
        found.append(TrueStem())
        if partner:
            plans = {plan.id: plan for plan in source.plans}
            found.append(OtherStem({clip: plans[other] for clip, other in partner.items()}, maker.clip))
    return [*found, Silence(), ClickDrum(), ContextItself()]


def _results(
    config: EvaluationConfig,
    sums: Sums,
    systems: list[System],
    maker: Maker,
    listener: Listener,
    *,
    shuffled: bool,
) -> Results:
    summaries = tuple(sums.summaries())
    shown = {entry.metric for entry in summaries}
    return Results(
        created=datetime.now().astimezone().isoformat(timespec="seconds"),
        command=config.command,
        versions=versions(),
        hardware=hardware(codec_device(config.device)),
        seed=config.generation.seed,
        stem=config.stem,
        settings=_settings(config, listener),
        metrics=catalogue(listener.names, shown),
        systems=tuple(
            ResultSystem(
                name,
                title,
                "system" if system is not None and system.role == "system" else "anchor",
                None if system is None else system.about,
            )
            for name, title, system in shown_systems(systems, shuffled=shuffled)
        ),
        summaries=summaries,
        items=tuple(sums.items(shown)),
        failures=tuple(maker.evidence.failures),
    )


def _settings(config: EvaluationConfig, listener: Listener) -> dict[str, Any]:
    """Return the settings as the report shows them: names of folders, not the folders that they lie in."""
    stored: dict[str, Any] = {"clips_from": config.source}
    if config.source == "data":
        stored |= {"data": [Path(root).expanduser().resolve().name for root in config.data]}
        split = config.split if config.validation_file is None else config.validation_file.name
        stored |= {"chunks": config.chunks, "songs": config.most_songs, "split": split}
    if config.context_folder is not None:
        stored |= {"context_folder": config.context_folder.resolve().name}
        stored |= {"reference": None if config.reference is None else config.reference.resolve().name}
    stored |= {"seconds": config.seconds if config.source == "files" else config.clip_seconds}
    if config.models:
        stored |= {**config.sampling, "descriptions": config.descriptions, "precision": config.precision}
    stored |= {
        "tracker": config.tracker,
        "keys": key_finder(),
        "embedding": listener.names,
        "kad_compatible": config.kad_compatible,
    }
    return stored | {"cocola": None if config.cocola is None else config.cocola.name}
