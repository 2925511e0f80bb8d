"""Write the pages that are made from the program: docs/cli.md and docs/training.schema.json.

Run it after a change of a command, an option, or a key of a training file (tests/test_docs.py says when):

uv run python docs/scripts/generated_pages.py
"""

from __future__ import annotations

import json
from pathlib import Path

from cli_reference import reference
from training_schema import schema

DOCS = Path(__file__).parents[1]


def pages() -> dict[Path, str]:
    """Return the text of each page by its path."""
    return {
        DOCS / "cli.md": reference(),
        DOCS / "training.schema.json": json.dumps(schema(), indent=1, ensure_ascii=False) + "\n",
    }


if __name__ == "__main__":
    for path, text in pages().items():
        path.write_text(text, encoding="utf-8")
        print(f"docs/{path.name}: {len(text.split())} words")
