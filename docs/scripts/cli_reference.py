"""The text of docs/cli.md, the reference of all commands, from the program itself (`generated_pages.py` writes it)."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from typing import Any

from typer.main import get_command

from stage_cli.cli.app import app

HEAD = """# All commands and options

Written by `docs/scripts/generated_pages.py` from the program's own help; `stage COMMAND --help` shows the same.
"""


OF_THE_MACHINE = ("beats", "tracker")
"""Options whose default depends on what is installed."""


def reference() -> str:
    """Return the whole page."""
    blocks = [HEAD]
    for name, command in commands(get_command(app), "stage"):
        if not getattr(command, "commands", None):
            blocks.append(section(name, command))
        elif name != "stage":
            blocks.append(f"## {name}\n\n{paragraphs(command.help)}\n")
    return "\n".join(blocks)


def commands(command: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Yield a command and all below it that are not hidden, by their full names, in the order of the help."""
    yield name, command
    for below, child in getattr(command, "commands", {}).items():
        if not child.hidden:
            yield from commands(child, f"{name} {below}")


def section(name: str, command: Any) -> str:
    """Return one command's heading, help, arguments and options."""
    context = command.context_class(command, info_name=name)
    shown = [item for item in command.params if not getattr(item, "hidden", False) and item.name != "help"]
    arguments = [item for item in shown if item.param_type_name == "argument"]
    depth = "#" * len(name.split())
    blocks = [f"{depth} {name}", paragraphs(command.help)]
    rows = [f"| `{cell(item.make_metavar(context))}` | | {meaning(item)} |" for item in arguments]
    panel = ""
    for item in (item for item in shown if item.param_type_name == "option"):
        heading = getattr(item, "rich_help_panel", None) or ""
        if heading != panel:
            rows.append(f"| **{cell(heading)}** | | |")
            panel = heading
        rows.append(f"| {spelling(item, context)} | {default(item)} | {meaning(item)} |")
    if rows:
        blocks.append("\n".join(["| option | default | |", "| --- | --- | --- |", *rows]))
    return "\n\n".join(blocks) + "\n"


def paragraphs(text: str | None) -> str:
    """Return a help text as Markdown; lines that are a command become code."""
    blocks = []
    for block in re.split(r"\n\s*\n", inspect.cleandoc(text or "").replace("\b\n", "")):
        lines = [line.strip() for line in block.splitlines()]
        is_code = all(line.startswith("stage ") or line.startswith("#") for line in lines)
        blocks.append("\n".join(f"    {line}" for line in lines) if is_code else " ".join(lines))
    return "\n\n".join(blocks)


def spelling(option: Any, context: Any) -> str:
    """Return an option's names and what it takes: `--stem`, `-s` TEXT."""
    names = ", ".join(f"`{name}`" for name in sorted([*option.opts, *option.secondary_opts], key=len, reverse=True))
    takes = "" if option.is_flag else f" {cell(option.make_metavar(context)).strip('<>').upper()}"
    return names + takes


def default(option: Any) -> str:
    """Return an option's default, or nothing where the help says it in words."""
    value = option.default
    if option.is_flag or value is None or callable(value) or value == "" or value == []:
        return ""
    if option.name in OF_THE_MACHINE:
        return "what is installed"
    return f"`{value:g}`" if isinstance(value, float) else f"`{value}`"


def meaning(item: Any) -> str:
    """Return the help text of an option or an argument."""
    return cell(item.help or "") + (" Required." if item.required else "")


def cell(text: str) -> str:
    """Return a text that does not end a table's cell."""
    return " ".join(text.split()).replace("|", "\\|")
