"""Measure what a user waits for: `stage generate` of 10 s as it is typed, in a process of its own, warm disk.

    uv run python tests/benchmarks/cold_start.py docs/audio/example.mix.flac

"Import" is what Python itself says (`-X importtime`), in a further run: the sum over all modules, whenever they are
loaded. The first run fills the disk's cache and is not counted.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from environment import describe

IMPORT = re.compile(r"^import time:\s+(\d+) \|", re.MULTILINE)


def generate(context: str, seconds: float, folder: Path, *options: str) -> tuple[float, dict, str]:
    """Wall seconds, what the command reports, and what Python says on standard error."""
    command = [sys.executable, *options, "-m", "stage_cli", "generate", "--context", context, "--stem", "drums"]
    command += ["--duration", str(seconds), "--output", str(folder / "stem.wav"), "--overwrite", "--json"]
    start = time.perf_counter()
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return time.perf_counter() - start, json.loads(done.stdout), done.stderr


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("context", help="audio of at least that length")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        generate(arguments.context, arguments.seconds, folder)
        runs = [generate(arguments.context, arguments.seconds, folder) for _ in range(arguments.rounds)]
        told = generate(arguments.context, arguments.seconds, folder, "-X", "importtime")[2]
    print(describe("torch"))
    print("\n| | wall, s | import, s | compute as reported, s |\n| --- | --- | --- | --- |")
    imports = sum(map(int, IMPORT.findall(told))) / 1e6
    for title, choose in (("median", statistics.median), ("worst", max)):
        wall, compute = choose(run[0] for run in runs), choose(run[1]["compute_seconds"] for run in runs)
        print(f"| {title} | {wall:.2f} | {f'{imports:.2f}' if choose is not max else ''} | {compute:.2f} |")


if __name__ == "__main__":
    main()
