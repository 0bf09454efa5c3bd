"""Provenance of results: command, commit, date, machine and package versions, as plain data."""

import datetime
import functools
import importlib.metadata
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

PACKAGES = ("torch", "torchvision", "ffcv", "zarr", "numpy", "numba")
ROOT = Path(__file__).resolve().parents[2]
DESCRIBE_OPTIONS = ("--always", "--abbrev=12", "--dirty=+", "--exclude=*")


def commit() -> str:
    """Return the commit of the source, with "+" if files differ from it, or "unknown" outside a git checkout."""
    try:
        describe = ["git", "-C", str(ROOT), "describe", *DESCRIBE_OPTIONS]
        return subprocess.run(describe, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


@functools.cache
def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that affect results."""
    return {"python": platform.python_version()} | {
        name: importlib.metadata.version(name) for name in PACKAGES
    }


def machine() -> str:
    """Return the CPU model and the number of cores."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        model = platform.processor() or platform.machine()
    return f"{model}, {os.cpu_count()} cores"


def command() -> str:
    """Return the command line as typed, with the program's name instead of its path."""
    spec = sys.modules["__main__"].__spec__  # set by `python -m`
    program = f"-m {spec.name.removesuffix('.__main__')}" if spec else Path(sys.argv[0]).name
    return " ".join(["python", program, *sys.argv[1:]])


def provenance() -> dict[str, Any]:
    """Return the provenance that is recorded with every result."""
    return {
        "command": command(),
        "commit": commit(),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        "versions": versions(),
    }
