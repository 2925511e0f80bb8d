"""A made-up evaluation with its audio, as small or as large as a test wants it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import soundfile

from stage_cli.core.evaluation.report.results import (
    ClipResult,
    Failure,
    Metric,
    Results,
    Summary,
    SystemResult,
    TakeResult,
)

RATE = 32_000
NASTY = 'Tom & "Jerry" </script><b>loud</b> it\'s <!--'

METRICS = {
    "beat_f1": Metric("Beat F1", "", "higher", "Beats of the stem that fall on the song's.", "item", (0.0, 1.0)),
    "onset_f": Metric("Onset F", "", "higher", "How well the notes sit on the grid of eighths.", "item", (0.0, 1.0)),
    "onset_f_over_shuffled": Metric("Onset F: own − shuffled", "", "higher", "Whether it follows.", "set", (-1.0, 1.0)),
    "tempo_error": Metric("Tempo error", "", "lower", "How far the tempo is off, half and double time aside.", "item"),
    "loudness": Metric("Loudness", "LUFS", "none", "How loud the stem is.", "item"),
    "loudness_difference": Metric("Loudness difference", "dB", "lower", "How far it is from the true stem.", "item"),
    "silent": Metric("Silent", "", "lower", "Share of stems without a sound.", "item", (0.0, 1.0)),
    "cocola": Metric("COCOLA", "", "higher", "How well stem and context go together to a network's ears.", "item"),
    "fad_codec": Metric("FAD (codec)", "", "lower", "How far the stems as a whole are from real ones.", "set"),
    "kad_codec": Metric("KAD (codec)", "", "lower", "The same, without assuming bell curves.", "set"),
    "apa_codec": Metric("APA (codec)", "", "higher", "Whether stems fit their own context.", "set", (0.0, 1.0)),
    "speed": Metric("Speed", "s/s", "higher", "Seconds of audio made in a second.", "set"),
}  # fmt: skip

SYSTEMS = (
    SystemResult(
        "model:small", "small", "system", {"parameters": 587_000_000, "size": "small", "licence": "CC-BY-NC-4.0"}
    ),
    SystemResult("model:stage-drums", "stage-drums", "system", {"parameters": 620_000_000, "size": "small"}),
    SystemResult("true", "True stems", "anchor"),
    SystemResult("shuffled", "Shuffled", "anchor"),
    SystemResult("silence", "Silence", "anchor"),
    SystemResult("click", "Click", "anchor"),
)
_QUALITY = {"model:small": 0.55, "model:stage-drums": 0.8, "true": 0.96, "shuffled": 0.3, "silence": 0.0, "click": 0.99}
_HEARD = ("model:small", "model:stage-drums")


def drums(seconds: float, bpm: float, generator: np.random.Generator, looseness: float = 0.0) -> np.ndarray:
    time = np.arange(round(seconds * RATE)) / RATE
    audio = np.zeros_like(time)
    for place, beat in enumerate(np.arange(0, seconds, 30 / bpm)):
        since = time - beat - looseness * generator.standard_normal()
        on = since >= 0
        if place % 4 == 0:
            audio += on * 0.6 * np.sin(2 * np.pi * 55 * since) * np.exp(-9 * np.abs(since))
        if place % 4 == 2:
            audio += on * 0.35 * generator.standard_normal(len(time)) * np.exp(-18 * np.abs(since))
        audio += on * 0.12 * np.diff(generator.standard_normal(len(time) + 1)) * np.exp(-60 * np.abs(since))
    return np.clip(audio, -1, 1).astype(np.float32)


def chords(seconds: float, bpm: float, tonic: float) -> np.ndarray:
    time = np.arange(round(seconds * RATE)) / RATE
    bar = (time // (240 / bpm)).astype(int) % 4
    root = tonic * 2 ** (np.array([0, 5, 7, 0])[bar] / 12)
    envelope = np.exp(-1.2 * (time % (120 / bpm)))
    voices = sum(
        np.sin(2 * np.pi * np.cumsum(root * ratio) / RATE) / (1 + n) for n, ratio in enumerate((1, 1.5, 2.52, 4))
    )
    return (0.16 * envelope * voices).astype(np.float32)


def write_example(
    folder: Path, *, songs: int = 4, items: int = 8, seconds: float = 3.0, systems: int = 2, seed: int = 0
) -> Results:
    """Write audio into a folder and return results that name it; odd items have a metronome context."""
    generator = np.random.default_rng(seed)
    (folder / "audio").mkdir(parents=True, exist_ok=True)
    made = []
    for number in range(items):
        song = number % songs
        bpm = 92.0 + 9 * song
        context = "metronome" if number % 2 else "mix"
        heard = chords(seconds, bpm, (110 + 0.1 * number) * 2 ** (song / 12))  # no two items alike
        target = drums(seconds, bpm, generator)
        files = {
            "context": _save(folder, f"{number:04d}.context", heard),
            "target": _save(folder, f"{number:04d}.target", target),
        }
        outputs = []
        for system in SYSTEMS[:systems] + SYSTEMS[2:]:
            quality = _QUALITY[system.name]
            score = float(
                np.clip(quality + (0 if quality in (0.0, 0.99) else 0.12) * generator.standard_normal(), 0, 1)
            )
            audio = {}
            if system.name in _HEARD:
                stem = drums(seconds, bpm, generator, looseness=0.06 * (1 - quality))
                name = f"{number:04d}.{system.name.replace(':', '-')}"
                audio = {
                    "generated": _save(folder, name, stem),
                    "mix": _save(folder, f"{name}.mix", np.clip(0.7 * (stem + heard), -1, 1)),
                }
            silent = system.name == "silence"
            outputs.append(
                TakeResult(
                    system.name,
                    seed=number,
                    metrics={
                        "beat_f1": score,
                        "onset_f": float(np.clip(score - 0.1, 0, 1)),
                        "tempo_error": None
                        if silent
                        else float(abs(0.1 * (1 - quality) * generator.standard_normal())),
                        "loudness": None if silent else float(-18 + generator.standard_normal()),
                        "loudness_difference": None if silent else float(abs(2 * generator.standard_normal())),
                        "silent": float(silent),
                        "cocola": None if silent else float(40 + 20 * score + 2 * generator.standard_normal()),
                    },
                    files=audio,
                )
            )
        beat = 60 / bpm
        beats = tuple(np.arange(0, seconds, beat).round(4).tolist())
        title = (
            NASTY
            if song == 0
            else ("Blue in Seven", "Harbour Lights", "Half a Mile", "Nine to Nothing")[(song - 1) % 4]
        )
        made.append(
            ClipResult(
                id=f"{number:04d}",
                song=f"song_{song}",
                title=title,
                start=12.5 + number,
                seconds=seconds,
                context=context,
                context_stems=("bass", "other_keys", "piano") if context == "mix" else (),
                bpm=bpm,
                beats=beats,
                downbeats=beats[::4],
                outputs=tuple(outputs),
                files=files,
            )
        )
    return Results(
        created="2026-11-20T21:15:00+00:00",
        command=("stage", "evaluate", "--model", "small", "--model", "stage drums", "--stem", "drums"),
        versions={"stage-cli": "0.1.0", "torch": "2.11.0", "mir_eval": "0.8.2"},
        hardware={"device": "cpu", "processor": "2 cores", "memory_gb": 8},
        seed=7,
        stem="drums",
        settings={
            "guidance": 3.0,
            "temperature": 1.0,
            "top_k": 250,
            "top_p": None,
            "chunk_seconds": seconds,
            "chunks": 4,
            "contexts": ["mix", "metronome"],
            "embedding": "codec",
            "tracker": "essentia",
        },
        metrics=METRICS,
        systems=SYSTEMS[:systems] + SYSTEMS[2:],
        summaries=tuple(_summaries(made, systems)),
        items=tuple(made),
    )


def with_failures(results: Results) -> Results:
    """Name a file that is missing, break one output, and list a failure that has no output."""
    first, *rest = results.items
    lost, broken, *others = first.outputs
    outputs = (
        TakeResult(lost.system, lost.seed, lost.metrics, files={**lost.files, "generated": "audio/lost.flac"}),
        TakeResult(broken.system, broken.seed, dict.fromkeys(broken.metrics), error="the stem is silent"),
        *others,
    )
    changed = {**first.__dict__, "outputs": outputs}
    failures = (Failure("0099", "model:small", "song_9/bass.wav is damaged <cut off>"),)
    return Results(**{**results.__dict__, "items": (ClipResult(**changed), *rest), "failures": failures})


def _summaries(items: list[ClipResult], systems: int) -> list[Summary]:
    found = []
    distances = {
        "model:small": 3.1,
        "model:stage-drums": 1.4,
        "true": 0.2,
        "shuffled": 1.5,
        "silence": 60.0,
        "click": 25.0,
    }
    for context in ("mix", "metronome"):
        chosen = [item for item in items if item.context == context]
        for system in SYSTEMS[:systems] + SYSTEMS[2:]:
            for name, metric in METRICS.items():
                if metric.scope == "item":
                    values = [out.metrics[name] for item in chosen for out in item.outputs if out.system == system.name]
                    kept = [value for value in values if value is not None]
                    value = float(np.mean(kept)) if kept else None
                    spread = float(np.std(kept)) if kept else 0.0
                elif name == "speed":
                    if system.role == "anchor":
                        continue
                    kept, value, spread = chosen, 2.4 if system.name == "model:small" else 2.2, 0.1
                else:
                    kept, distance = chosen, distances[system.name]
                    value = {"fad_codec": distance, "kad_codec": distance / 9}.get(name, _QUALITY[system.name])
                    if name == "onset_f_over_shuffled":
                        value -= _QUALITY["shuffled"]
                    spread = 0.1 * abs(value)
                low, high = (None, None) if value is None else (value - spread, value + spread)
                if metric.range and value is not None:
                    low, high = max(low, metric.range[0]), min(high, metric.range[1])
                found.append(Summary(system.name, context, name, value, low, high, len(kept)))
    return found


def _save(folder: Path, name: str, audio: np.ndarray) -> str:
    soundfile.write(folder / "audio" / f"{name}.flac", audio, RATE)
    return f"audio/{name}.flac"
