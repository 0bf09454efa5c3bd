"""The time from `python cli.py distill` to its first step, and its parts."""

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from tests.benchmarks.figure import Figure

DATASET, CACHE, RECIPE = (
    "data/clip-art-dataset",
    "caches/clip-art-demo.zarr",
    "recipes/demo/distill.toml",
)
ONE_STEP = 64.5 / 4772  # a --subset of one batch, so that the first step is logged
ROUNDS = 5
IMPORTS = (
    "torch",
    "torchvision",
    "numba",
    "zarr",
    "pipeline.loading.image_loader",
    "pipeline.training.distill",
)
POLL = 0.005


def measure(folder: Path) -> Iterator[Figure]:
    """Time the demo's `distill` five times, against an interpreter that imports torch and torchvision."""
    if not Path(DATASET).exists() or not Path(CACHE).exists():
        raise SystemExit(f"{DATASET} or {CACHE} is missing; run `make demo` first")
    seconds: dict[str, list[float]] = {"to the first line": [], "to the first step": [], "torch alone": []}
    for number in range(ROUNDS + 1):
        line, step = start(folder / str(number))
        begun = time.perf_counter()
        subprocess.run([sys.executable, "-c", "import torch, torchvision, torch._dynamo"], check=True)
        if number:  # the first is warm-up
            for name, took in zip(seconds, (line, step, time.perf_counter() - begun), strict=True):
                seconds[name].append(took)
    median = {name: statistics.median(values) for name, values in seconds.items()}
    yield Figure(
        name="start",
        what=f"start of `python cli.py distill` to its first step on the demo, {median['to the first step']:.1f} s",
        against="an interpreter that imports torch, torchvision and torch._dynamo, as the optimiser does",
        ratio=median["to the first step"] / median["torch alone"],
        unit="x the time",
        seconds=seconds,
        bound=(
            f"{median['torch alone']:.1f} s are torch's imports; the run prints its first line after "
            f"{median['to the first line']:.1f} s; compiled loops come from disk"
        ),
        details={"seconds of imports": imports(folder)},
    )


def command(run: Path) -> list[str]:
    return [
        *("cli.py", "distill", DATASET, CACHE, str(run), "--config", RECIPE),
        *("--subset", str(ONE_STEP), "--epochs", "1"),
    ]


def start(run: Path) -> tuple[float, float]:
    """Return the seconds to the first line of output, and to the first step in the log."""
    begun = time.perf_counter()
    with (
        open(os.devnull, "w") as nowhere,
        subprocess.Popen([sys.executable, *command(run)], stdout=subprocess.PIPE, stderr=nowhere) as child,
    ):
        assert child.stdout is not None
        if not child.stdout.readline():
            raise SystemExit(
                f"distill ended without output; run `python {' '.join(command(run))}` to see why"
            )
        line = time.perf_counter() - begun
        log = run / "metrics.jsonl"
        while child.poll() is None and not (log.exists() and log.stat().st_size):
            time.sleep(POLL)
        return line, time.perf_counter() - begun


def imports(folder: Path) -> dict[str, float]:
    """Return the seconds to import some modules, each with everything that it imports first."""
    arguments = [sys.executable, "-X", "importtime", *command(folder / "imports")]
    said = subprocess.run(arguments, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    found = {}
    for line in said.stderr.splitlines():
        name = line.rpartition("|")[2].strip()
        if line.startswith("import time:") and name in IMPORTS:
            found[name] = int(line.split("|")[1]) / 1e6
    return found
