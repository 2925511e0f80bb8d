"""`stage generate` end to end: real files in, and what was written read back with another library."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyloudnorm
import pytest
import soundfile
import soxr
import torch
from scipy.io import wavfile

from cli.conftest import Refused, Stage, read_wav, wav_header
from stage_cli.core.model import StageModel

Write = Callable[..., Path]

LSB = 2**-23  # of a 24-bit sample, full scale 1.0


def decibels(value: float) -> float:
    return 20 * np.log10(value)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        # All that can be read is read in test_audio_reading.py.
        pytest.param("MIX.WAV", {"subtype": "PCM_24"}, id="capital-letters"),
        pytest.param("mix.mp3", {}, id="mp3"),
        pytest.param("mix.opus", {"format": "OGG", "subtype": "OPUS", "sample_rate": 48000}, id="ogg-opus"),
    ],
)
def test_formats_of_the_context(generate: Stage, write_music: Write, name: str, options: dict) -> None:
    context = write_music(name, seconds=1.237, **options)
    decoded, rate = soundfile.read(context)
    result = generate(context).result
    stem = context.with_name(f"{context.stem}.drums.wav")
    assert result["path"] == str(stem)
    assert wav_header(stem) == (rate, len(decoded), 1, 3)
    assert (result["sample_rate"], result["frames"]) == (rate, len(decoded))
    assert result["seconds"] == len(decoded) / rate


@pytest.mark.parametrize("rate", [8000, 11025, 44100, 192000])
def test_rates_of_the_context(generate: Stage, write_music: Write, rate: int) -> None:
    context = write_music(seconds=0.531, sample_rate=rate)
    stem = generate(context).result["path"]
    assert wav_header(stem) == (rate, round(0.531 * rate), 1, 3)
    assert np.abs(read_wav(stem)).max() > 0.01


@pytest.mark.parametrize("channels", [1, 2, 3, 8])
def test_channels_of_the_context(generate: Stage, write_music: Write, channels: int) -> None:
    result = generate(write_music(seconds=0.5, channels=channels), "--mix").result
    assert wav_header(result["path"]) == (44100, 22050, 1, 3)
    assert wav_header(result["mix_path"]) == (44100, 22050, channels, 3)


def test_equal_channels_are_mono(generate: Stage, tmp_path: Path) -> None:
    mono = np.random.default_rng(0).uniform(-0.5, 0.5, 8000)
    soundfile.write(tmp_path / "mono.wav", mono, 8000)
    soundfile.write(tmp_path / "stereo.flac", np.stack([mono, mono], axis=1), 8000)
    generate(tmp_path / "mono.wav", tmp_path / "stereo.flac", "--seed", 3)
    assert (tmp_path / "mono.drums.wav").read_bytes() == (tmp_path / "stereo.drums.wav").read_bytes()


def test_default_names(generate: Stage, write_music: Write) -> None:
    context = write_music("a mix.v2.wav", seconds=0.5)
    generate(context, "--variations", 3, "--mix")
    written = {path.name for path in context.parent.iterdir()} - {context.name}
    assert written == {
        "a mix.v2.drums.wav", "a mix.v2.drums.2.wav", "a mix.v2.drums.3.wav",
        "a mix.v2.drums.mix.wav", "a mix.v2.drums.2.mix.wav", "a mix.v2.drums.3.mix.wav",
    }  # fmt: skip


def test_the_mix_is_context_and_stem_together(generate: Stage, write_music: Write) -> None:
    context = write_music(seconds=1.3, channels=3, subtype="PCM_24")
    result = generate(context, "--mix", "--seed", 1).result
    mixed, stem = read_wav(result["mix_path"]), read_wav(result["path"])
    assert result["turned_down"] > 0, "the gains are what is tested"
    assert result["mix_turned_down"] > 0, "the gains are what is tested"
    stem_gain, mix_gain = 10 ** (-result["turned_down"] / 20), 10 ** (-result["mix_turned_down"] / 20)
    expected = mix_gain * (read_wav(context) + stem / stem_gain)
    # Half a step from writing the mix, and half a step of the stem, magnified by its gain.
    np.testing.assert_allclose(mixed, expected, rtol=0, atol=2 * LSB / stem_gain)
    assert decibels(np.abs(mixed).max()) == pytest.approx(-0.1, abs=1e-4)
    assert decibels(np.abs(stem).max()) == pytest.approx(-0.1, abs=1e-4)


def test_a_quiet_stem_is_not_turned_up_or_down(
    generate: Stage, write_music: Write, change_model: Callable[..., Path], tiny_model: StageModel
) -> None:
    context = write_music(seconds=1.0, subtype="PCM_24")
    loud = generate(context, "--seed", 1).result
    output = "codec.decoder.output"
    state = tiny_model.state_dict()
    quiet = change_model(tensors={f"{output}.{part}": state[f"{output}.{part}"] / 16 for part in ("weight", "bias")})
    result = generate(context, "--seed", 1, "--model", quiet, "--output", "quiet.wav", "--mix").result
    assert result["turned_down"] == 0
    assert result["mix_turned_down"] == 0
    np.testing.assert_allclose(
        read_wav(result["path"]), read_wav(loud["path"]) * 10 ** (loud["turned_down"] / 20) / 16, rtol=0, atol=2 * LSB
    )
    np.testing.assert_allclose(
        read_wav(result["mix_path"]), read_wav(context) + read_wav(result["path"]), rtol=0, atol=2 * LSB
    )
    assert result["notes"] == []


def test_peak_and_loudness_are_those_of_the_file(generate: Stage, write_music: Write) -> None:
    result = generate(write_music(seconds=2.0, sample_rate=48000)).result
    rate, samples = wavfile.read(result["path"])
    audio = samples / 2**31
    assert result["peak"] == pytest.approx(decibels(np.abs(audio).max()), abs=1e-4)
    assert result["loudness"] == pytest.approx(pyloudnorm.Meter(rate).integrated_loudness(audio), abs=0.1)


def test_flac_holds_the_samples_of_wav(generate: Stage, write_music: Write) -> None:
    context = write_music(seconds=1.1)
    generate(context, "--seed", 5, "--mix")
    generate(context, "--seed", 5, "--mix", "--format", "flac")
    for name, channels in (("mix.drums", 1), ("mix.drums.mix", 2)):
        # What a FLAC file says of itself (RFC 9639, section 8.2), read without a library.
        header = context.with_name(f"{name}.flac").read_bytes()[:26]
        assert header[:5] == b"fLaC\0"
        packed = int.from_bytes(header[18:26], "big")
        facts = packed >> 44, (packed >> 41 & 7) + 1, (packed >> 36 & 31) + 1, packed & (1 << 36) - 1
        assert facts == (44100, channels, 24, round(1.1 * 44100))
        decoded = soundfile.read(context.with_name(f"{name}.flac"), always_2d=True)[0]
        # libsndfile rounds down for WAV, to the nearest step for FLAC.
        np.testing.assert_allclose(decoded, read_wav(context.with_name(f"{name}.wav")), rtol=0, atol=LSB)


@pytest.mark.parametrize(
    ("output", "written"),
    [
        pytest.param("stem.wav", "stem.wav", id="file"),
        pytest.param("stem.flac", "stem.flac", id="file-decides-the-format"),
        pytest.param("STEM.WAV", "STEM.WAV", id="capital-letters"),
        pytest.param("new/folders/stem.wav", "new/folders/stem.wav", id="file-in-new-folders"),
        pytest.param("stems", "stems/mix.drums.wav", id="new-folder"),
        pytest.param("there", "there/mix.drums.wav", id="folder-that-exists"),
        pytest.param("there.wav", "there.wav/mix.drums.wav", id="folder-with-an-audio-ending"),
        pytest.param("link.wav", "there/linked.wav", id="link"),
    ],
)
def test_output(generate: Stage, write_music: Write, tmp_path: Path, output: str, written: str) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there.wav").mkdir()
    (tmp_path / "link.wav").symlink_to("there/linked.wav")
    context = write_music(seconds=0.4)
    before = set(tmp_path.rglob("*"))
    generate(context, "--output", output)
    new = {path for path in set(tmp_path.rglob("*")) - before if path.is_file()} - {tmp_path / "link.wav"}
    assert new == {tmp_path / written}
    assert soundfile.info(tmp_path / written).frames == round(0.4 * 44100)


def test_output_file_of_variations_and_mixes(generate: Stage, write_music: Write, tmp_path: Path) -> None:
    context = write_music(seconds=0.3)
    results = generate(context, "--output", "o.flac", "--variations", 2, "--mix").results
    assert [(result["path"], result["mix_path"]) for result in results] == [
        ("o.flac", "o.mix.flac"), ("o.2.flac", "o.2.mix.flac"),
    ]  # fmt: skip
    assert {path.name for path in tmp_path.glob("o.*")} == {"o.flac", "o.mix.flac", "o.2.flac", "o.2.mix.flac"}


def test_overwrite(generate: Stage, write_music: Write, tmp_path: Path) -> None:
    context = write_music(seconds=0.3)
    (tmp_path / "mix.drums.wav").write_bytes(b"an older stem")
    generate(context, "--overwrite")
    assert wav_header(tmp_path / "mix.drums.wav") == (44100, round(0.3 * 44100), 1, 3)


def test_a_folder_of_contexts(generate: Stage, write_music: Write, tmp_path: Path) -> None:
    for name in ("b.wav", "a.flac", "a.flac.txt", ".hidden.wav", "sub/c.wav", "a.drums.wav"):
        write_music(f"songs/{name}", seconds=0.3, format="WAV" if name.endswith("txt") else None)
    single = write_music("single.wav", seconds=0.3)
    results = generate("--context", tmp_path / "songs", single, "--overwrite").results
    assert [Path(result["context"]).name for result in results] == ["a.flac", "b.wav", "single.wav"]
    assert (tmp_path / "songs" / "b.drums.wav").is_file()


def test_a_failure_does_not_stop_the_others(stage: Stage, tiny_model_dir: Path, write_music: Write) -> None:
    first, last = write_music("1.wav", seconds=0.3), write_music("4.wav", seconds=0.3)
    text = first.with_name("2.wav")
    text.write_text("no audio")
    broken = first.with_name("3.wav")
    soundfile.write(broken, np.full(8000, np.nan), 8000, subtype="FLOAT")
    command = ("generate", first, text, broken, last, "--stem", "drums", "--model", tiny_model_dir)
    outcome = stage(*command)
    assert outcome.code == 1
    header, *rows = (line.split("\t") for line in outcome.stdout.splitlines())
    assert header == ["file", "seconds", "peak dBFS", "LUFS", "seed", "× real time"]
    assert [Path(row[0]).name for row in rows] == ["1.drums.wav", "4.drums.wav"]
    assert f"cannot read {text}" in outcome.stderr
    assert f"{broken} holds samples that are not audio" in outcome.stderr
    assert {path.name for path in first.parent.glob("*drums*")} == {"1.drums.wav", "4.drums.wav"}

    in_json = stage(*command, "--json", "--overwrite")
    assert in_json.code == 1
    told = {Path(result["context"]).name: result.get("error", "written") for result in in_json.results}
    assert told == {
        "1.wav": "written",
        "2.wav": f"cannot read {text}",
        "3.wav": f"{broken} holds samples that are not audio",
        "4.wav": "written",
    }


def test_json(generate: Stage, write_music: Write, tiny_model_dir: Path) -> None:
    context = write_music(seconds=1.0)
    first, second = generate(context, "--seed", 7, "--variations", 2, "--mix").results
    assert list(first) == list(second) == [
        "context", "stem", "model", "path", "mix_path", "seed", "seconds", "sample_rate", "frames", "peak", "loudness",
        "turned_down", "mix_turned_down", "silent", "midi_path", "note_count", "bpm", "beats", "beat_confidence",
        "compute_seconds", "speed", "notes",
    ]  # fmt: skip
    assert (first["context"], first["stem"], first["model"]) == (str(context), "drums", str(tiny_model_dir))
    assert (first["seed"], second["seed"]) == (7, 8)
    assert first["speed"] == pytest.approx(2.0 / first["compute_seconds"])
    assert first["silent"] is False


def test_loudness_that_cannot_be_measured_is_null(generate: Stage, write_music: Write) -> None:
    assert generate(write_music(seconds=0.2)).result["loudness"] is None


def test_progress_and_notes_go_to_stderr(stage: Stage, write_music: Write, tiny_model_dir: Path) -> None:
    context = write_music(seconds=0.5)
    outcome = stage("generate", context, "--stem", "drums", "--model", tiny_model_dir, "--seed", 12)
    assert len(outcome.stdout.splitlines()) == 2, "a table of one row"
    assert f"Model: {tiny_model_dir} on cpu in float32. Seed: 12." in outcome.stderr
    assert "mix.drums.wav was turned down by" in outcome.stderr


def test_a_seed_fixes_the_file(generate: Stage, write_music: Write, tmp_path: Path) -> None:
    context = write_music(seconds=1.5)
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        generate(context, "--seed", seed, "--output", f"{name}.wav")
    a, b, c = ((tmp_path / f"{name}.wav").read_bytes() for name in "abc")
    assert a == b
    assert a != c


def test_without_a_seed_each_run_differs_and_can_be_repeated(generate: Stage, write_music: Write) -> None:
    context = write_music(seconds=0.5)
    first = generate(context, "--output", "first.wav").result
    second = generate(context, "--output", "second.wav").result
    assert first["seed"] != second["seed"]
    generate(context, "--output", "again.wav", "--seed", first["seed"])
    assert Path("again.wav").read_bytes() == Path("first.wav").read_bytes()


def test_variations_are_the_runs_of_the_seeds_that_follow(generate: Stage, write_music: Write) -> None:
    context = write_music(seconds=1.5)
    together = generate(context, "--seed", 20, "--variations", 3, "--output", "together.wav").results
    audio = [read_wav(result["path"]) for result in together]
    for i, result in enumerate(together):
        assert result["seed"] == 20 + i
        alone = generate(context, "--seed", 20 + i, "--output", f"alone{i}.wav").result
        # The same tokens; a product over three rows adds up in another order than over one, so samples may differ
        # by what float32 rounds.
        np.testing.assert_allclose(audio[i], read_wav(alone["path"]), rtol=0, atol=16 * LSB)
    assert np.abs(audio[0] - audio[1]).max() > 0.01
    assert np.abs(audio[1] - audio[2]).max() > 0.01


def test_temperature_zero_needs_no_seed(generate: Stage, write_music: Write) -> None:
    context = write_music(seconds=0.8)
    for seed in (1, 2):
        generate(context, "--temperature", 0, "--seed", seed, "--output", f"{seed}.wav")
    assert Path("1.wav").read_bytes() == Path("2.wav").read_bytes()


@pytest.mark.parametrize(
    "option",
    [("--guidance", 1), ("--temperature", 3), ("--top-k", 2), ("--top-p", 0.2), ("--precision", "bfloat16")],
    ids=lambda option: option[0],
)
def test_each_option_of_sampling_is_used(generate: Stage, write_music: Write, option: tuple) -> None:
    context = write_music(seconds=1.0)
    generate(context, "--seed", 1, "--output", "default.wav")
    generate(context, "--seed", 1, "--output", "changed.wav", *option)
    assert Path("default.wav").read_bytes() != Path("changed.wav").read_bytes()


def test_a_model_draws_for_metronomes_as_its_config_says(
    stage: Stage, generate: Stage, write_music: Write, tiny_model_dir: Path, tmp_path: Path
) -> None:
    model = shutil.copytree(tiny_model_dir, tmp_path / "model")
    config = json.loads((model / "config.json").read_text())
    config |= {"sampling": {"top_k": 3}, "metronome_sampling": {"temperature": 0.0}, "note": "Plays no fills."}
    (model / "config.json").write_text(json.dumps(config))
    music = write_music(seconds=1.0)
    for context, name, drawn in (
        (("--bpm", 120, "--duration", 1), "clicks", ("--top-k", 3, "--temperature", 0)),
        ((music,), "music", ("--top-k", 3)),
    ):
        generate(*context, "--seed", 1, "--model", model, "--output", f"{name}.wav")
        generate(*context, "--seed", 1, *drawn, "--output", f"{name}-chosen.wav")
        assert Path(f"{name}.wav").read_bytes() == Path(f"{name}-chosen.wav").read_bytes()
    told = stage("generate", music, "--stem", "drums", "--model", model, "--output", "told.wav")
    assert "Plays no fills." in told.stderr
    # What the user says goes before it.
    generate("--bpm", 120, "--duration", 1, "--seed", 1, "--temperature", 1, "--model", model, "--output", "own.wav")
    assert Path("own.wav").read_bytes() != Path("clicks.wav").read_bytes()


def test_the_stem_follows_the_context(generate: Stage, write_music: Write, tmp_path: Path) -> None:
    music = write_music(seconds=1.0)
    noise = tmp_path / "noise.wav"
    soundfile.write(noise, np.random.default_rng(0).uniform(-0.5, 0.5, 44100), 44100)
    generate(music, noise, "--temperature", 0)
    assert (tmp_path / "mix.drums.wav").read_bytes() != (tmp_path / "noise.drums.wav").read_bytes()


@pytest.mark.parametrize(
    ("options", "first", "end"),
    [
        pytest.param(("--start", 0.5), 22050, 88200, id="start"),
        pytest.param(("--duration", 0.7), 0, 30870, id="duration"),
        pytest.param(("--start", 0.333, "--duration", 0.5), 14685, 36735, id="both"),
        pytest.param(("--start", 1.99998), 88199, 88200, id="the-last-frame"),
    ],
)
def test_a_part_of_a_file_is_as_a_file_of_that_part(
    generate: Stage, write_music: Write, options: tuple, first: int, end: int
) -> None:
    context = write_music(seconds=2.0)
    samples, rate = soundfile.read(context, dtype="int16")
    part = context.with_name("part.wav")
    soundfile.write(part, samples[first:end], rate, subtype="PCM_16")
    for name, arguments in (("of-the-whole.wav", (context, *options)), ("of-the-part.wav", (part,))):
        generate(*arguments, "--seed", 1, "--output", name)
        assert wav_header(name) == (44100, end - first, 1, 3)
    assert Path("of-the-whole.wav").read_bytes() == Path("of-the-part.wav").read_bytes()


def test_a_part_is_mixed_with_the_same_part(generate: Stage, write_music: Write) -> None:
    context = write_music(seconds=1.0, subtype="PCM_24")
    result = generate(context, "--start", 0.25, "--duration", 0.5, "--mix").result
    stem = read_wav(result["path"]) * 10 ** (result["turned_down"] / 20)
    mixed = read_wav(result["mix_path"]) * 10 ** (result["mix_turned_down"] / 20)
    np.testing.assert_allclose(mixed - stem, read_wav(context)[11025:33075], rtol=0, atol=8 * LSB)


def test_a_duration_past_the_end(generate: Stage, write_music: Write) -> None:
    result = generate(write_music(seconds=1.0), "--start", 0.4, "--duration", 3).result
    assert result["frames"] == 44100 - 17640
    assert "The context ends after 0.60 s: the stem is that long." in result["notes"]


def test_advance(generate: Stage, write_music: Write) -> None:
    context = write_music(seconds=2.0)
    for name, options in (("default", ()), ("half", ("--advance", 0.5)), ("all", ("--advance", 1))):
        generate(context, "--seed", 1, *options, "--output", f"{name}.wav")
    default, half, all_new = (read_wav(f"{name}.wav") for name in ("default", "half", "all"))
    assert np.array_equal(default, half)
    # The first window (of 1 s) is the same; then one remembers nothing.
    assert np.array_equal(default[:30000], all_new[:30000])
    assert not np.array_equal(default, all_new)


def test_lookahead(generate: Stage, write_music: Write) -> None:
    context = write_music(seconds=2.0)
    for name, options in (("default", ()), ("none", ("--lookahead", 0)), ("ahead", ("--lookahead", 0.25))):
        generate(context, "--seed", 1, *options, "--output", f"{name}.wav")
    default, none, ahead = (read_wav(f"{name}.wav") for name in ("default", "none", "ahead"))
    assert np.array_equal(default, none)
    # The first window (of 1 s) writes 0.75 s; what follows was made with more of the context behind it.
    ahead *= default[0] / ahead[0]  # each was turned down by itself
    assert np.allclose(default[:20000], ahead[:20000], rtol=0, atol=1e-5)
    assert not np.allclose(default[40000:], ahead[40000:], rtol=0, atol=0.01)


@pytest.mark.parametrize("seconds", [1.0, 1.01, 1.5, 4.3])
def test_contexts_longer_than_a_window(generate: Stage, write_music: Write, seconds: float) -> None:
    # The model's window is 1 s, and it advances by half of it: 4.3 s take eight.
    context = write_music(seconds=seconds, sample_rate=8000)
    stem = read_wav(generate(context).result["path"])
    assert stem.shape == (round(seconds * 8000), 1)
    level = np.sqrt(np.mean(np.square(stem[: int(seconds * 10) * 800].reshape(-1, 800)), axis=1))
    assert level.min() > 0.01, "sound in every tenth of a second"


def test_a_metronome(generate: Stage, tmp_path: Path) -> None:
    options = ("--beats-per-bar", 3, "--duration", 2.5, "--offset", 0.125, "--mix")
    result = generate("--bpm", 120, *options).result
    assert result["path"] == "120bpm.drums.wav"
    assert result["mix_path"] == "120bpm.drums.mix.wav"
    assert wav_header(result["path"]) == wav_header(result["mix_path"]) == (8000, 20000, 1, 3)
    stem = read_wav("120bpm.drums.wav") * 10 ** (result["turned_down"] / 20)
    mixed = read_wav("120bpm.drums.mix.wav") * 10 ** (result["mix_turned_down"] / 20)
    clicks = np.abs(mixed - stem)[:, 0]
    # A click of 0.1 s at 0.125, 0.625, …, and silence before, between and after; each third one is a downbeat.
    begins = [round((0.125 + 0.5 * beat) * 8000) for beat in range(5)]
    energies = [float(np.square(clicks[begin : begin + 800]).sum()) for begin in begins]
    beat, downbeat = energies[1], energies[0]
    assert downbeat > 2 * beat > 0
    assert energies == pytest.approx([downbeat, beat, beat, downbeat, beat], rel=1e-3)
    sounding = np.zeros(20000, dtype=bool)
    for begin in begins:
        sounding[begin : begin + 800] = True
    assert clicks[~sounding].max() < 16 * LSB


def test_a_metronome_lasts_30_seconds_if_nothing_is_said(generate: Stage) -> None:
    result = generate("--bpm", 97.5, "--guidance", 1, "--output", "clicks").result
    assert result["path"] == "clicks/97.5bpm.drums.wav"
    assert result["frames"] == 30 * 8000


def _round_trip(model: StageModel, audio: np.ndarray) -> np.ndarray:
    with torch.inference_mode():
        codes = model.codec.encode(torch.from_numpy(audio.astype(np.float32))[None, None])
        return model.codec.decode(codes)[0, 0].numpy()


@pytest.mark.parametrize("rate", [8000, 44100])
def test_continue(generate: Stage, write_music: Write, tiny_model: StageModel, rate: int) -> None:
    context = write_music(seconds=2.2, sample_rate=rate)
    beginning = write_music("beginning.wav", seconds=1.3, sample_rate=rate, channels=1, subtype="FLOAT")
    result = generate(context, "--continue", beginning, "--seed", 4).result
    stem = read_wav(result["path"])[:, 0] * 10 ** (result["turned_down"] / 20)
    assert len(stem) == round(2.2 * rate)
    audio = soundfile.read(beginning)[0]
    at_8_khz = soxr.resample(audio, rate, 8000, quality="VHQ")
    expected = soxr.resample(_round_trip(tiny_model, at_8_khz), 8000, rate, quality="VHQ")
    # The codec looks ahead, so the end of the beginning hears what follows: 0.1 s (five frames) are left out.
    same = round(1.2 * rate)
    np.testing.assert_allclose(stem[:same], expected[:same], rtol=0, atol=2e-5)
    assert np.abs(stem[round(1.35 * rate) :]).max() > 0.01
    again = generate(context, "--seed", 4, "--output", "free.wav").result
    assert np.abs(read_wav(again["path"])[:same, 0] * 10 ** (again["turned_down"] / 20) - stem[:same]).max() > 0.01


def test_continue_may_be_longer_than_the_context(refused: Refused, write_music: Write, tiny_model_dir: Path) -> None:
    context, longer = write_music(seconds=0.5), write_music("longer.wav", seconds=3.0)
    refused(
        "generate", context, "--stem", "drums", "--model", tiny_model_dir, "--continue", longer,
        code=2, match="longer.wav is as long as the context: nothing is left to generate.*give a shorter one",
    )  # fmt: skip


def test_a_silent_result_is_said(
    generate: Stage, write_music: Write, change_model: Callable[..., Path], tiny_model: StageModel
) -> None:
    state = tiny_model.state_dict()
    mute = {name: torch.zeros_like(state[name]) for name in state if name.startswith("codec.decoder.output")}
    result = generate(write_music(seconds=0.5), "--model", change_model(tensors=mute)).result
    assert result["silent"] is True
    assert result["peak"] is None, "−∞ dBFS"
    assert result["notes"] == [f"{result['path']} is silent (peak under −60 dBFS): try another --seed."]
    assert not read_wav(result["path"]).any()


def test_a_model_for_any_stem(generate: Stage, write_music: Write, change_model: Callable[..., Path]) -> None:
    result = generate(
        write_music(seconds=0.3), "--model", change_model(config={"stem": None}), "--stem", "Bass Guitar"
    ).result
    assert result["stem"] == "bass"
    assert Path(result["path"]).name == "mix.bass.wav"


def test_a_model_of_ones_own_by_its_name(
    generate: Stage, write_music: Write, change_model: Callable[..., Path]
) -> None:
    change_model("own-models/my-drums")
    assert generate(write_music(seconds=0.3), "--model", "my-drums").result["model"] == "my-drums"


def test_plain_musicgen_with_a_description(generate: Stage, write_music: Write, musicgen_dir: Path) -> None:
    context = write_music(seconds=0.5)
    seed = ("--model", musicgen_dir, "--seed", 1)
    plain = generate(context, *seed, "--output", "plain.wav").result
    assert any("This is a plain MusicGen: it goes on from the context" in note for note in plain["notes"])
    generate(context, *seed, "--output", "rock.wav", "--description", "Genre: Rock. Mood: happy.")
    generate(context, *seed, "--output", "jazz.wav", "--description", "Genre: Jazz. Mood: sad.")
    assert len({Path(name).read_bytes() for name in ("plain.wav", "rock.wav", "jazz.wav")}) == 3
