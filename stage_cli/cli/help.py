"""Help pages: panels of options, examples, old spellings, and what a shell completes.

All of it is plain text: importing rich takes longer than the rest of a help page.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from typer.core import TyperGroup

PANELS: dict[str, tuple[str, ...]] = {
    "What to accompany": (
        "context", "start", "duration", "bpm", "beats_per_bar", "offset", "continuation", "data", "generated",
        "reference", "metronome_set", "songs", "chunks", "split", "validation_file", "layout", "strict", "shard",
    ),
    "What to generate": (
        "stem", "model", "description", "descriptions", "variations", "seed", "random", "base", "sounds", "soundfont",
        "tempo_changes", "drummers", "arrangements", "arrangement_share", "kits", "config", "changes", "resume",
    ),
    "Sampling": ("guidance", "temperature", "top_k", "top_p", "advance", "lookahead"),
    "What to measure": (
        "baselines", "embedding", "kad_compat", "cocola", "tracker", "beats", "tags", "lengths", "repeats",
    ),
    "Output": (
        "output", "out", "stream", "mix", "format", "shards", "shards_rate", "plot", "check", "dry_run", "overwrite",
        "json", "private",
    ),
    "Machine": ("device", "precision", "offline", "jobs"),
}  # fmt: skip
"""The options of each panel, by parameter; one that stands nowhere is shown under "Options"."""

EXAMPLES: dict[str, tuple[str, ...]] = {
    "generate": (
        "stage generate --context mix.wav --stem drums",
        "stage generate -c songs/ -s drums --output stems/ --mix",
        "stage generate --bpm 96 --duration 0:30 --stem drums --seed 1",
    ),
    "demo-data": (
        "stage demo-data songs",
        "stage demo-data songs --songs 200 --duration 1:00 --jobs 4",
        "stage demo-data songs --drummers groove --arrangements midi",
    ),
    "prepare-data": (
        "stage prepare-data ~/moisesdb",
        "stage prepare-data ~/musdb18hq --output prepared --jobs 8",
        "stage prepare-data ~/moisesdb --check",
    ),
    "train": (
        "stage train --config tiny --set data.root=prepared",
        "stage train --config drums --set data.root=prepared/moisesdb --dry-run",
        "stage train --config run.toml --resume",
    ),
    "evaluate": (
        "stage evaluate --model stage-drums --data prepared/moisesdb --stem drums --output report",
        "stage evaluate --metronome-set --model bundled-drums --songs 10 --output report",
        "stage evaluate --generated stems --context mixes --stem drums --output report",
    ),
    "bench": (
        "stage bench",
        "stage bench --precision float32,int8",
        "stage bench --model stage-drums --lengths 30,60,180 --plot cost.png",
    ),
    "list": ("stage models list", "stage models list --json", "stage models list | cut -f1"),
    "show": (
        "stage models show bundled-drums",
        "stage models show facebook/musicgen-small",
        "stage models show runs/drums --json",
    ),
    "pull": (
        "stage models pull musicgen-small",
        "stage models pull ORG/stage-drums",
        "stage models pull ORG/stage-drums@v2",
    ),
    "import": (
        "stage models import stage-drums.safetensors --stem drums",
        "stage models import stage-drums.safetensors -s drums --output models/drums --overwrite",
        "stage models import state_dict.bin --stem bass --base facebook/musicgen-small",
    ),
    "merge": (
        "stage models merge runs/lora my-drums",
        "stage models merge runs/lora my-drums --precision bfloat16",
        "stage models merge runs/lora my-drums --base musicgen-small --overwrite",
    ),
    "push": (
        "stage models push my-drums ORG/my-drums",
        "stage models push my-drums ORG/my-drums --private",
        "stage models push runs/drums ORG/my-drums",
    ),
}  # fmt: skip
EXAMPLES["prepare"] = EXAMPLES["prepare-data"]

OLD_SPELLINGS: dict[str, dict[str, str]] = {
    "evaluate": {"--out": "--output", "--seconds": "--duration"},
    "demo-data": {"--seconds": "--duration", "-n": "--songs"},
    "train": {"-c": "--config"},
}
"""Spellings that still work and are not shown: an option's name means one thing in all commands."""


def without_old_spellings(command: str, arguments: Sequence[str]) -> list[str]:
    """Replace the old spellings of a command's options."""
    old = OLD_SPELLINGS.get(command, {})
    found = []
    for index, argument in enumerate(arguments):
        if argument == "--":
            return [*found, *arguments[index:]]
        name, equals, value = argument.partition("=")
        if name in old and (equals == "" or name.startswith("--")):
            argument = old[name] + equals + value
        elif len(argument) > 2 and argument[0] == "-" and argument[1] != "-" and argument[:2] in old:
            argument = f"{old[argument[:2]]}={argument[2:]}"
        found.append(argument)
    return found


def write_options(command: Any, context: Any, formatter: Any) -> None:
    """Write a command's arguments, then a section for each panel of its options."""
    sections: dict[str, list[tuple[str, str]]] = {"Arguments": [], **{panel: [] for panel in PANELS}, "Options": []}
    panel_of = {name: panel for panel, names in PANELS.items() for name in names}
    parameters = command.get_params(context)
    are_many = sum(parameter.param_type_name == "option" for parameter in parameters) > 8
    for parameter in parameters:
        record = parameter.get_help_record(context)
        if record is None:
            continue
        panel = panel_of.get(parameter.name, "Options") if are_many else "Options"
        sections["Arguments" if parameter.param_type_name == "argument" else panel].append(record)
    for title, records in sections.items():
        if records:
            with formatter.section(title):
                formatter.write_dl(records)


def write_examples(name: str, formatter: Any) -> None:
    """Write a command's examples, each on a line of its own, so that it can be copied."""
    if name in EXAMPLES:
        with formatter.section("Examples"):
            for example in EXAMPLES[name]:
                formatter.write(f"{'':{formatter.current_indent}}{example}\n")


class Group(TyperGroup):
    """A group of commands that tells each command's summary whole."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the commands with the first paragraphs of their help."""
        commands = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        rows = [
            (name, command.short_help or " ".join((command.help or "").split("\n\n")[0].split()))
            for name, command in commands
            if command is not None and not command.hidden
        ]
        if rows:
            with formatter.section("Commands"):
                formatter.write_dl(rows)


def complete_stem(incomplete: str) -> list[str]:
    """Complete a stem's name."""
    from stage_cli.core.stems import STEMS

    return [name for name in STEMS if name.startswith(incomplete)]


def complete_model(incomplete: str) -> list[str]:
    """Complete a model's name: bundled, the user's own, or published."""
    from stage_cli.core.weights.hub import BUNDLED_PREFIX, CATALOG, bundled_stems, local_models

    names = [f"{BUNDLED_PREFIX}{stem}" for stem in bundled_stems()]
    names += [path.name for path in local_models()] + [entry.name for entry in CATALOG]
    return [name for name in names if name.startswith(incomplete)]


def complete_recipe(incomplete: str) -> list[str]:
    """Complete the name of a shipped recipe, or of a TOML file here."""
    from pathlib import Path

    from stage_cli.core.training.toml import recipes

    files = sorted(str(path) for path in Path().glob("*.toml"))
    return [name for name in (*recipes(), *files) if name.startswith(incomplete)]


def choice(names: Sequence[str]) -> Any:
    """Return the completion of an option that takes one of these names."""

    def complete(incomplete: str) -> list[str]:
        return [name for name in names if name.startswith(incomplete)]

    return complete
