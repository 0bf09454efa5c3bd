"""Where a number comes from: commit, versions, machine and command, as plain data."""

import datetime
import importlib.metadata
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

PACKAGES = ("torch", "torchvision", "ffcv", "zarr", "numpy", "numba")
ROOT = Path(__file__).resolve().parents[2]


def commit() -> str:
    """The source's commit, with "+" when the tree differs from it; "unknown" outside of a checkout."""
    try:
        described = [
            "git",
            "-C",
            str(ROOT),
            "describe",
            "--always",
            "--abbrev=12",
            "--dirty=+",
            "--exclude=*",
        ]
        return subprocess.run(described, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide bits."""
    return {"python": platform.python_version()} | {
        name: importlib.metadata.version(name) for name in PACKAGES
    }


def machine() -> str:
    """The processor's name and the number of cores."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        model = platform.processor() or platform.machine()
    return f"{model}, {os.cpu_count()} cores"


def command() -> str:
    """The command as one types it, without this machine's folders."""
    spec = sys.modules["__main__"].__spec__  # of `python -m`
    program = f"-m {spec.name.removesuffix('.__main__')}" if spec else Path(sys.argv[0]).name
    return " ".join(["python", program, *sys.argv[1:]])


def provenance() -> dict[str, Any]:
    """What travels with every number that is written."""
    return {
        "command": command(),
        "commit": commit(),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        "versions": versions(),
    }
