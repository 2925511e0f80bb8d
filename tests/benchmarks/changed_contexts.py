"""Measure how a model takes contexts that sound unlike those it was trained on: Beat F1 of what it writes to them.

    stage demo-data tune --songs 24 --seconds 30 --seed 8001 --sounds mixed
    stage prepare-data tune --beats annotations
    uv run python tests/benchmarks/changed_contexts.py tune --model bundled-drums

The context is the first 12 s of all other stems, changed as the table's rows say, further than training changes them
(core/data/augment.py); where it is played at another speed the song's beats move with it. Differences to the unchanged
context are paired song by song. Intervals: 95 %, bootstrap over the songs.
"""

from __future__ import annotations

import argparse
import io
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile
from environment import describe
from long_songs import show, written
from scipy.signal import butter, oaconvolve, sosfilt

from stage_cli.core.data.index import find_songs
from stage_cli.core.evaluation.intervals import mean_interval, paired_difference
from stage_cli.core.evaluation.metrics import beat_f1
from stage_cli.core.generation.config import GenerationConfig
from stage_cli.core.model import StageModel
from stage_cli.core.music.detection import track_beats

SECONDS = 12.0

Change = Callable[[np.ndarray, int], np.ndarray]


def rms(audio: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(audio)))) + 1e-9


def filtered(kind: str, *hertz: float) -> Change:
    def change(audio: np.ndarray, rate: int) -> np.ndarray:
        return sosfilt(butter(4, hertz if len(hertz) > 1 else hertz[0], kind, fs=rate, output="sos"), audio)

    return change


def loud(audio: np.ndarray, _: int) -> np.ndarray:
    return np.tanh(4 * audio / rms(audio))


def church(audio: np.ndarray, rate: int) -> np.ndarray:
    seconds = np.arange(3 * rate) / rate
    wet = oaconvolve(audio, np.random.default_rng(0).standard_normal(len(seconds)) * 10 ** (-seconds))[: len(audio)]
    return audio + wet * rms(audio) / rms(wet)


def noisy(audio: np.ndarray, _: int) -> np.ndarray:
    noise = np.cumsum(np.random.default_rng(0).standard_normal(len(audio)))
    noise = noise - np.convolve(noise, np.ones(999) / 999, "same")  # without its wander
    return audio + noise * 0.5 * rms(audio) / rms(noise)


def mp3(audio: np.ndarray, rate: int) -> np.ndarray:
    buffer = io.BytesIO()
    soundfile.write(buffer, audio / np.abs(audio).max(), rate, format="MP3", compression_level=0.99)
    buffer.seek(0)
    return soundfile.read(buffer, dtype="float64")[0]


CHANGES: dict[str, Change] = {
    "as it is": lambda audio, _: audio,
    "driven hard into a limiter": loud,
    "a telephone's band, 300 to 3400 Hz": filtered("bandpass", 300.0, 3400.0),
    "no lows (under 300 Hz)": filtered("highpass", 300.0),
    "no highs (over 1 kHz)": filtered("lowpass", 1000.0),
    "in a church (reverberates for 3 s, as loud as the music)": church,
    "brown noise, 6 dB under the music": noisy,
    "MP3 at the lowest bit rate": mp3,
    "very quiet, −50 dB": lambda audio, _: audio * 10 ** (-50 / 20),
}

SPEEDS: dict[str, tuple[float, float]] = {  # speed, and how much it sways, in shares
    "a quarter tone up, 3 % faster": (1.03, 0.0),
    "a quarter slower, and lower": (0.8, 0.0),
    "a quarter faster, and higher": (1.25, 0.0),
    "speed that sways by 4 % within 8 s": (1.0, 0.04),
}


def places(speed: float, sway: float, rate: int, seconds: float) -> np.ndarray:
    """Seconds of the song that sound at each sample."""
    time = np.arange(round(seconds * rate)) / rate
    return speed * time + sway * speed * 8 / (2 * np.pi) * (1 - np.cos(2 * np.pi * time / 8))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("songs", help="folder of prepared songs of 20 s or more")
    parser.add_argument("--model", default="bundled-drums")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=24)
    arguments = parser.parse_args()
    model = StageModel.from_pretrained(arguments.model)
    stem = model.config.stem or "drums"
    config = GenerationConfig(seed=arguments.seed).for_model(model.config.sampling_for(metronome=False), [])
    songs = [song for song in find_songs((arguments.songs,)) if stem in song.stems and song.duration >= 1.3 * SECONDS]
    songs = songs[: arguments.count]
    print(describe("torch", "essentia", "mir_eval"), flush=True)
    rows: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for song in songs:
            rate, beats = song.sample_rate, np.asarray(song.beats)
            parts = {name: song.read(name, 0.0, song.duration) for name in song.stems}
            mix = np.sum([audio for name, audio in parts.items() if name != stem], axis=0)
            contexts = {
                name: (change(mix[: round(SECONDS * rate)].astype(np.float64), rate), beats)
                for name, change in CHANGES.items()
            }
            for name, (speed, sway) in SPEEDS.items():
                at = places(speed, sway, rate, SECONDS)
                warped = np.interp(at, np.arange(len(mix)) / rate, mix)
                contexts[name] = warped, np.interp(beats, at, np.arange(len(at)) / rate, right=np.inf)
            contexts["the song's own stem in it"] = (mix + parts[stem])[: round(SECONDS * rate)], beats
            for name, (context, moved) in contexts.items():
                audio = written(model, stem, context.astype(np.float32), rate, config, Path(folder))
                found = np.array(track_beats(audio, rate).beats)
                rows.setdefault(name, []).append(beat_f1(moved[moved < SECONDS], found))
            print(song.id, *(f"{values[-1]:.2f}" for values in rows.values()), flush=True)
    ids = [song.id for song in songs]
    print(f"\n{len(songs)} songs, model: {Path(arguments.model).name}, {config.sampling}\n")
    print("| context | Beat F1 | beside the unchanged one |\n| --- | --- | --- |")
    usual = np.array(rows["as it is"])
    for name, values in rows.items():
        draws = np.random.default_rng(0)
        difference = show(paired_difference(np.array(values), usual, ids, draws)) if name != "as it is" else ""
        print(f"| {name} | {show(mean_interval(values, ids, draws))} | {difference} |")


if __name__ == "__main__":
    main()
