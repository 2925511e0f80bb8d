"""Measure what a user waits for: `stage generate` of 10 s as it is typed, in a process of its own, warm disk.

    uv run python tests/benchmarks/cold_start.py docs/audio/example.mix.flac

"Import" is how long a fresh process takes to import the same modules, as many times; "by Python's account" is the sum
that `-X importtime` gives in a run of the command, which costs time itself. The first run fills the disk's cache, lets
Python keep the bytecode of what it imports, and is not counted. `--no-bytecode` is for where it must not keep any
(PYTHONDONTWRITEBYTECODE, which images of containers like to set) and none was written at installation.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from environment import describe

NO_BYTECODE = "PYTHONDONTWRITEBYTECODE"
IMPORT = re.compile(r"^import time:\s+(\d+) \|\s+\d+ \|\s*(\S+)", re.MULTILINE)

# As the command line does (cli/generate.py).
IMPORTING = """
import contextlib, gc, importlib, sys, time
gc.disable()
began = time.perf_counter()
for name in sys.argv[1:]:
    with contextlib.suppress(ImportError):  # what was looked for and is not there is listed too
        importlib.import_module(name)
print(time.perf_counter() - began)
"""


def generate(arguments: argparse.Namespace, folder: Path, *options: str) -> tuple[float, dict, str]:
    """Wall seconds, what the command reports, and what Python says on standard error."""
    command = [sys.executable, *options, "-m", "stage_cli", "generate", "--context", arguments.context]
    command += ["--stem", "drums", "--duration", str(arguments.seconds), "--output", str(folder / "stem.wav")]
    command += ["--overwrite", "--json", *([] if arguments.model is None else ["--model", arguments.model])]
    start = time.perf_counter()
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return time.perf_counter() - start, json.loads(done.stdout), done.stderr


def importing(names: list[str]) -> float:
    """Seconds that a fresh process takes to import some modules."""
    command = [sys.executable, "-c", IMPORTING, *names]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("context", help="audio of at least that length")
    parser.add_argument("--model", help="of drums (default: the bundled one)")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--no-bytecode", action="store_true", help="compile all modules anew each time")
    arguments = parser.parse_args()
    os.environ.pop(NO_BYTECODE, None)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if arguments.no_bytecode:
            os.environ |= {NO_BYTECODE: "1", "PYTHONPYCACHEPREFIX": name}  # nothing lies there
        generate(arguments, folder)
        runs = [generate(arguments, folder) for _ in range(arguments.rounds)]
        told = generate(arguments, folder, "-X", "importtime")[2]
    modules = IMPORT.findall(told)
    account = sum(int(microseconds) for microseconds, _ in modules) / 1e6
    # Of other packages the top is enough: they import what they need.
    names = [name for _, name in modules if name.startswith("stage_cli") or not ("." in name or name.startswith("_"))]
    imports = [importing(names) for _ in range(arguments.rounds)]
    print(describe("torch"))
    print("\n| | wall, s | compute as reported, s | import, s | import by Python's account, s |")
    print("| --- | --- | --- | --- | --- |")
    for title, choose in (("median", statistics.median), ("worst", max)):
        wall, compute = choose(run[0] for run in runs), choose(run[1]["compute_seconds"] for run in runs)
        by_account = f"{account:.2f}" if choose is not max else ""
        print(f"| {title} | {wall:.2f} | {compute:.2f} | {choose(imports):.2f} | {by_account} |")


if __name__ == "__main__":
    main()
