"""The machine that this runs on: its processor, its load, and the memory that a process has taken. Imports no torch."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
from pathlib import Path

_PROCESSOR = Path("/proc/cpuinfo")
_ARITHMETIC = {"avx512_bf16": "AVX-512 with bfloat16", "avx512f": "AVX-512", "avx2": "AVX2"}
_STATUS = Path("/proc/self/status")


def processor() -> str:
    """Return the processor's name, as its maker calls it where the system knows that, and its widest arithmetic.

    Machines of a cloud bear one name and compute at very different speeds: "AMD EPYC (AVX2)".
    """
    try:
        text = _PROCESSOR.read_text(encoding="utf-8")
    except OSError:
        text = ""
    if match := re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE):
        flags = re.search(r"^flags\s*:\s*(.+)$", text, re.MULTILINE)
        known = flags[1].split() if flags else []
        widest = next((f" ({name})" for flag, name in _ARITHMETIC.items() if flag in known), "")
        return match[1].strip() + widest
    return _told_by_macos() or platform.processor() or platform.machine()


def load_average() -> tuple[float, float, float] | None:
    """Return how many threads were at work or waited for a core, mean of 1, 5 and 15 minutes; None: not known here."""
    try:
        return os.getloadavg()
    except (AttributeError, OSError):  # Windows has none
        return None


def resident_peak() -> int | None:
    """Return the most bytes of memory that this process has held so far; None: not known here."""
    # Not getrusage where there is something else: a process that Linux starts takes its parent's peak for its own.
    try:
        match = re.search(r"^VmHWM:\s+(\d+) kB", _STATUS.read_text(encoding="ascii"), re.MULTILINE)
        if match is not None:
            return 1024 * int(match[1])
    except OSError:
        pass
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def _told_by_macos() -> str:
    if sys.platform != "darwin":
        return ""
    command = ["sysctl", "-n", "machdep.cpu.brand_string"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""
