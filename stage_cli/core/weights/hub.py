"""The list of files behind a `model.safetensors.index.json`. Imports no torch, so that fetching a model is quick.

The models that the package carries: where they lie, and how they are made of trained ones.

`assets/codec` is a codec that all of them share, `assets/<stem>` one model each (docs/dev/bundled-models.md).

The models that have a name, and the folder of the user's own ones. Imports no torch.

Names to local directories: a path, a name in the model list, or a repository on the Hugging Face Hub.

Hub files lie in the Hub's own cache. Files are resolved first and read later.
"""

from __future__ import annotations

import errno
import json
import os
import re
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from stage_cli.errors import HubError, UsageError, WeightsError


def shard_names(index: Path) -> list[str]:
    """Read the names of the shards, which lie in the index's own folder.

    Raises:
        WeightsError: it is missing, is no list of shards, or names another kind of file or one outside its folder.
    """
    try:
        names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except OSError as error:
        raise WeightsError(f"Cannot read the list of shards {index}", why=error.strerror or str(error)) from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise WeightsError(f"{index} is not a list of shards", why=f"{type(error).__name__}: {error}") from None
    for name in names:
        if not isinstance(name, str) or Path(name).name != name or not name.endswith(".safetensors"):
            raise WeightsError(f"{index} names a shard that is not a safetensors file of its own folder", why=str(name))
    return sorted(names)


BUNDLED_PREFIX = "bundled-"
ASSETS = Path(__file__).parents[2] / "assets"


def bundled_stems() -> tuple[str, ...]:
    """Return the stems that a bundled model writes, by name."""
    if not ASSETS.is_dir():
        return ()
    found = (path.parent.name for path in ASSETS.glob("*/config.json"))
    return tuple(sorted(name for name in found if name != "codec"))


def bundled_name(stem: str) -> str | None:
    """Return what `model` calls the bundled model of a stem; None if there is none."""
    return f"{BUNDLED_PREFIX}{stem}" if stem in bundled_stems() else None


def bundled_directory(name: str) -> Path | None:
    """Return the directory of `bundled-drums`, `bundled-codec`, …; None for any other name."""
    kind = name.removeprefix(BUNDLED_PREFIX)
    if kind == name or kind not in (*bundled_stems(), "codec"):
        return None
    return ASSETS / kind if (ASSETS / kind).is_dir() else None


PLAYER_PREFIX = "player-"

DEFAULT_PREFIXES: tuple[str, ...] = (PLAYER_PREFIX, BUNDLED_PREFIX)
"""Which of the package's models for a stem is taken where none is named: the first of these that there is."""


def player_stems() -> tuple[str, ...]:
    """Return the stems for which a player comes with the package, by name."""
    return tuple(sorted(path.parent.name for path in (ASSETS / "players").glob("*/config.json")))


def player_directory(name: str) -> Path | None:
    """Return the directory of `player-drums`, …; None for any other name."""
    stem = name.removeprefix(PLAYER_PREFIX)
    return ASSETS / "players" / stem if stem != name and stem in player_stems() else None


def default_model(stem: str) -> str | None:
    """Return the name of the package's model for a stem; None if there is none."""
    stems = {PLAYER_PREFIX: player_stems(), BUNDLED_PREFIX: bundled_stems()}
    return next((prefix + stem for prefix in DEFAULT_PREFIXES if stem in stems[prefix]), None)


def is_player(directory: Path) -> bool:
    """Return whether a model's directory holds a player, which writes notes."""
    try:
        about = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(about, dict) and about.get("kind") == "player"


MUSICGEN_LICENCE = "CC-BY-NC-4.0 (no commercial use)"


@dataclass(frozen=True)
class CatalogEntry:
    """A model that can be pulled by a short name.

    Attributes:
        name: what users type.
        repository: Hub id.
        parameters: of the language model, in millions.
        licence: of the weights.
        summary: one line for the list.
    """

    name: str
    repository: str
    parameters: int
    licence: str
    summary: str


CATALOG: tuple[CatalogEntry, ...] = (
    CatalogEntry(
        "musicgen-small", "facebook/musicgen-small", 420, MUSICGEN_LICENCE, "plain MusicGen, base for training"
    ),
    CatalogEntry(
        "musicgen-medium", "facebook/musicgen-medium", 1840, MUSICGEN_LICENCE, "plain MusicGen, base for training"
    ),
    CatalogEntry(
        "musicgen-large", "facebook/musicgen-large", 3220, MUSICGEN_LICENCE, "plain MusicGen, base for training"
    ),
)


def models_folder() -> Path:
    """Return where `stage models import` puts models: `$STAGE_MODELS`, else a folder of the user's data directory."""
    if folder := os.environ.get("STAGE_MODELS"):
        return Path(folder).expanduser()
    data = os.environ.get("XDG_DATA_HOME")
    return (Path(data) if data else Path.home() / ".local" / "share") / "stage-cli" / "models"


def local_models() -> list[Path]:
    """List the model directories in the models folder, by name."""
    folder = models_folder()
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if (path / "config.json").is_file() and path.name[0] != ".")


HUB_ID = re.compile(r"(?P<repository>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w./-]+))?")

# Where a training run's folder keeps the model that it made.
RUN_MODEL = "model"

# What a model repository may hold, ours or a MusicGen's. No other file is ever fetched, but the shards of an index.
_WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "state_dict.bin", "adapter.safetensors")
_AUDIOCRAFT_CODEC = "compression_state_dict.bin"  # the other weights have their codec inside
_EXTRAS = (
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "spiece.model",
    "README.md",
)

# What the networks that only evaluation uses have besides; the last is a pickle, read as tensors only.
_NETWORK_EXTRAS = ("preprocessor_config.json", "vocab.json", "merges.txt")
_NETWORK_WEIGHTS = ("pytorch_model.bin",)

# Seconds to wait for the list of a repository's files.
_TIMEOUT = 10.0


class _UnreachableError(HubError):
    """The Hub does not answer: what is in the cache will have to do."""


def resolve(name: str, *, offline: bool = False, network: bool = False) -> Path:
    """Find the local directory of a model, fetching it if needed.

    Args:
        name: a directory, of a model or of a training run; a bundled model's name; a name in the model list or the
            models folder; or `org/name[@revision]` on the Hub.
        offline: use only what is already here.
        network: it is not a model that writes stems, but a network that evaluates them.

    Raises:
        UsageError: no such name.
        HubError: it cannot be fetched; the message says why and what to do.
    """
    try:
        path = Path(name).expanduser()
    except RuntimeError:  # ~somebody who has no home here
        raise unknown_model(name) from None
    if path.is_dir():
        return _model_of_run(path)
    if path.is_file():
        raise UsageError(
            f"{name} is a file, not a model", next_step=f"make a model of it: stage models import {name} --stem drums"
        )
    if (own := models_folder() / name).is_dir() and "/" not in name:
        return _model_of_run(own)
    if (bundled := bundled_directory(name) or player_directory(name)) is not None:
        return bundled
    if _is_mistyped_path(name):
        raise UsageError(f"There is no folder {name}", next_step="check the name, or see `stage models list`")
    match = HUB_ID.fullmatch(_published(name))
    if match is None or name.startswith((".", "/", "~")):
        raise unknown_model(name)
    return fetch_model(match["repository"], match["revision"], offline=offline, network=network)


def _is_mistyped_path(name: str) -> bool:
    """Whether a name that is no directory was meant as one: it looks like a path, or its first folder is here."""
    if name in {entry.repository for entry in CATALOG}:
        return False
    parts = Path(name).parts
    return len(parts) > 1 and (name.startswith((".", "/", "~")) or len(parts) > 2 or Path(parts[0]).is_dir())


def hub_repository(name: str) -> str | None:
    """Return the Hub id, with its revision, that a name stands for; None if it stands for a directory here."""
    here = Path(name).is_dir() or ("/" not in name and (models_folder() / name).is_dir())
    repository = _published(name)
    return repository if not here and HUB_ID.fullmatch(repository) else None


def _published(name: str) -> str:
    """The repository of a name in the model list; other names are returned as they are."""
    return next((entry.repository for entry in CATALOG if entry.name == name), name)


def _model_of_run(directory: Path) -> Path:
    """The folder of a training run stands for the model that it made."""
    is_model = any((directory / file).exists() for file in ("config.json", "state_dict.bin"))
    made = directory / RUN_MODEL
    return made if not is_model and (made / "config.json").is_file() else directory


def unknown_model(name: str) -> UsageError:
    """Make the error for a name that is no directory, no entry of the model list and no Hub id."""
    known = [f"{BUNDLED_PREFIX}{stem}" for stem in bundled_stems()] + [entry.name for entry in CATALOG]
    known += [model.name for model in local_models()]
    close = get_close_matches(name, known, n=1)
    return UsageError(
        f"There is no model '{name}'",
        why=f"it is neither a directory nor one of: {', '.join(known)}"
        + (f" (did you mean {close[0]}?)" if close else ""),
        next_step="see `stage models list`, or give a Hub id such as facebook/musicgen-small",
    )


def fetch_model(repository: str, revision: str | None = None, *, offline: bool = False, network: bool = False) -> Path:
    """Fetch the files of a model, codec or text encoder repository into the Hub's cache; for `network` see `resolve`.

    Returns:
        The directory of that revision in the cache.

    Raises:
        HubError: no such repository or revision, no access, no network, not in the cache while offline, or no weights.
    """
    if offline or _is_offline():
        if (directory := cached_model(repository, revision, network=network)) is None:
            raise _not_cached(repository)
        return directory
    try:
        listed = _list_files(repository, revision)
    except _UnreachableError:
        if (directory := cached_model(repository, revision, network=network)) is None:
            raise
        return directory
    weights = next((file for file in _weights(network) if file in listed), None)
    if weights is None:
        raise HubError(
            f"{repository} holds no weights that stage-cli can read",
            why=f"none of {', '.join(_weights(network))} is in it",
        )
    extras = [*_EXTRAS, _AUDIOCRAFT_CODEC] if weights == "state_dict.bin" else [*_EXTRAS]
    extras += _NETWORK_EXTRAS if network else ()
    # The weights come last: where they are in the cache, so is the rest.
    for file in extras:
        if file in listed:
            _fetch(repository, file, revision)
    path = _fetch(repository, weights, revision)
    if path.name.endswith(".index.json"):
        for shard in shard_names(path):
            if shard not in listed:
                raise HubError(f"{repository} has no file {shard}", why="the repository is not complete")
            _fetch(repository, shard, revision)
    return path.parent


def cached_model(repository: str, revision: str | None = None, *, network: bool = False) -> Path | None:
    """Find a repository's directory in the Hub's cache, without network; None if its weights are not all there."""
    from huggingface_hub import try_to_load_from_cache

    with _hub_errors(repository, revision):
        for file in _weights(network):
            path = try_to_load_from_cache(repository, file, revision=revision)
            if not isinstance(path, str):
                continue
            directory = Path(path).parent
            shards = shard_names(Path(path)) if file.endswith(".index.json") else []
            if all((directory / shard).exists() for shard in shards):
                return directory
    return None


def push_directory(directory: Path, repository: str, *, private: bool = False) -> str:
    """Upload a model directory to the Hub, making the repository if needed.

    Returns:
        The address of the commit.

    Raises:
        HubError: no access, no network, or the Hub refused.
    """
    from huggingface_hub import HfApi

    with _hub_errors(repository, None):
        api = HfApi()
        api.create_repo(repository, private=private, exist_ok=True)
        commit = api.upload_folder(repo_id=repository, folder_path=directory, commit_message="Upload a STAGE model")
        return str(commit.commit_url)


def _weights(network: bool) -> tuple[str, ...]:
    return (*_WEIGHTS, *_NETWORK_WEIGHTS) if network else _WEIGHTS


def _list_files(repository: str, revision: str | None) -> set[str]:
    """List the names of a repository's files."""
    from huggingface_hub import HfApi

    with _hub_errors(repository, revision):
        info = HfApi().model_info(repository, revision=revision, timeout=_TIMEOUT)
        return {sibling.rfilename for sibling in info.siblings or ()}


def _fetch(repository: str, file: str, revision: str | None) -> Path:
    """Fetch one file into the cache, if it is not there yet."""
    from huggingface_hub import hf_hub_download

    with _hub_errors(repository, revision):
        return Path(hf_hub_download(repository, file, revision=revision))


@contextmanager
def _hub_errors(repository: str, revision: str | None) -> Generator[None]:
    """Turn the Hub client's exceptions into ours."""
    from huggingface_hub import errors

    try:
        yield
    except errors.GatedRepoError:
        raise HubError(
            f"{repository} asks for its terms to be accepted first",
            next_step=f"accept them on the Hub's page of {repository}, then log in with `hf auth login`",
        ) from None
    except errors.RepositoryNotFoundError:
        raise HubError(
            f"There is no repository {repository} on the Hub, or it is private",
            next_step="check the spelling; for a private one log in with `hf auth login`",
        ) from None
    except errors.RevisionNotFoundError:
        raise HubError(
            f"{repository} has no revision '{revision}'", next_step="check the branch, tag or commit after the @"
        ) from None
    except errors.LocalEntryNotFoundError as error:  # not in the cache, and the Hub did not answer
        raise _unreachable(repository, error) from None
    except errors.HFValidationError as error:
        raise UsageError(f"{repository} is not a Hub id", why=str(error)) from None
    except errors.LocalTokenNotFoundError:
        raise HubError("You are not logged in to the Hub", next_step="log in with `hf auth login`") from None
    except errors.HfHubHTTPError as error:
        status = error.response.status_code
        if status in (401, 403):
            raise HubError(
                f"The Hub refused access to {repository}",
                next_step="log in with `hf auth login`, with write access to push",
            ) from None
        kind = _UnreachableError if status == 429 or status >= 500 else HubError
        raise kind(
            f"The Hub answered {status} for {repository}", why=str(error).splitlines()[0], next_step="try again later"
        ) from None
    except errors.HTTPError as error:  # the HTTP library's: no connection, no answer in time
        raise _unreachable(repository, error) from None
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise HubError(
                "The disk is full", why=f"while fetching {repository}", next_step="free some space"
            ) from None
        raise _unreachable(repository, error) from None


def _is_offline() -> bool:
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


def _not_cached(repository: str) -> HubError:
    return HubError(
        f"{repository} is not on this machine",
        why="offline (`offline` or HF_HUB_OFFLINE): only what was fetched before can be used",
        next_step=f"go online once and run: stage models pull {repository}",
    )


def _unreachable(repository: str, error: BaseException) -> _UnreachableError:
    cause = error.__cause__ or error
    return _UnreachableError(
        f"The Hub cannot be reached for {repository}",
        why=str(cause).splitlines()[0] if str(cause) else type(cause).__name__,
        next_step="check the network, or give a local model directory",
    )
