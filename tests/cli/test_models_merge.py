"""Adapters on the command line: generate with them, merge them, list, show, pull and push them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hub_server import TOKEN, HubServer
from random_adapters import expected_state, save_random_adapter
from random_weights import randomise
from safetensors.torch import load_file

from cli.conftest import Refused, Stage, read_wav, snapshot, wav_header
from stage_cli.core.model import StageModel
from stage_cli.core.model_config import StageConfig

Write = Callable[..., Path]

HEAD = "---\nlicense: mit\nbase_model: someone/base\nbase_model_relation: adapter\n---\n\n# Drums for everybody\n"
SECTIONS = "\n## How to use it\n\nThe adapter needs its base.\n\n## Licence\n\nMIT\n"
CARD = HEAD + SECTIONS


@pytest.fixture
def run(tiny_model_dir: Path, tmp_path: Path) -> Path:
    """A finished LoRA run on the tiny model, with a card."""
    folder = tmp_path / "runs" / "lora"
    save_random_adapter(folder / "model", tiny_model_dir)
    (folder / "config.toml").write_text("[lora]\n")
    (folder / "model" / "README.md").write_text(CARD)
    return folder


def same_sound(one: Path, other: Path) -> bool:
    """Whether two files sound the same: their 24-bit samples differ by a rounding at most."""
    return bool(abs(read_wav(one) - read_wav(other)).max() < 1e-5)


# generate


def test_generate_with_a_lora_run_and_with_the_merged_model(
    stage: Stage, run: Path, tiny_model_dir: Path, write_music: Write, tmp_path: Path
) -> None:
    outcome = stage("models", "merge", run, tmp_path / "merged")
    assert outcome.code == 0, outcome.stderr
    context = write_music(seconds=0.6)
    options = ("--stem", "drums", "--seed", 3, "--guidance", 2.5, "--device", "cpu")
    for model, name in (
        (run, "run"),
        (run / "model", "adapter"),
        (tmp_path / "merged", "merged"),
        (tiny_model_dir, "base"),
    ):
        outcome = stage("generate", context, *options, "--model", model, "--output", tmp_path / f"{name}.wav")
        assert outcome.code == 0, outcome.stderr
    assert wav_header(tmp_path / "run.wav") == (44100, 26460, 1, 3)
    assert same_sound(tmp_path / "run.wav", tmp_path / "adapter.wav")
    assert same_sound(tmp_path / "run.wav", tmp_path / "merged.wav")
    assert not same_sound(tmp_path / "run.wav", tmp_path / "base.wav")


def test_generate_with_a_run_that_trained_a_whole_model(
    stage: Stage, tiny_model_dir: Path, write_music: Write, tmp_path: Path
) -> None:
    shutil.copytree(tiny_model_dir, tmp_path / "runs" / "whole" / "model")
    (tmp_path / "runs" / "whole" / "config.toml").touch()
    outcome = stage("generate", write_music(seconds=0.3), "--stem", "drums", "--model", tmp_path / "runs" / "whole")
    assert outcome.code == 0, outcome.stderr
    assert wav_header(tmp_path / "mix.drums.wav") == (44100, 13230, 1, 3)


def test_generate_with_text_on_a_grown_musicgen(
    stage: Stage, musicgen_dir: Path, write_music: Write, tmp_path: Path
) -> None:
    save_random_adapter(tmp_path / "run" / "model", musicgen_dir, targets=("attention_qkv", "text_kv"))
    context = write_music(seconds=0.3)
    options = ("--stem", "drums", "--seed", 3, "--precision", "float32", "--device", "cpu")
    command = ("generate", context, *options, "--model", tmp_path / "run")
    for name, description in (("rock", "genre: rock"), ("jazz", "genre: jazz"), ("again", "genre: rock")):
        outcome = stage(*command, "--description", description, "--output", tmp_path / f"{name}.wav")
        assert outcome.code == 0, outcome.stderr
    assert same_sound(tmp_path / "rock.wav", tmp_path / "again.wav")
    assert not same_sound(tmp_path / "rock.wav", tmp_path / "jazz.wav")
    # The merged model finds the text encoder as well.
    assert stage("models", "merge", tmp_path / "run", tmp_path / "merged").code == 0
    merged = ("generate", context, *options, "--model", tmp_path / "merged")
    assert stage(*merged, "--description", "genre: rock", "--output", tmp_path / "merged.wav").code == 0
    assert same_sound(tmp_path / "rock.wav", tmp_path / "merged.wav")


def test_generate_with_another_base(
    refused: Refused, run: Path, tiny_config: StageConfig, write_music: Write, tmp_path: Path
) -> None:
    other = StageModel(tiny_config)
    randomise(other, seed=1)
    other.save_pretrained(tmp_path / "other")
    values = json.loads((run / "model" / "config.json").read_text())
    (run / "model" / "config.json").write_text(json.dumps(values | {"base": str(tmp_path / "other")}))
    command = ("generate", write_music(seconds=0.3), "--stem", "drums", "--model", run)
    refused(*command, code=1, match="other is not the base of the adapter .*holds other numbers")


# merge


def test_merge(stage: Stage, run: Path, tiny_model_dir: Path, tmp_path: Path) -> None:
    outcome = stage("models", "merge", run, tmp_path / "merged")
    assert outcome.code == 0, outcome.stderr
    assert outcome.stdout == f"{tmp_path / 'merged'}\n"
    assert "Licence of the weights: MIT." in outcome.stderr
    files = {path.name for path in (tmp_path / "merged").iterdir()}
    assert files == {"config.json", "model.safetensors", "README.md"}
    state = load_file(tmp_path / "merged" / "model.safetensors")
    expected = expected_state(tiny_model_dir, load_file(run / "model" / "adapter.safetensors"))
    assert state.keys() == expected.keys()
    for name, tensor in expected.items():
        assert state[name].dtype == torch.float32
        torch.testing.assert_close(state[name], tensor, atol=1e-6, rtol=1e-5)
    card = (tmp_path / "merged" / "README.md").read_text()
    notice = card.removeprefix(HEAD.replace("relation: adapter", "relation: finetune")).removesuffix(SECTIONS)
    assert len(notice) == len(card) - len(HEAD) - 1 - len(SECTIONS)  # both are whole
    assert notice.startswith("\n**Merged.** This is the whole model: the adapter of rank 3 ")
    # Neither the adapter nor its base is needed any more.
    shutil.rmtree(run)
    facts = stage("models", "show", tmp_path / "merged", "--json").result
    assert (facts["kind"], facts["stem"], facts["licence"]) == ("STAGE", "drums", "MIT")
    assert "adapter" not in facts


def test_merge_to_bfloat16(stage: Stage, run: Path, tmp_path: Path) -> None:
    assert stage("models", "merge", run, tmp_path / "whole").code == 0
    assert stage("models", "merge", run, tmp_path / "half", "--precision", "bfloat16").code == 0
    whole, half = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "half"))
    for name, tensor in whole.items():
        expected = tensor.bfloat16() if name.startswith("lm.") else tensor
        assert half[name].dtype == expected.dtype
        assert torch.equal(half[name], expected), name
    assert "stored as bfloat16" in (tmp_path / "half" / "README.md").read_text()


def test_merge_without_a_card(stage: Stage, run: Path, tmp_path: Path) -> None:
    (run / "model" / "README.md").unlink()
    assert stage("models", "merge", run, tmp_path / "merged").code == 0
    assert {path.name for path in (tmp_path / "merged").iterdir()} == {"config.json", "model.safetensors"}


def test_merge_over_a_model(stage: Stage, refused: Refused, run: Path, tmp_path: Path) -> None:
    assert stage("models", "merge", run, tmp_path / "merged").code == 0
    refused("models", "merge", run, tmp_path / "merged", code=2, match="merged holds a model already.*--overwrite")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "README.md").write_text("mine")
    refused("models", "merge", run, tmp_path / "notes", code=2, match="notes holds a model already")
    config = tmp_path / "merged" / "config.json"
    config.write_text("{}")
    assert stage("models", "merge", run, tmp_path / "merged", "--overwrite").code == 0
    assert json.loads(config.read_text())["model_type"] == "stage"


def test_merge_over_what_is_merged(refused: Refused, run: Path, tiny_model_dir: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_model_dir, tmp_path / "base")
    save_random_adapter(tmp_path / "adapter", tmp_path / "base")
    for output in ("adapter", "base"):
        command = ("models", "merge", tmp_path / "adapter", tmp_path / output, "--overwrite")
        refused(*command, code=2, match=f"{output} is what is to be merged")


def test_merge_with_a_base_that_has_moved(stage: Stage, refused: Refused, tiny_model_dir: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_model_dir, tmp_path / "base")
    save_random_adapter(tmp_path / "run" / "model", tmp_path / "base")
    (tmp_path / "base").rename(tmp_path / "moved")
    command = ("models", "merge", tmp_path / "run", tmp_path / "merged")
    refused(*command, code=1, match=r"The base of the adapter .* is not here.*--base DIRECTORY")
    outcome = stage(*command, "--base", tmp_path / "moved")
    assert outcome.code == 0, outcome.stderr
    assert stage("models", "show", tmp_path / "merged", "--json").result["stem"] == "drums"


def test_merge_what_cannot_be_merged(refused: Refused, run: Path, tiny_model_dir: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    match = r"is not an adapter.*a training run with \[lora\].*can be used as it is"
    refused("models", "merge", tiny_model_dir, out, code=2, match=match)
    match = "--precision int8 is unknown.*allowed: float32, bfloat16"
    refused("models", "merge", run, out, "--precision", "int8", code=2, match=match)
    refused("models", "merge", "nothing", out, code=2, match="There is no model 'nothing'")
    refused("models", "merge", run, out, "--base", "nothing", code=2, match="There is no model 'nothing'")
    (tmp_path / "file").touch()
    refused("models", "merge", run, tmp_path / "file" / "out", code=1, match="Cannot write the model to .*file/out")
    data = (run / "model" / "adapter.safetensors").read_bytes()
    (run / "model" / "adapter.safetensors").write_bytes(data[:-10])
    refused("models", "merge", run, out, code=1, match=r"adapter\.safetensors is truncated, damaged")


# list, show


def test_list(stage: Stage, run: Path, tiny_model_dir: Path, tmp_path: Path) -> None:
    shutil.copytree(run / "model", tmp_path / "own-models" / "my-lora")
    mine = stage("models", "list", "--json").results[2]
    megabytes = (run / "model" / "adapter.safetensors").stat().st_size / 1e6
    assert mine == {
        "name": "my-lora",
        "stem": "drums",
        "parameters_millions": pytest.approx(0.082432),
        "licence": "MIT",
        "path": str(tmp_path / "own-models" / "my-lora"),
        "note": f"adapter of rank 3, {megabytes:.1f} MB, for {tiny_model_dir.resolve()}",
    }


def test_show(stage: Stage, run: Path, tiny_model_dir: Path) -> None:
    facts = stage("models", "show", run, "--json").result
    assert (facts["kind"], facts["stem"], facts["licence"]) == ("STAGE", "drums", "MIT")
    assert facts["adapter"] == "LoRA of rank 3, alpha 7.5, on attention_qkv, attention_out"
    assert facts["adapter_megabytes"] == pytest.approx(
        (run / "model" / "adapter.safetensors").stat().st_size / 1e6, abs=0.05
    )
    assert (facts["base"], facts["path"]) == (str(tiny_model_dir.resolve()), str(run / "model"))
    assert facts["missing_offline"] == []


def test_show_says_what_is_missing(stage: Stage, hub: HubServer, musicgen_dir: Path, tmp_path: Path) -> None:
    save_random_adapter(tmp_path / "adapter", musicgen_dir, named="facebook/musicgen-small")
    facts = stage("models", "show", tmp_path / "adapter", "--json").result
    assert (facts["missing_offline"], facts["text_encoder"]) == (["base facebook/musicgen-small"], "its base's")
    assert hub.requests == []
    hub.add_repo("facebook/musicgen-small", musicgen_dir)
    assert stage("models", "pull", tmp_path / "adapter").code == 0
    assert stage("models", "show", tmp_path / "adapter", "--json").result["missing_offline"] == []


# pull, push


def test_push_pull_and_generate_offline(
    stage: Stage,
    hub: HubServer,
    musicgen_dir: Path,
    write_music: Write,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    hub.add_repo("facebook/musicgen-small", musicgen_dir)
    save_random_adapter(tmp_path / "run" / "model", musicgen_dir, named="musicgen-small")
    (tmp_path / "run" / "model" / "README.md").write_text(CARD)
    (tmp_path / "run" / "metrics.jsonl").write_text("{}\n")
    outcome = stage("models", "push", tmp_path / "run", "me/lora")
    assert outcome.code == 0, outcome.stderr
    assert outcome.stdout.startswith(f"{hub.url}/me/lora/commit/")
    assert "only this machine has" not in outcome.stderr
    model = snapshot(tmp_path / "run" / "model")
    assert {name: data for name, data in hub.files("me/lora").items() if name != ".gitattributes"} == model
    shutil.rmtree(tmp_path / "run")
    assert stage("models", "pull", "me/lora").code == 0
    hub.stop()
    context = write_music(seconds=0.3)
    command = ("generate", context, "--stem", "drums", "--model", "me/lora", "--offline", "--description", "rock")
    outcome = stage(*command)
    assert outcome.code == 0, outcome.stderr
    assert wav_header(tmp_path / "mix.drums.wav") == (44100, 13230, 1, 3)
    # Merged, it names the published text encoder, not a folder of the cache.
    assert stage("models", "merge", "me/lora", tmp_path / "merged", "--offline").code == 0
    assert json.loads((tmp_path / "merged" / "config.json").read_text())["text_encoder"] == "facebook/musicgen-small"


def test_push_with_a_base_that_others_have_not(
    stage: Stage, hub: HubServer, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    outcome = stage("models", "push", run, "me/lora")
    assert outcome.code == 0, outcome.stderr
    assert "which only this machine has: for others, push the merged model (stage models merge" in outcome.stderr
    assert "Licence of the weights: MIT." in outcome.stderr
