"""`stage models`: list, show, pull, import and push models."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from stage_cli.cli import console
from stage_cli.cli.options import JsonOption, OfflineOption
from stage_cli.errors import UsageError, WeightsError

app = typer.Typer(help="List, show, pull, import and push models.", no_args_is_help=True, rich_markup_mode=None)

NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="Directory, Hub id, or a name of the list.")]


@app.command("list")
def list_models(json: JsonOption = False) -> None:
    """List your own models and those that can be fetched by name."""
    from stage_cli.core.weights.inspection import list_models as summaries

    rows = []
    for model in summaries():
        where = "to be pulled" if model.where is None else str(model.where)
        if json:
            console.print_json({
                "name": model.name,
                "stem": model.stem,
                "parameters_millions": model.parameters,
                "licence": model.licence,
                "path": None if model.where is None else where,
                "note": model.note,
            })  # fmt: skip
        rows.append((model.name, model.stem or "–", f"{model.parameters:.0f} M", model.licence, where, model.note))
    if not json:
        console.print_table(("name", "stem", "size", "licence", "where", "note"), rows, right=(2,))


@app.command("show")
def show_model(name: NameArgument, offline: OfflineOption = False, json: JsonOption = False) -> None:
    """Show what a model is, where it lies, and what it would have to fetch. A Hub model is fetched first."""
    from stage_cli.core.weights.checkpoint import plan_directory
    from stage_cli.core.weights.hub import resolve
    from stage_cli.core.weights.inspection import missing_offline

    directory = resolve(name, offline=offline)
    config = plan_directory(directory, offline=offline).config
    codec, lm = config.codec, config.lm
    facts = {
        "name": name,
        "stem": config.stem,
        "kind": "STAGE" if lm.separator else "plain MusicGen (not trained to accompany)",
        "parameters_millions": round(lm.parameters / 1e6, 1),
        "width_layers_heads": f"{lm.dimension}, {lm.layers}, {lm.heads}",
        "codec": f"EnCodec, {codec.sample_rate} Hz, {codec.frame_rate:g} frames/s, "
        f"{codec.codebooks} × {codec.codebook_size} codes",
        "window_seconds": config.window_seconds,
        "text_encoder": (config.text_encoder if config.text_encoder != "." else "its own")
        if config.takes_text
        else None,
        "licence": config.licence,
        "base": config.base,
        "path": str(directory),
        "missing_offline": missing_offline(config, directory),
    }
    if json:
        console.print_json(facts)
        return
    rows = [(key.replace("_", " "), _shown(value)) for key, value in facts.items()]
    console.print_table(("", ""), rows)


@app.command("pull")
def pull_model(name: NameArgument) -> None:
    """Fetch a model, and its text encoder, into the Hub's cache, so that it works offline."""
    from stage_cli.core.weights.checkpoint import plan_directory
    from stage_cli.core.weights.hub import fetch_model, resolve
    from stage_cli.core.weights.inspection import missing_offline

    directory = resolve(name)
    config = plan_directory(directory).config
    console.print_note(f"Licence of the weights: {config.licence}.")
    if missing_offline(config, directory) and config.text_encoder is not None:
        fetch_model(config.text_encoder)
    typer.echo(directory)


@app.command("import")
def import_model(
    checkpoint: Annotated[Path, typer.Argument(metavar="FILE", help="STAGE, audiocraft or transformers checkpoint.")],
    stem: Annotated[str | None, typer.Option("--stem", "-s", help="Stem that it writes.")] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Directory to make; the models folder if left out.")
    ] = None,
    base: Annotated[
        str | None,
        typer.Option("--base", help="MusicGen (directory or Hub id) that lends codec and text encoder."),
    ] = None,
    offline: OfflineOption = False,
) -> None:
    """Turn a checkpoint into a model that `--model` takes.

    stage models import stage-drums.safetensors --stem drums
    """
    from stage_cli.core.stems import parse_stem
    from stage_cli.core.weights.catalog import models_folder

    chosen = None if stem is None else parse_stem(stem)
    if not checkpoint.exists():
        raise UsageError(f"There is no file {checkpoint}")
    target = output or models_folder() / (checkpoint.name if checkpoint.is_dir() else checkpoint.stem)
    with console.spinner(f"Importing {checkpoint} …", quiet=False):
        from stage_cli.core.weights.importing import import_checkpoint

        config = import_checkpoint(checkpoint, target, stem=chosen, base=base, offline=offline)
    if config.lm.separator and config.stem is None:
        console.print_note("This is a STAGE model, but no --stem was given: it will take any --stem for its own.")
    if not config.lm.separator:
        console.print_note("This is a plain MusicGen: it was not trained to accompany a context.")
    console.print_note(f"Licence of the weights: {config.licence}.")
    typer.echo(target)


@app.command("push")
def push_model(
    name: NameArgument,
    repository: Annotated[str, typer.Argument(metavar="ORG/NAME", help="Repository on the Hub; made if it is new.")],
    private: Annotated[bool, typer.Option("--private", help="Make a new repository private.")] = False,
) -> None:
    """Upload a model directory to the Hugging Face Hub (log in first: hf auth login)."""
    from stage_cli.core.model_config import StageConfig, read_config
    from stage_cli.core.weights.hub import push_directory, resolve
    from stage_cli.core.weights.inspection import is_own_format

    directory = resolve(name, offline=True)
    if not is_own_format(directory):
        raise WeightsError(
            f"{directory} is not in stage-cli's own format", next_step="import it first: stage models import …"
        )
    config = StageConfig.from_dict(read_config(directory / "config.json"))
    console.print_note(f"Licence of the weights: {config.licence}. Upload only what you may share.")
    typer.echo(push_directory(directory, repository, private=private))


def _shown(value: object) -> str:
    if isinstance(value, list):
        return "; ".join(map(str, value)) or "nothing"
    return "none" if value is None else str(value)
