"""Names to directories, with the real Hub client talking to the look-alike in hub_server.py."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hub_server import TOKEN, HubServer
from huggingface_hub import constants
from transformers_reference import save_text_encoder

from stage_cli.core.model import StageModel
from stage_cli.core.weights.hub import CATALOG, cached_model, fetch_model, resolve
from stage_cli.errors import HubError, UsageError, WeightsError

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # huggingface_hub's own


def _same_weights(one: StageModel, other: StageModel) -> None:
    mine, theirs = one.state_dict(), other.state_dict()
    assert mine.keys() == theirs.keys()
    for name, tensor in mine.items():
        assert torch.equal(tensor, theirs[name]), name


def test_our_own_format(hub: HubServer, tiny_model_dir: Path, tiny_model: StageModel) -> None:
    hub.add_repo("someone/drums", tiny_model_dir)
    model = StageModel.from_pretrained("someone/drums", device="cpu")
    assert model.config == tiny_model.config
    _same_weights(model, tiny_model)


def test_a_musicgen_with_its_text_encoder(hub: HubServer, musicgen_dir: Path) -> None:
    hub.add_repo("facebook/musicgen-tiny", musicgen_dir)
    model = StageModel.from_pretrained("facebook/musicgen-tiny", device="cpu")
    local = StageModel.from_pretrained(str(musicgen_dir), device="cpu")
    _same_weights(model, local)
    description = "genre: jazz."
    assert torch.equal(model.encode_description(description), local.encode_description(description))


def test_a_text_encoder_from_another_repository(
    hub: HubServer, tiny_model_dir: Path, musicgen_dir: Path, tmp_path: Path
) -> None:
    local = StageModel.from_pretrained(str(musicgen_dir), device="cpu")
    local.save_pretrained(tmp_path / "own")
    values = json.loads((tmp_path / "own" / "config.json").read_text())
    (tmp_path / "own" / "config.json").write_text(json.dumps(values | {"text_encoder": "google-t5/t5-tiny"}))
    save_text_encoder(tmp_path / "t5")
    hub.add_repo("someone/own", tmp_path / "own")
    hub.add_repo("google-t5/t5-tiny", tmp_path / "t5")
    model = StageModel.from_pretrained("someone/own", device="cpu")
    assert not hub.fetched("google-t5/t5-tiny")  # only a description needs it
    assert model.encode_description("pop").shape == (1, 2, model.config.lm.dimension)
    assert "model.safetensors" in hub.fetched("google-t5/t5-tiny")


def test_a_name_of_the_model_list(hub: HubServer, musicgen_dir: Path) -> None:
    entry = CATALOG[0]
    hub.add_repo(entry.repository, musicgen_dir)
    assert (resolve(entry.name) / "model.safetensors").is_file()


def test_revisions(hub: HubServer, tiny_model_dir: Path, tmp_path: Path) -> None:
    changed = tmp_path / "changed"
    shutil.copytree(tiny_model_dir, changed)
    values = json.loads((changed / "config.json").read_text())
    (changed / "config.json").write_text(json.dumps(values | {"stem": "bass"}))
    first = hub.add_repo("someone/drums", tiny_model_dir, revision="v1")
    second = hub.add_repo("someone/drums", changed)
    stems = {
        name: StageModel.from_pretrained(f"someone/drums{name}", device="cpu").config.stem
        for name in ("", "@main", "@v1", f"@{first}", f"@{second}")
    }
    assert stems == {"": "bass", "@main": "bass", "@v1": "drums", f"@{first}": "drums", f"@{second}": "bass"}


def test_shards(hub: HubServer, musicgen_dir: Path, tmp_path: Path) -> None:
    from transformers import MusicgenForConditionalGeneration

    sharded = MusicgenForConditionalGeneration.from_pretrained(musicgen_dir)
    sharded.save_pretrained(tmp_path / "sharded", max_shard_size="200KB")
    hub.add_repo("facebook/musicgen-sharded", tmp_path / "sharded")
    model = StageModel.from_pretrained("facebook/musicgen-sharded", device="cpu")
    _same_weights(model, StageModel.from_pretrained(str(musicgen_dir), device="cpu"))
    assert len([name for name in hub.fetched("facebook/musicgen-sharded") if name.endswith(".safetensors")]) > 1


def test_only_files_of_a_model_are_fetched(hub: HubServer, tiny_model_dir: Path, tmp_path: Path) -> None:
    crowded = tmp_path / "crowded"
    shutil.copytree(tiny_model_dir, crowded)
    for name in ("modeling_evil.py", "pytorch_model.bin", "optimizer.pt", "sample.wav", "compression_state_dict.bin"):
        (crowded / name).write_bytes(b"not wanted")
    (crowded / "README.md").write_text("A model.")
    hub.add_repo("someone/crowded", crowded)
    directory = resolve("someone/crowded")
    wanted = {"config.json", "model.safetensors", "README.md"}
    assert set(hub.fetched("someone/crowded")) == wanted
    assert {path.name for path in directory.iterdir()} == wanted


def test_nothing_is_fetched_twice(hub: HubServer, tiny_model_dir: Path) -> None:
    hub.add_repo("someone/drums", tiny_model_dir)
    first = resolve("someone/drums")
    fetched = len(hub.fetched("someone/drums"))
    assert resolve("someone/drums") == first
    assert len(hub.fetched("someone/drums")) == fetched


def test_offline_with_a_cache(hub: HubServer, musicgen_dir: Path) -> None:
    hub.add_repo("facebook/musicgen-tiny", musicgen_dir)
    online = StageModel.from_pretrained("facebook/musicgen-tiny", device="cpu")
    expected = online.encode_description("sad")
    hub.requests.clear()
    model = StageModel.from_pretrained("facebook/musicgen-tiny", device="cpu", offline=True)
    _same_weights(model, online)
    assert torch.equal(model.encode_description("sad"), expected)
    assert hub.requests == []


def test_a_cache_is_enough_when_the_hub_is_down(hub: HubServer, tiny_model_dir: Path) -> None:
    hub.add_repo("someone/drums", tiny_model_dir)
    directory = resolve("someone/drums")
    hub.stop()
    assert resolve("someone/drums") == directory


def test_cached_model(hub: HubServer, tiny_model_dir: Path) -> None:
    hub.add_repo("someone/drums", tiny_model_dir)
    assert cached_model("someone/drums") is None
    directory = resolve("someone/drums")
    assert cached_model("someone/drums") == directory


def test_offline_without_a_cache(hub: HubServer) -> None:
    with pytest.raises(HubError, match=r"someone/drums is not on this machine.*stage models pull someone/drums"):
        resolve("someone/drums", offline=True)
    assert hub.requests == []


def test_offline_by_the_environment(hub: HubServer, tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(HubError, match="someone/drums is not on this machine"):
        resolve("someone/drums")
    assert hub.requests == []


def test_offline_when_only_the_config_was_cached(hub: HubServer, tiny_model_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "half").mkdir()
    shutil.copy(tiny_model_dir / "config.json", tmp_path / "half")
    hub.add_repo("someone/half", tmp_path / "half")
    with pytest.raises(HubError, match="someone/half holds no weights that stage-cli can read"):
        resolve("someone/half")
    with pytest.raises(HubError, match="someone/half is not on this machine"):
        resolve("someone/half", offline=True)


def test_offline_when_a_shard_is_not_in_the_cache(hub: HubServer, tmp_path: Path) -> None:
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (tmp_path / "repo").mkdir()
    (tmp_path / "repo" / "model.safetensors.index.json").write_text(json.dumps(index))
    for name in index["weight_map"].values():
        (tmp_path / "repo" / name).write_bytes(name.encode())
    hub.add_repo("someone/sharded", tmp_path / "repo")
    directory = resolve("someone/sharded")
    assert resolve("someone/sharded", offline=True) == directory
    (directory / "model-00002-of-00002.safetensors").unlink()  # as after a download that was cut short
    assert cached_model("someone/sharded") is None
    with pytest.raises(HubError, match="someone/sharded is not on this machine"):
        resolve("someone/sharded", offline=True)
    assert resolve("someone/sharded") == directory  # online it is fetched
    assert cached_model("someone/sharded") == directory


def test_an_audiocraft_repository_works_offline_too(hub: HubServer, tmp_path: Path) -> None:
    # It has no config.json, so nothing tells "not in the cache" from "not in the repository" but its weights.
    (tmp_path / "audiocraft").mkdir()
    for name in ("state_dict.bin", "compression_state_dict.bin"):
        torch.save({"best_state": {}}, tmp_path / "audiocraft" / name)
    hub.add_repo("someone/audiocraft", tmp_path / "audiocraft")
    directory = resolve("someone/audiocraft")
    assert {path.name for path in directory.iterdir()} == {"state_dict.bin", "compression_state_dict.bin"}
    hub.requests.clear()
    assert resolve("someone/audiocraft", offline=True) == directory
    assert hub.requests == []


def test_an_unknown_repository(hub: HubServer) -> None:
    with pytest.raises(HubError, match=r"There is no repository someone/nothing on the Hub, or it is private"):
        resolve("someone/nothing")


def test_a_private_repository(hub: HubServer, tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add_repo("someone/secret", tiny_model_dir, private=True)
    with pytest.raises(HubError, match=r"or it is private.*hf auth login"):
        resolve("someone/secret")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert (resolve("someone/secret") / "model.safetensors").is_file()


def test_a_gated_repository(hub: HubServer, tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add_repo("someone/gated", tiny_model_dir, gated=True)
    with pytest.raises(HubError, match=r"someone/gated asks for its terms to be accepted first.*hf auth login"):
        resolve("someone/gated")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert (resolve("someone/gated") / "model.safetensors").is_file()


def test_an_unknown_revision(hub: HubServer, tiny_model_dir: Path) -> None:
    hub.add_repo("someone/drums", tiny_model_dir)
    with pytest.raises(HubError, match="someone/drums has no revision 'v9'"):
        resolve("someone/drums@v9")


def test_no_server(hub: HubServer) -> None:
    hub.stop()
    with pytest.raises(HubError, match=r"The Hub cannot be reached for someone/drums.*check the network"):
        resolve("someone/drums")


def test_a_server_that_fails(hub: HubServer, tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add_repo("someone/drums", tiny_model_dir)
    hub.fail(500)
    with pytest.raises(HubError, match=r"The Hub answered 500 for someone/drums.*try again later"):
        resolve("someone/drums")
    hub.fail(None)
    directory = resolve("someone/drums")
    hub.fail(500)
    assert resolve("someone/drums") == directory  # from the cache


def test_a_repository_without_weights(hub: HubServer, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("soon")
    hub.add_repo("someone/soon", tmp_path)
    with pytest.raises(HubError, match=r"someone/soon holds no weights .* none of model\.safetensors"):
        resolve("someone/soon")


def test_a_missing_shard(hub: HubServer, tmp_path: Path) -> None:
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    hub.add_repo("someone/half", tmp_path)
    with pytest.raises(HubError, match=r"someone/half has no file model-00001-of-00002\.safetensors"):
        resolve("someone/half")


def test_an_index_that_is_not_one(hub: HubServer, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors.index.json").write_text("[1, 2]")
    hub.add_repo("someone/odd", tmp_path)
    with pytest.raises(WeightsError, match=r"model\.safetensors\.index\.json is not a list of shards"):
        resolve("someone/odd")


def test_a_shard_outside_the_repository_is_not_fetched(hub: HubServer, tmp_path: Path) -> None:
    index = {"weight_map": {"a": "../../other/model.safetensors", "b": "hack.py"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    (tmp_path / "hack.py").write_text("print('hello')")
    hub.add_repo("someone/odd", tmp_path)
    with pytest.raises(WeightsError, match="names a shard"):
        resolve("someone/odd")
    assert "hack.py" not in hub.fetched("someone/odd")


@pytest.mark.parametrize("name", ["musicgen-smal", "no such model", "./nothing-here", "a/b/c", "https://x.y/z"])
def test_names_that_are_nothing(hub: HubServer, name: str) -> None:
    with pytest.raises(UsageError, match=r"There is no (model|folder)"):
        resolve(name)
    assert hub.requests == []


def test_a_close_name_is_proposed(hub: HubServer) -> None:
    with pytest.raises(UsageError, match=r"did you mean musicgen-small\?"):
        resolve("musicgen-smal")


def test_a_file_is_not_a_model(tmp_path: Path) -> None:
    file = tmp_path / "stage-drums.safetensors"
    file.touch()
    with pytest.raises(UsageError, match=r"is a file, not a model.*stage models import"):
        resolve(str(file))


def test_a_model_of_the_users_folder(
    hub: HubServer, tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STAGE_MODELS", str(tmp_path / "models"))
    shutil.copytree(tiny_model_dir, tmp_path / "models" / "mine")
    assert resolve("mine") == tmp_path / "models" / "mine"
    assert hub.requests == []


def test_push_then_pull(hub: HubServer, tiny_model: StageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    address = tiny_model.push_to_hub("someone/pushed")
    assert address.startswith(f"{hub.url}/someone/pushed/commit/")
    assert set(hub.files("someone/pushed")) == {"config.json", "model.safetensors"}
    assert not hub.repositories["someone/pushed"].private
    pulled = StageModel.from_pretrained("someone/pushed", device="cpu")
    assert pulled.config == tiny_model.config
    _same_weights(pulled, tiny_model)


def test_push_again_and_private(hub: HubServer, tiny_model: StageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    tiny_model.push_to_hub("someone/pushed", private=True)
    tiny_model.push_to_hub("someone/pushed", private=True)
    assert hub.repositories["someone/pushed"].private
    assert set(hub.files("someone/pushed")) == {"config.json", "model.safetensors"}


def test_push_without_a_token(hub: HubServer, tiny_model: StageModel) -> None:
    with pytest.raises(HubError, match=r"hf auth login"):
        tiny_model.push_to_hub("someone/pushed")
    assert hub.repositories == {}


def test_push_without_a_server(hub: HubServer, tiny_model: StageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    hub.stop()
    with pytest.raises(HubError, match="The Hub cannot be reached"):
        tiny_model.push_to_hub("someone/pushed")


def test_the_environment_of_a_process_of_its_own(hub: HubServer, tiny_model_dir: Path, tmp_path: Path) -> None:
    """HF_ENDPOINT, HF_HOME and HF_HUB_OFFLINE as users set them, read by the client itself."""
    hub.add_repo("someone/drums", tiny_model_dir)
    script = (
        "import sys\n"
        "from stage_cli.core.weights.hub import resolve\n"
        "from stage_cli.errors import HubError\n"
        "try:\n    print(resolve('someone/drums'))\n"
        "except HubError as error:\n    print(error)\n"
        "print('torch' in sys.modules)\n"
    )

    def run(**environment: str) -> list[str]:
        done = subprocess.run(
            [sys.executable, "-c", script], env=os.environ | environment, capture_output=True, text=True, check=True
        )
        return done.stdout.splitlines()

    assert run(HF_HUB_OFFLINE="1")[0].startswith("someone/drums is not on this machine")
    directory, torch_was_imported = run()
    assert Path(directory).is_relative_to(tmp_path / "hf")
    assert torch_was_imported == "False"  # fetching needs no torch
    assert run(HF_HUB_OFFLINE="1")[0] == directory


def test_fetch_needs_a_hub_id(hub: HubServer) -> None:
    with pytest.raises(UsageError, match="is not a Hub id"):
        fetch_model("some..one/--drums")
