"""`stage docs`: print a page of the documentation that comes with the package."""

from __future__ import annotations

import difflib
import sys
from pathlib import Path
from typing import Annotated

import typer

from stage_cli.errors import StageError, UsageError

_PACKAGE = Path(__file__).parents[1]


def docs(
    page: Annotated[
        str, typer.Argument(metavar="[PAGE]", help="Such as generate, models, train; lists all if left out.")
    ] = "",
) -> None:
    """Print a page of the documentation.

    stage docs

    stage docs generate

    stage docs training.schema > training.schema.json
    """
    pages = {path.stem: path for path in sorted(_folder().iterdir()) if path.suffix in (".md", ".json")}
    if not page:
        for name, path in pages.items():
            typer.echo(f"{name}\t{_title(path)}")
        return
    name = Path(page).name.removesuffix(".md").removesuffix(".json")
    if name not in pages:
        near = difflib.get_close_matches(name, pages, n=1)
        raise UsageError(
            f"there is no page {page!r}",
            why=f"did you mean {near[0]}?" if near else "",
            next_step=f"the pages are: {', '.join(pages)}",
        )
    text = pages[name].read_text(encoding="utf-8")
    if not sys.stdout.isatty() or pages[name].suffix != ".md":
        typer.echo(text, nl=False)
        return
    from rich.console import Console
    from rich.markdown import Markdown

    Console().print(Markdown(text))


def _folder() -> Path:
    """Return the folder of the pages: in an installed package, else in the checkout that the package lies in."""
    for folder in (_PACKAGE / "docs", _PACKAGE.parent / "docs"):
        if (folder / "generate.md").is_file():
            return folder
    raise StageError("the pages are missing", next_step="install stage-cli again")


def _title(path: Path) -> str:
    """Return a page's heading."""
    first = path.read_text(encoding="utf-8").partition("\n")[0]
    return first.removeprefix("# ") if path.suffix == ".md" else "JSON Schema of a training file"
