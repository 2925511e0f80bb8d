"""Measure what a codec keeps of the stems of prepared songs.

    uv run python tests/benchmarks/codec_quality.py songs --codec bundled-codec [--codec runs/other/model …]

For each stem: onset F between the original's and the reconstruction's onsets (± 30 ms), the difference of their levels
(RMS, dB), the distance of their log-mel spectra (dB, 64 bands), SI-SDR (dB), and for pitched stems the similarity of
the reconstruction's chroma to the original's, and to that of another song's original. Then, once a codec, whether
audio that is encoded and decoded in pieces has seams: the largest difference from the whole, relative to full scale.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from pathlib import Path

import mir_eval
import numpy as np
import torch
from environment import describe

from stage_cli.core.audio.chunks import resample
from stage_cli.core.codec.codec import Codec
from stage_cli.core.codec.streaming import StreamingDecoder, StreamingEncoder
from stage_cli.core.data.index import IndexedSong, find_songs
from stage_cli.core.evaluation.metrics import chroma_similarity
from stage_cli.core.music.detection import chroma, find_onsets
from stage_cli.core.training.codec_task import mel_filters, spectra
from stage_cli.core.weights.checkpoint import load_codec

PIECE = 0.37  # seconds; no multiple of a frame


def excerpts(songs: list[IndexedSong], stem: str, rate: int, seconds: float) -> list[np.ndarray]:
    found = []
    for song in songs:
        if stem not in song.stems or song.duration < seconds:
            continue
        start = (song.duration - seconds) / 2
        audio = resample(song.read(stem, start, seconds), song.sample_rate, rate)
        if np.abs(audio).max(initial=0.0) > 0.01:
            found.append(audio[: int(seconds * rate)])
    return found


@torch.inference_mode()
def reconstruct(codec: Codec, audio: np.ndarray) -> np.ndarray:
    made = codec.decode(codec.encode(torch.from_numpy(np.ascontiguousarray(audio))[None, None].float()))
    return made[0, 0, : len(audio)].numpy()


@torch.inference_mode()
def seam(codec: Codec, audio: np.ndarray) -> float:
    """Largest difference between pieces and the whole."""
    encoder, decoder = StreamingEncoder(codec), StreamingDecoder(codec)
    piece = int(PIECE * codec.config.sample_rate)
    whole = torch.from_numpy(np.ascontiguousarray(audio))[None, None].float()
    codes = [encoder.push(part) for part in whole.split(piece, dim=2)] + [encoder.finish()]
    made = torch.cat([*(decoder.push(part) for part in codes), decoder.finish()], dim=2)[0, 0].numpy()
    expected = reconstruct(codec, audio)
    return float(np.abs(made[: len(expected)] - expected).max())


def compare(original: np.ndarray, made: np.ndarray, rate: int) -> dict[str, float]:
    onsets = [find_onsets(audio, rate) for audio in (original, made)]
    both = torch.from_numpy(np.stack([original, made])).float()
    mels = (spectra(both, 1024).abs() @ mel_filters(1024, 64, rate)).clamp(min=1e-4).log10() * 20
    scaled = original * (made @ original) / max(original @ original, 1e-12)
    return {
        "onset F": mir_eval.onset.f_measure(*onsets, window=0.03)[0] if len(onsets[0]) else float("nan"),
        "level": 20 * np.log10(max(made.std(), 1e-9) / max(original.std(), 1e-9)),
        "mel": float((mels[0] - mels[1]).abs().mean()),
        "SI-SDR": 10 * np.log10((scaled @ scaled + 1e-12) / ((made - scaled) @ (made - scaled) + 1e-12)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("songs", help="folder of prepared songs")
    parser.add_argument("--codec", action="append", required=True)
    parser.add_argument("--stems", nargs="+", default=["drums", "bass", "guitar", "piano", "vocals"])
    parser.add_argument("--count", type=int, default=48, help="songs at most")
    parser.add_argument("--seconds", type=float, default=10.0)
    arguments = parser.parse_args()
    songs = find_songs((arguments.songs,))[: arguments.count]
    print(describe("torch", "essentia", "mir_eval"))
    for name in arguments.codec:
        codec = load_codec(name)
        rate = codec.config.sample_rate
        parameters = sum(parameter.numel() for parameter in codec.parameters())
        print(f"\n{Path(name).name if '/' not in name else name}: {parameters / 1e6:.1f} M parameters, {rate} Hz")
        print("\n| stem | songs | onset F | level, dB (mean, 5 %, 95 %) | mel, dB | SI-SDR, dB | chroma: own, other |")
        print("| --- | --- | --- | --- | --- | --- | --- |")
        spent, heard, worst = 0.0, 0.0, 0.0
        for stem in arguments.stems:
            rows: dict[str, list[float]] = defaultdict(list)
            last = None
            for audio in excerpts(songs, stem, rate, arguments.seconds):
                began = time.perf_counter()
                made = reconstruct(codec, audio)
                spent, heard = spent + time.perf_counter() - began, heard + len(audio) / rate
                for key, value in compare(audio, made, rate).items():
                    rows[key].append(value)
                if stem != "drums":
                    heard_chroma, true_chroma = chroma(made, rate), chroma(audio, rate)
                    rows["chroma"].append(chroma_similarity(heard_chroma, true_chroma))
                    if last is not None:
                        rows["other chroma"].append(chroma_similarity(heard_chroma, last))
                    last = true_chroma
                worst = max(worst, seam(codec, audio)) if len(rows["level"]) <= 3 else worst
            if not rows:
                continue
            low, high = np.percentile(rows["level"], [5, 95])
            both = [f"{np.nanmean(rows[key]):.2f}" for key in ("chroma", "other chroma") if rows[key]]
            pitched = ", ".join(both) or "–"
            print(
                f"| {stem} | {len(rows['level'])} | {np.nanmean(rows['onset F']):.3f} | {np.mean(rows['level']):+.2f} "
                f"({low:+.1f}, {high:+.1f}) | {np.mean(rows['mel']):.2f} | {np.mean(rows['SI-SDR']):.1f} | {pitched} |"
            )
        print(f"\nSeams: at most {worst:.1e} of full scale. Encoding and decoding: {heard / spent:.0f} × real time.")


if __name__ == "__main__":
    main()
