"""`stage models`: what it prints, and that what it makes can be used."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from audiocraft_reference import save_audiocraft
from hub_server import TOKEN, HubServer
from safetensors.torch import load_file, save_file
from transformers_reference import save_text_encoder
from x_transformers_reference import StageReference

from cli.conftest import Refused, Stage, snapshot, wav_header

Write = Callable[..., Path]
ChangeModel = Callable[..., Path]


def rows_of(stdout: str) -> list[list[str]]:
    return [line.split("\t") for line in stdout.splitlines()]


# list


def test_list(stage: Stage, hub: HubServer, change_model: ChangeModel, tmp_path: Path) -> None:
    change_model("own-models/my-drums")
    change_model("own-models/from-the-future", config={"format_version": 99})
    (tmp_path / "own-models" / "notes").mkdir()
    header, *rows = rows_of(stage("models", "list").stdout)
    assert header == ["name", "stem", "size", "licence", "where", "note"]
    assert [row[0] for row in rows] == [
        "bundled-bass", "bundled-drums", "from-the-future", "my-drums",
        "musicgen-small", "musicgen-medium", "musicgen-large",
    ]  # fmt: skip
    bundled, future, mine, small = rows[1:5]
    assert (bundled[1], bundled[3]) == ("drums", "MIT")
    assert "cannot be used: The model has format version 99" in future[5]
    assert mine == ["my-drums", "drums", "0 M", "MIT", str(tmp_path / "own-models" / "my-drums"), ""]
    assert small[1:5] == ["–", "420 M", "CC-BY-NC-4.0 (no commercial use)", "to be pulled"]
    assert hub.requests == [], "listing asks no network"


def test_list_in_json(stage: Stage, change_model: ChangeModel) -> None:
    folder = change_model("own-models/my-drums")
    bass, drums, mine, *published = stage("models", "list", "--json").results
    assert (bass["name"], drums["name"]) == ("bundled-bass", "bundled-drums")
    assert mine.pop("parameters_millions") == pytest.approx(0.082432)
    assert mine == {"name": "my-drums", "stem": "drums", "licence": "MIT", "path": str(folder), "note": ""}
    assert all(model["path"] is None for model in published)


def test_own_models_lie_in_the_users_data_folder(
    stage: Stage, change_model: ChangeModel, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("STAGE_MODELS")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    change_model("data/stage-cli/models/my-drums")
    assert stage("models", "list", "--json").results[2]["name"] == "my-drums"


# show


def test_show(stage: Stage, tiny_model_dir: Path) -> None:
    outcome = stage("models", "show", tiny_model_dir)
    assert outcome.code == 0
    facts = {row[0]: row[1] for row in rows_of(outcome.stdout)}
    assert facts["stem"] == "drums"
    assert facts["kind"] == "STAGE"
    assert facts["width layers heads"] == "64, 2, 2"
    assert facts["codec"] == "EnCodec, 8000 Hz, 50 frames/s, 4 × 32 codes"
    assert facts["text encoder"] == "none"
    assert facts["licence"] == "MIT"
    assert facts["missing offline"] == "nothing"


def test_show_in_json(stage: Stage, musicgen_dir: Path) -> None:
    facts = stage("models", "show", musicgen_dir, "--json").result
    assert facts["kind"] == "plain MusicGen (not trained to accompany)"
    assert facts["text_encoder"] == "its own"
    assert facts["licence"] == "CC-BY-NC-4.0 (MusicGen)"
    assert facts["missing_offline"] == []


def test_show_a_model_of_the_hub(stage: Stage, hub: HubServer, change_model: ChangeModel) -> None:
    hub.add_repo("someone/drums", change_model(config={"stem": "bass"}), revision="v2")
    facts = stage("models", "show", "someone/drums@v2", "--json").result
    assert facts["stem"] == "bass"
    assert Path(facts["path"], "model.safetensors").is_file()


@pytest.mark.parametrize("command", ["show", "pull"])
def test_show_and_pull_what_is_not_there(refused: Refused, hub: HubServer, command: str) -> None:
    match = "no model 'musicgen-smal'.*did you mean musicgen-small"
    refused("models", command, "musicgen-smal", code=2, match=match)
    match = "no repository someone/nothing on the Hub, or it is private.*check the spelling"
    refused("models", command, "someone/nothing", code=1, match=match)


# pull


def test_pull_then_generate_offline(
    stage: Stage, hub: HubServer, musicgen_dir: Path, write_music: Write, tmp_path: Path
) -> None:
    hub.add_repo("facebook/musicgen-small", musicgen_dir)
    outcome = stage("models", "pull", "musicgen-small")
    assert outcome.code == 0, outcome.stderr
    assert Path(outcome.stdout.rstrip("\n"), "model.safetensors").is_file()
    assert "Licence of the weights: CC-BY-NC-4.0" in outcome.stderr
    here = [model["name"] for model in stage("models", "list", "--json").results if model["path"]]
    assert here == ["bundled-bass", "bundled-drums", "musicgen-small"]
    hub.stop()
    command = ("generate", write_music(seconds=0.3), "--stem", "drums", "--model", "musicgen-small", "--offline")
    outcome = stage(*command, "--description", "genre: rock")
    assert outcome.code == 0, outcome.stderr
    assert wav_header(tmp_path / "mix.drums.wav") == (44100, 13230, 1, 3)


def test_pull_fetches_the_text_encoder(stage: Stage, hub: HubServer, musicgen_dir: Path, tmp_path: Path) -> None:
    command = ("models", "import", musicgen_dir / "model.safetensors", "--output", tmp_path / "own", "--stem", "drums")
    assert stage(*command).code == 0
    values = json.loads((tmp_path / "own" / "config.json").read_text())
    (tmp_path / "own" / "config.json").write_text(json.dumps(values | {"text_encoder": "someone/t5"}))
    save_text_encoder(tmp_path / "t5")
    hub.add_repo("someone/own", tmp_path / "own")
    hub.add_repo("someone/t5", tmp_path / "t5")
    missing = stage("models", "show", "someone/own", "--json").result["missing_offline"]
    assert missing == ["text encoder someone/t5 (for --description)"]
    assert stage("models", "pull", "someone/own").code == 0
    assert stage("models", "show", "someone/own", "--json", "--offline").result["missing_offline"] == []


# import


@pytest.fixture
def stage_checkpoint(tmp_path: Path) -> Path:
    """A file as STAGE's authors publish it; codec and text encoder are not in it."""
    path = tmp_path / "stage-drums.safetensors"
    save_file({name: tensor.clone() for name, tensor in StageReference().state_dict().items()}, path)
    return path


@pytest.fixture
def audiocraft_dir(musicgen_dir: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "audiocraft"
    save_audiocraft(folder, load_file(musicgen_dir / "model.safetensors"), heads=4, layers=3)
    return folder


def test_import_a_stage_checkpoint_and_generate(
    stage: Stage, stage_checkpoint: Path, musicgen_dir: Path, write_music: Write, tmp_path: Path
) -> None:
    outcome = stage("models", "import", stage_checkpoint, "--stem", "drum kit", "--base", musicgen_dir)
    assert outcome.code == 0, outcome.stderr
    model = tmp_path / "own-models" / "stage-drums"
    assert outcome.stdout == f"{model}\n"
    assert "Licence of the weights: unknown" in outcome.stderr
    assert {path.name for path in model.iterdir()} == {"config.json", "model.safetensors"}
    facts = stage("models", "show", "stage-drums", "--json").result
    assert (facts["stem"], facts["kind"], facts["base"]) == ("drums", "STAGE", str(musicgen_dir))
    command = ("generate", write_music(seconds=0.3), "--stem", "drums", "--model", "stage-drums")
    assert stage(*command).code == 0
    assert wav_header(tmp_path / "mix.drums.wav") == (44100, 13230, 1, 3)


@pytest.mark.parametrize("source", ["transformers-folder", "transformers-file", "audiocraft-folder", "audiocraft-file"])
def test_import_a_musicgen(
    stage: Stage, musicgen_dir: Path, audiocraft_dir: Path, write_music: Write, tmp_path: Path, source: str
) -> None:
    checkpoint = {
        "transformers-folder": musicgen_dir,
        "transformers-file": musicgen_dir / "model.safetensors",
        "audiocraft-folder": audiocraft_dir,
        "audiocraft-file": audiocraft_dir / "state_dict.bin",
    }[source]
    outcome = stage("models", "import", checkpoint, "--output", tmp_path / "imported")
    assert outcome.code == 0, outcome.stderr
    assert outcome.stdout == f"{tmp_path / 'imported'}\n"
    assert "This is a plain MusicGen: it was not trained to accompany a context." in outcome.stderr
    assert "Licence of the weights: CC-BY-NC-4.0" in outcome.stderr
    facts = stage("models", "show", tmp_path / "imported", "--json").result
    assert (facts["stem"], facts["width_layers_heads"]) == (None, "48, 3, 4")
    context = write_music(seconds=0.3)
    assert stage("generate", context, "--stem", "bass", "--model", tmp_path / "imported").code == 0
    assert wav_header(tmp_path / "mix.bass.wav") == (44100, 13230, 1, 3)


def test_import_without_a_stem_says_so(stage: Stage, stage_checkpoint: Path, musicgen_dir: Path) -> None:
    outcome = stage("models", "import", stage_checkpoint, "--base", musicgen_dir)
    assert outcome.code == 0, outcome.stderr
    assert "no --stem was given: it will take any --stem for its own" in outcome.stderr


def test_import_our_own_model_keeps_its_stem(stage: Stage, tiny_model_dir: Path, tmp_path: Path) -> None:
    assert stage("models", "import", tiny_model_dir, "--output", tmp_path / "copy").code == 0
    assert stage("models", "show", tmp_path / "copy", "--json").result["stem"] == "drums"


def test_import_over_a_model(
    refused: Refused, stage_checkpoint: Path, musicgen_dir: Path, change_model: ChangeModel
) -> None:
    change_model("own-models/stage-drums")
    match = "own-models/stage-drums holds a model already.*--overwrite to replace it, or give another --output"
    refused("models", "import", stage_checkpoint, "--base", musicgen_dir, "--stem", "drums", code=2, match=match)


def test_import_that_replaces_a_model(
    stage: Stage, stage_checkpoint: Path, musicgen_dir: Path, change_model: ChangeModel
) -> None:
    folder = change_model("own-models/stage-drums")
    before = (folder / "config.json").read_bytes()
    outcome = stage("models", "import", stage_checkpoint, "--base", musicgen_dir, "--stem", "drums", "--overwrite")
    assert outcome.code == 0, outcome.stderr
    assert (folder / "config.json").read_bytes() != before


class _Attack:
    """A pickle of it creates a file when it is loaded without care."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("name", ["evil.bin", "evil.safetensors", "evil.pt"])
def test_import_a_malicious_pickle(refused: Refused, tmp_path: Path, name: str) -> None:
    content = {"best_state": {"emb.0.weight": torch.zeros(2, 2)}, "xp.cfg": _Attack(tmp_path / "pwned")}
    torch.save(content, tmp_path / name)
    match = "truncated, damaged" if name.endswith("safetensors") else "was refused: it is a pickle that wants to run"
    refused("models", "import", tmp_path / name, "--stem", "drums", code=1, match=match)
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize(
    ("data", "match"),
    [
        pytest.param(b"", "is truncated, damaged, or not a checkpoint.*download or copy it again", id="empty"),
        pytest.param(b"not weights" * 99, "is truncated, damaged, or not a checkpoint", id="text"),
        pytest.param(b"\xff" * 7 + b"\x7f{}", "is truncated, damaged, or not a checkpoint", id="huge-header"),
    ],
)
@pytest.mark.parametrize("name", ["stage-drums.safetensors", "state_dict.bin"])
def test_import_a_file_that_is_no_checkpoint(
    refused: Refused, tmp_path: Path, name: str, data: bytes, match: str
) -> None:
    (tmp_path / name).write_bytes(data)
    refused("models", "import", tmp_path / name, "--stem", "drums", code=1, match=match)


def _change(path: Path, name: str, tensor: torch.Tensor | None) -> None:
    state = {**load_file(path)}
    state.pop(name)
    save_file(state if tensor is None else state | {name: tensor}, path)


@pytest.mark.parametrize(
    ("name", "tensor", "match"),
    [
        ("lm.decoder.attn_layers.final_norm.weight", None, "1 missing: lm.decoder.attn_layers.final_norm.weight"),
        ("lm.decoder.attn_layers.final_norm.weight", torch.ones(3), "1 misshapen: lm.decoder.attn_layers.final_norm"),
        ("lm.decoder.attn_layers.final_norm.weight", torch.full((128,), torch.nan), "lm.norm.weight holds NaN"),
        ("lm.decoder.token_emb.emb.0.weight", None, "holds no language model of a known format.*transformers"),
    ],
    ids=["missing", "misshapen", "nan", "unknown-format"],
)
def test_import_a_damaged_checkpoint(
    refused: Refused, stage_checkpoint: Path, musicgen_dir: Path, name: str, tensor: torch.Tensor | None, match: str
) -> None:
    _change(stage_checkpoint, name, tensor)
    command = ("models", "import", stage_checkpoint, "--base", musicgen_dir, "--stem", "drums")
    refused(*command, code=1, match=match)


def test_import_a_truncated_checkpoint(refused: Refused, stage_checkpoint: Path) -> None:
    stage_checkpoint.write_bytes(stage_checkpoint.read_bytes()[:-100])
    match = "stage-drums.safetensors is truncated"
    refused("models", "import", stage_checkpoint, "--stem", "drums", code=1, match=match)


@pytest.mark.parametrize(
    ("options", "code", "match"),
    [
        pytest.param(("missing.safetensors",), 2, "There is no file missing.safetensors", id="missing"),
        pytest.param(("stage-drums.safetensors", "--stem", "drumms"), 2, "did you mean drums", id="stem"),
        pytest.param(
            ("stage-drums.safetensors", "--base", "musicgen-smal"), 2,
            "no model 'musicgen-smal'.*did you mean musicgen-small", id="base-misspelled",
        ),
        pytest.param(
            ("stage-drums.safetensors", "--offline"), 1,
            "facebook/encodec_32khz is not on this machine", id="no-codec-offline",
        ),
        pytest.param(
            ("stage-drums.safetensors", "--base", "text"), 1, "text holds no EnCodec.*--base", id="base-without-codec"
        ),
    ],
)  # fmt: skip
def test_import_that_cannot_work(
    refused: Refused, hub: HubServer, stage_checkpoint: Path, tmp_path: Path, options: tuple, code: int, match: str
) -> None:
    (tmp_path / "text").mkdir()
    refused("models", "import", *options, code=code, match=match)


def test_import_to_a_place_that_cannot_be_written_to(
    refused: Refused, stage_checkpoint: Path, musicgen_dir: Path
) -> None:
    command = ("models", "import", stage_checkpoint, "--base", musicgen_dir, "--output", stage_checkpoint / "model")
    refused(*command, code=1, match="(Cannot write the model to|cannot use) .*stage-drums.safetensors/model")


# push


def test_push(
    stage: Stage, hub: HubServer, tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    outcome = stage("models", "push", tiny_model_dir, "me/drums", "--private")
    assert outcome.code == 0, outcome.stderr
    assert outcome.stdout.startswith(f"{hub.url}/me/drums/commit/")
    assert "Licence of the weights: MIT. Upload only what you may share." in outcome.stderr
    assert hub.repositories["me/drums"].private
    uploaded = hub.files("me/drums")
    assert {name: uploaded[name] for name in snapshot(tiny_model_dir)} == snapshot(tiny_model_dir)
    assert stage("models", "show", "me/drums", "--json").result["stem"] == "drums"


def test_push_what_cannot_be_pushed(refused: Refused, hub: HubServer, tiny_model_dir: Path, musicgen_dir: Path) -> None:
    refused("models", "push", "nothing", "me/drums", code=2, match="no model 'nothing'")
    refused("models", "push", tiny_model_dir, "me/drums", code=1, match="hf auth login")
    refused("models", "push", musicgen_dir, "me/drums", code=1, match="not in stage-cli's own format.*import it first")
    refused("models", "push", tiny_model_dir, "no hub id", code=2, match="no hub id is not a Hub id")
    assert hub.repositories == {}
