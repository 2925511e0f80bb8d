"""`stage models`: list, show, pull, import, merge and push models."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from stage_cli.cli import console
from stage_cli.cli.help import Group, complete_model, complete_stem
from stage_cli.cli.options import JsonOption, OfflineOption
from stage_cli.errors import UsageError, WeightsError

app = typer.Typer(
    cls=Group, help="List, show, pull, import, merge and push models.", no_args_is_help=True, rich_markup_mode=None
)

NameArgument = Annotated[
    str, typer.Argument(metavar="NAME", help="Directory, Hub id, or a name of the list.", autocompletion=complete_model)
]


@app.command("list", cls=console.Command)
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
        columns = ("name", "stem", "size", "licence", "where", "note")
        if sys.stdout.isatty() and not console.fits(columns, rows):  # `stage models show` tells the rest
            columns, rows = columns[:4], [row[:4] for row in rows]
        console.print_table(columns, rows, right=(2,))


@app.command("show", cls=console.Command)
def show_model(name: NameArgument, offline: OfflineOption = False, json: JsonOption = False) -> None:
    """Show what a model is, where it lies, and what it would have to fetch. A Hub model is fetched first."""
    from stage_cli.core.codec.config import CodecConfig
    from stage_cli.core.model_config import StageConfig
    from stage_cli.core.weights.adapter_config import AdapterConfig
    from stage_cli.core.weights.hub import resolve
    from stage_cli.core.weights.inspection import adapter_missing_offline, adapter_size, missing_offline, own_config

    directory = resolve(name, offline=offline)
    own = own_config(directory)
    adapter = own if isinstance(own, AdapterConfig) else None
    if adapter is not None:
        config = adapter.model
    elif isinstance(own, StageConfig):
        config = own
    else:  # a published checkpoint says what it is in its tensors: reading those needs torch
        from stage_cli.core.weights.checkpoint import plan_directory

        config = plan_directory(directory, offline=offline).config
    codec, lm = config.codec, config.lm
    codec_name = "EnCodec" if isinstance(codec, CodecConfig) else "spectral codec"
    facts = {
        "name": name,
        "stem": config.stem,
        "kind": "STAGE" if lm.separator else "plain MusicGen (not trained to accompany)",
        "parameters_millions": round(lm.parameters / 1e6, 1),
        "width_layers_heads": f"{lm.dimension}, {lm.layers}, {lm.heads}",
        "codec": f"{codec_name}, {codec.sample_rate} Hz, {codec.frame_rate:g} frames/s, "
        f"{codec.codebooks} × {codec.codebook_size} codes",
        "window_seconds": config.window_seconds,
        "text_encoder": _text_encoder(config.text_encoder, adapter=adapter is not None) if config.takes_text else None,
        "licence": config.licence,
        "base": adapter.base if adapter else config.base,
        "path": str(directory),
        "missing_offline": [
            console.as_typed(text)
            for text in (
                missing_offline(config, directory) if adapter is None else adapter_missing_offline(adapter, directory)
            )
        ],
    }
    if adapter is not None:
        facts |= {
            "adapter": f"LoRA of rank {adapter.rank}, alpha {adapter.alpha:g}, on {', '.join(adapter.targets)}",
            "adapter_megabytes": round(adapter_size(directory), 1),
        }
    if json:
        console.print_json(facts)
        return
    rows = [(key.replace("_", " "), _shown(value)) for key, value in facts.items()]
    console.print_table(("", ""), rows)


@app.command("pull", cls=console.Command)
def pull_model(name: NameArgument) -> None:
    """Fetch a model, its text encoder, and an adapter's base, into the Hub's cache, so that it works offline."""
    from stage_cli.core.weights.checkpoint import plan_directory
    from stage_cli.core.weights.hub import resolve
    from stage_cli.core.weights.inspection import missing_offline

    directory = resolve(name)
    config = plan_directory(directory).config
    console.print_note(f"Licence of the weights: {config.licence}.")
    if missing_offline(config, directory) and config.text_encoder is not None:
        resolve(config.text_encoder)
    typer.echo(directory)


@app.command("import", cls=console.Command)
def import_model(
    checkpoint: Annotated[Path, typer.Argument(metavar="FILE", help="STAGE, audiocraft or transformers checkpoint.")],
    stem: Annotated[
        str | None, typer.Option("--stem", "-s", help="Stem that it writes.", autocompletion=complete_stem)
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Directory to make; the models folder if left out.")
    ] = None,
    base: Annotated[
        str | None,
        typer.Option("--base", help="MusicGen (directory or Hub id) that lends codec and text encoder."),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a model that is there already.")] = False,
    offline: OfflineOption = False,
) -> None:
    """Turn a checkpoint into a model that `--model` takes."""
    from stage_cli.core.stems import parse_stem
    from stage_cli.core.weights.hub import models_folder

    chosen = None if stem is None else parse_stem(stem)
    if not checkpoint.exists():
        raise UsageError(f"There is no file {checkpoint}")
    target = output or models_folder() / (checkpoint.name if checkpoint.is_dir() else checkpoint.stem)
    with console.spinner(f"Importing {checkpoint} …", quiet=False):
        from stage_cli.core.weights.importing import import_checkpoint

        config = import_checkpoint(checkpoint, target, stem=chosen, base=base, overwrite=overwrite, offline=offline)
    if config.lm.separator and config.stem is None:
        console.print_note("This is a STAGE model, but no --stem was given: it will take any --stem for its own.")
    if not config.lm.separator:
        console.print_note("This is a plain MusicGen: it was not trained to accompany a context.")
    console.print_note(f"Licence of the weights: {config.licence}.")
    typer.echo(target)


@app.command("merge", cls=console.Command)
def merge_model(
    name: Annotated[str, typer.Argument(metavar="RUN", help="Folder of a run with [lora], an adapter, or a Hub id.")],
    output: Annotated[Path, typer.Argument(metavar="OUT", help="Directory to make.")],
    precision: Annotated[
        str, typer.Option("--precision", help="float32 or bfloat16, of the language model in the file.")
    ] = "float32",
    base: Annotated[
        str | None, typer.Option("--base", help="Base model, if it is no longer where the adapter says.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a model that is there already.")] = False,
    offline: OfflineOption = False,
) -> None:
    """Make a whole model of an adapter and its base."""
    with console.spinner(f"Merging {name} …", quiet=False):
        from stage_cli.core.weights.hub import resolve
        from stage_cli.core.weights.importing import merge_adapter

        config = merge_adapter(
            resolve(name, offline=offline),
            output,
            precision=precision,
            base=None if base is None else resolve(base, offline=offline),
            overwrite=overwrite,
            offline=offline,
        )
    console.print_note(f"Licence of the weights: {config.licence}.")
    typer.echo(output)


@app.command("push", cls=console.Command)
def push_model(
    name: NameArgument,
    repository: Annotated[str, typer.Argument(metavar="ORG/NAME", help="Repository on the Hub; made if it is new.")],
    private: Annotated[bool, typer.Option("--private", help="Make a new repository private.")] = False,
) -> None:
    """Upload a model directory to the Hugging Face Hub (log in first: hf auth login)."""
    from stage_cli.core.weights.adapter_config import AdapterConfig
    from stage_cli.core.weights.hub import push_directory, resolve
    from stage_cli.core.weights.inspection import own_config

    directory = resolve(name, offline=True)
    own = own_config(directory)
    if own is None:
        raise WeightsError(
            f"{directory} is not in stage-cli's own format", next_step="import it first: stage models import …"
        )
    config = own.model if isinstance(own, AdapterConfig) else own
    if isinstance(own, AdapterConfig) and Path(own.base).is_absolute():
        console.print_note(
            f"This adapter needs its base, {own.base}, which only this machine has: "
            f"for others, push the merged model (stage models merge {name} OUT)."
        )
    console.print_note(f"Licence of the weights: {config.licence}. Upload only what you may share.")
    typer.echo(push_directory(directory, repository, private=private))


def _text_encoder(name: str | None, *, adapter: bool) -> str | None:
    return name if name != "." else "its base's" if adapter else "its own"


def _shown(value: object) -> str:
    if isinstance(value, list):
        return "; ".join(map(str, value)) or "nothing"
    return "none" if value is None else str(value)
