"""Models that cannot be used: what is said, and that nothing is written."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hub_server import HubServer

from cli.conftest import Outcome, Refused, Stage
from stage_cli.core.model import StageModel

Write = Callable[..., Path]
ChangeModel = Callable[..., Path]


@pytest.fixture
def generate_with(refused: Refused, write_music: Write) -> Refused:
    """Run `stage generate` for drums with a model, and options, that must be refused."""

    def run(model: object, *options: object, code: int, match: str) -> Outcome:
        command = ("generate", write_music(), "--stem", "drums", "--model", model)
        return refused(*command, *options, code=code, match=match)

    return run


def test_no_model(refused: Refused, write_music: Write) -> None:
    match = (
        "No model for guitar comes with stage-cli: --model is missing.*bundled are models for: .*"
        r"stage models import stage-guitar.safetensors --stem guitar\) or train one \(`stage docs train`\)"
    )
    for options in ((), ("--model", "")):
        refused("generate", write_music(), "--stem", "guitar", *options, code=2, match=match)


def test_no_model_but_own_ones(refused: Refused, write_music: Write, change_model: ChangeModel) -> None:
    for name in ("my-drums", "my-bass"):
        change_model(f"own-models/{name}")
    match = r"--model is missing.*your own are: my-bass, my-drums \(use --model my-bass\)"
    refused("generate", write_music(), "--stem", "guitar", code=2, match=match)


@pytest.mark.parametrize(
    ("name", "match"),
    [
        pytest.param("musicgen-smal", "no model 'musicgen-smal'.*did you mean musicgen-small?", id="misspelled"),
        pytest.param("my-drum", "no model 'my-drum'.*did you mean my-drums?", id="own-misspelled"),
        pytest.param("nothing-like-it", "no model 'nothing-like-it'.*musicgen-small.*stage models list", id="unknown"),
        pytest.param("./drums", "no model './drums'.*stage models list", id="no-such-folder"),
        pytest.param("/drums/v2", "no folder /drums/v2.*stage models list", id="no-such-absolute-folder"),
        pytest.param("a/b/c", "no folder a/b/c.*stage models list", id="three-parts"),
        pytest.param("a--b/c..d", "a--b/c..d is not a Hub id", id="no-hub-id"),
        pytest.param("~nobody-of-that-name/model", "no model '~nobody-of-that-name/model'", id="no-such-user"),
        pytest.param("mix.wav", "mix.wav is a file, not a model.*stage models import mix.wav", id="file"),
    ],
)
def test_a_name_that_is_no_model(generate_with: Refused, change_model: ChangeModel, name: str, match: str) -> None:
    change_model("own-models/my-drums")
    generate_with(name, code=2, match=match)


def test_a_name_that_is_too_long(generate_with: Refused) -> None:
    generate_with("m" * 5000, code=1, match="File name too long.*check the name")


def _config_only(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def _weights_only(folder: Path) -> None:
    (folder / "config.json").unlink()


def _truncated(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])


def _empty_weights(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"")


def _no_json(folder: Path) -> None:
    (folder / "config.json").write_text("{ model_type: stage }")


def _binary_config(folder: Path) -> None:
    (folder / "config.json").write_bytes(b"\xff\xfe\x00")


def _list(folder: Path) -> None:
    (folder / "config.json").write_text("[]")


@pytest.mark.parametrize(
    ("damage", "match"),
    [
        pytest.param(_config_only, r"Cannot read \S*model.safetensors.*No such file", id="config-only"),
        pytest.param(_weights_only, "is not a model that stage-cli can read.*config.json.*import", id="no-config"),
        pytest.param(_truncated, "model.safetensors is truncated.*download or copy it again", id="truncated"),
        pytest.param(_empty_weights, "model.safetensors is truncated.*download or copy it again", id="empty"),
        pytest.param(_no_json, "config.json is not valid JSON", id="no-json"),
        pytest.param(_binary_config, "config.json is not valid JSON", id="binary-config"),
        pytest.param(_list, "config.json is not a JSON object", id="json-list"),
    ],
)
def test_damaged_files(
    generate_with: Refused, change_model: ChangeModel, damage: Callable[[Path], None], match: str
) -> None:
    folder = change_model()
    damage(folder)
    generate_with(folder, code=1, match=match)


def test_an_empty_folder(generate_with: Refused, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    generate_with(tmp_path / "model", code=1, match="is not a model that stage-cli can read.*stage models import FILE")


@pytest.mark.parametrize(
    ("config", "match"),
    [
        pytest.param({"tempo": 120}, "config.json has a key or a type that is not known.*tempo", id="unknown-key"),
        pytest.param({"format_version": 2}, "has format version 2; this stage-cli reads up to 1.*update", id="newer"),
        pytest.param({"format_version": None}, "has format version None", id="no-version"),
        pytest.param({"model_type": "llama"}, "is not a model that stage-cli can read", id="another-type"),
        pytest.param({"lm": None}, "config.json has no 'lm'", id="no-lm"),
        pytest.param({"codec": None}, "config.json has no 'codec'", id="no-codec"),
        pytest.param({"lm": 3}, "config.json has a key or a type that is not known", id="lm-is-a-number"),
        pytest.param({"window_seconds": 0}, "window_seconds = 0 in the model's config", id="no-window"),
        pytest.param({"window_seconds": "10"}, "window_seconds = '10' in the model's config", id="window-is-text"),
        pytest.param({"stem": "zither"}, "stem = 'zither' in the model's config", id="unknown-stem"),
    ],
)
def test_damaged_configs(
    generate_with: Refused, change_model: ChangeModel, config: dict[str, object], match: str
) -> None:
    generate_with(change_model(config=config), code=1, match=match)


@pytest.mark.parametrize(
    ("part", "key", "value", "match"),
    [
        ("lm", "rope", True, "[Uu]nknown key lm.rope.*newer version.*update stage-cli"),
        ("lm", "heads", 3, "lm.dimension = 64 with lm.heads = 3"),
        ("lm", "layers", -1, "lm.layers = -1 in the model's config.*a whole number"),
        ("lm", "layers", 3, "does not fit the model.*missing: lm.layers.2"),
        ("lm", "codebooks", 2, "The codec has 4 codebooks of 32, the language model 2 of 32.*--base"),
        ("codec", "ratios", [], r"ratios = \[\].*allowed: a list of whole numbers"),
        ("codec", "colour", "red", "unknown key 'colour'"),
    ],
)
def test_damaged_parts_of_configs(
    generate_with: Refused, change_model: ChangeModel, part: str, key: str, value: object, match: str
) -> None:
    folder = change_model()
    values = json.loads((folder / "config.json").read_text())
    values[part][key] = value
    (folder / "config.json").write_text(json.dumps(values))
    generate_with(folder, code=1, match=match)


@pytest.mark.parametrize(
    ("name", "tensor", "match"),
    [
        ("lm.norm.weight", torch.ones(63), r"1 misshapen: lm.norm.weight: \[63\] instead of \[64\].*file is whole"),
        ("lm.norm.weight", None, "1 missing: lm.norm.weight"),
        ("lm.extra", torch.ones(2), "1 unknown: lm.extra"),
        ("lm.norm.weight", torch.full((64,), torch.nan), "lm.norm.weight holds NaN or infinite.*download or train"),
        ("codec.decoder.output.bias", torch.tensor([torch.inf]), "decoder.output.bias holds NaN or infinite"),
    ],
    ids=["wrong-shape", "missing", "unknown", "nan", "infinite"],
)
def test_damaged_tensors(
    generate_with: Refused, change_model: ChangeModel, name: str, tensor: torch.Tensor | None, match: str
) -> None:
    generate_with(change_model(tensors={name: tensor}), code=1, match=match)


def test_weights_that_are_finite_but_overflow(
    generate_with: Refused, change_model: ChangeModel, tiny_model: StageModel
) -> None:
    name = "codec.decoder.output.weight"
    huge = torch.full_like(tiny_model.state_dict()[name], 3e38)
    match = "model returned samples that are no numbers.*weights are damaged.*fetch the model again"
    generate_with(change_model(tensors={name: huge}), code=1, match=match)


def test_a_model_for_another_stem(generate_with: Refused, change_model: ChangeModel) -> None:
    match = "This model writes bass, not drums.*use --stem bass, or another --model"
    generate_with(change_model(config={"stem": "bass"}), code=2, match=match)


def test_a_description_for_a_model_without_text(generate_with: Refused, tiny_model_dir: Path) -> None:
    match = "This model takes no description.*it has no text encoder.*leave --description out"
    generate_with(tiny_model_dir, "--description", "Genre: Rock.", code=2, match=match)


def test_no_network(generate_with: Refused, hub: HubServer) -> None:
    hub.stop()
    match = "The Hub cannot be reached .*someone/drums.*check the network, or give a local model directory"
    generate_with("someone/drums", code=1, match=match)


@pytest.mark.parametrize(
    ("model", "options", "match"),
    [
        pytest.param("someone/bass", (), "no repository someone/bass on the Hub, or it is private", id="repository"),
        pytest.param("someone/drums@v9", (), "someone/drums has no revision 'v9'.*after the @", id="revision"),
        pytest.param(
            "someone/drums", ("--offline",),
            "someone/drums is not on this machine.*offline.*stage models pull someone/drums", id="offline",
        ),
        pytest.param(
            "musicgen-small", ("--offline",),
            "facebook/musicgen-small is not on this machine.*stage models pull", id="offline-by-name",
        ),
        pytest.param("someone/secret", (), "no repository someone/secret.*is private.*hf auth login", id="private"),
        pytest.param("someone/gated", (), "someone/gated asks for its terms.*accept them on the Hub", id="gated"),
        pytest.param("someone/empty", (), "someone/empty holds no weights that stage-cli can read", id="no-weights"),
    ],
)  # fmt: skip
def test_the_hub(
    generate_with: Refused,
    hub: HubServer,
    tiny_model_dir: Path,
    tmp_path: Path,
    model: str,
    options: tuple[str, ...],
    match: str,
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "README.md").write_text("soon")
    hub.add_repo("someone/empty", tmp_path / "empty")
    hub.add_repo("someone/drums", tiny_model_dir)
    hub.add_repo("someone/secret", tiny_model_dir, private=True)
    hub.add_repo("someone/gated", tiny_model_dir, gated=True)
    generate_with(model, *options, code=1, match=match)


def test_a_hub_that_fails(generate_with: Refused, hub: HubServer) -> None:
    hub.fail(403)
    generate_with("someone/drums", code=1, match="The Hub refused access to someone/drums|The Hub answered 403")


def test_an_error_before_the_first_result_leaves_stdout_empty_in_json(
    refused: Refused, write_music: Write, tiny_model_dir: Path
) -> None:
    command = ("generate", write_music(), "--stem", "bass", "--model", tiny_model_dir, "--json")
    refused(*command, code=2, match="This model writes drums, not bass")


def test_audio_is_looked_at_before_the_model(stage: Stage, tmp_path: Path) -> None:
    outcome = stage("generate", tmp_path / "missing.wav", "--stem", "drums", "--model", "no-such-model")
    assert outcome.code == 1
    assert "there is no such file" in outcome.stderr
    assert "no-such-model" not in outcome.stderr
