"""Small data sets of each layout, written with soundfile."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import yaml

UUIDS = [str(uuid.UUID(int=number)) for number in range(1, 100)]


def noise(seed: int, seconds: float = 0.5, rate: int = 44100, channels: int = 2, level: float = 0.2) -> np.ndarray:
    """Noise, `[frames, channels]`."""
    generator = np.random.default_rng(seed)
    return level * generator.uniform(-1, 1, (round(seconds * rate), channels)).astype(np.float32)


def write(path: Path, audio: np.ndarray, rate: int = 44100, subtype: str | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, audio, rate, subtype=subtype)
    return path


def write_moisesdb(
    song: Path,
    stems: Sequence[tuple[str, Sequence[tuple[str, np.ndarray]]]],
    *,
    rate: int = 44100,
    subtype: str = "PCM_24",
    **facts: Any,
) -> dict[str, list[Path]]:
    """Write a song as MoisesDB has it: (stem name, ((track type, audio), …)) in order; return the files by stem."""
    files: dict[str, list[Path]] = {}
    entries = []
    for name, tracks in stems:
        described = []
        for kind, audio in tracks:
            track = str(uuid.uuid5(uuid.NAMESPACE_OID, f"{song.name} {name} {len(entries)} {len(described)}"))
            files.setdefault(name, []).append(write(song / name / f"{track}.wav", audio, rate, subtype=subtype))
            described.append({"id": track, "trackType": kind, "extension": "wav", "has_bleed": False})
        entries.append({"id": str(uuid.uuid4()), "stemName": name, "tracks": described})
    data = {"song": "A Song", "artist": "An Artist", "genre": "bossa_nova", "stems": entries} | facts
    (song / "data.json").write_text(json.dumps(data))
    return files


def write_musdb(song: Path, stems: Mapping[str, np.ndarray] | None = None, rate: int = 44100) -> Path:
    """Write a song as MUSDB18-HQ has it."""
    stems = stems or {name: noise(index) for index, name in enumerate(("drums", "bass", "other", "vocals"))}
    for name, audio in stems.items():
        write(song / f"{name}.wav", audio, rate)
    write(song / "mixture.wav", np.sum(list(stems.values()), axis=0), rate)
    return song


def write_slakh(song: Path, sources: Mapping[str, tuple[str, int, bool, bool]], midi: str = "") -> Path:
    """Write a song as Slakh has it: name → (class, program, is a drum, was rendered)."""
    stems = {}
    for index, (name, (family, program, is_drum, rendered)) in enumerate(sources.items()):
        stems[name] = {
            "audio_rendered": rendered,
            "inst_class": family,
            "integrated_loudness": -12.5,
            "is_drum": is_drum,
            "midi_program_name": f"{family} {program}",
            "program_num": program,
        }
        if rendered:
            write(song / "stems" / f"{name}.flac", noise(index, channels=1))
    data = {"UUID": midi or song.name, "audio_dir": "stems", "midi_dir": "MIDI", "stems": stems}
    (song / "stems").mkdir(parents=True, exist_ok=True)
    (song / "metadata.yaml").write_text(yaml.safe_dump(data))
    return song
