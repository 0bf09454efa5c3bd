"""`plan` against real runs: time, memory and bytes for 5,000 images of Fashion-MNIST, within 20 %.

A plan does not cover the start of a stage, so it is subtracted: for stage one by a run over a few images, for stage two
by a run of fewer epochs.
"""

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from recipes.fashion_mnist.images import fashion_mnist
from tests.benchmarks.figure import Figure

TRAIN, VAL = 5000, 500
FEW = 64
EPOCHS = (1, 3)
SIZE = 32
ROUNDS = 1  # the longest commands take half a minute each
STUDENT = ("--student", "resnet18", "--image-size", str(SIZE))


def measure(folder: Path) -> Iterator[Figure]:
    """Compare plan and reality: seconds and memory of both stages, and bytes of the cache."""
    whole, few = dataset(folder, "whole", TRAIN, VAL), dataset(folder, "few", FEW, FEW)
    plan = planned(whole)
    teacher: list[tuple[float, int]] = []
    for number in range(ROUNDS):
        start, _ = run("cache-teacher", few, folder / f"few-{number}.zarr")
        seconds, memory = run("cache-teacher", whole, folder / f"whole-{number}.zarr")
        teacher.append((seconds - start, memory))
    student: list[tuple[float, int]] = []
    for number in range(ROUNDS):
        times = []
        for epochs in EPOCHS:
            out = folder / f"run-{number}-{epochs}"
            spent, memory = run(
                "distill", whole, folder / "whole-0.zarr", out, *STUDENT, "--epochs", str(epochs)
            )
            times.append(spent)
        student.append(((times[1] - times[0]) / (EPOCHS[1] - EPOCHS[0]), memory))
    one, two = plan["stage_one"], plan["stage_two"]
    yield figure("stage_one_seconds", "seconds of cache-teacher", one["seconds"], teacher, 0)
    yield figure(
        "stage_two_seconds", "seconds of an epoch of distill", two["seconds"] / plan["epochs"], student, 0
    )
    yield figure(
        "stage_one_memory", "peak memory of cache-teacher's largest process", one["host_bytes"], teacher, 1
    )
    yield figure("stage_two_memory", "peak memory of distill", two["host_bytes"], student, 1)
    written = [sum(file.stat().st_size for file in (folder / "whole-0.zarr").rglob("*") if file.is_file())]
    yield figure("cache_bytes", "bytes of the cache", plan["cache"]["bytes"], [(written[0], written[0])], 0)


def dataset(folder: Path, name: str, train: int, val: int) -> Path:
    """Pack some images of Fashion-MNIST."""
    fashion_mnist(folder / f"{name}-images", train=train, val=val)
    run("pack", folder / f"{name}-images", folder / name)
    return folder / name


def planned(path: Path) -> dict[str, Any]:
    """Return the plan, with rates that it measures itself."""
    command = [sys.executable, "cli.py", "plan", str(path), *STUDENT, "--json"]
    plan: dict[str, Any] = json.loads(
        subprocess.run(command, capture_output=True, text=True, check=True).stdout
    )
    return plan


def run(*arguments: object) -> tuple[float, int]:
    """Run a command; return its seconds and the peak resident bytes of its largest process."""
    began = time.perf_counter()
    command = [sys.executable, "cli.py", *map(str, arguments)]
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, used = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {child.returncode}")
    return time.perf_counter() - began, used.ru_maxrss * 1024


def figure(name: str, what: str, expected: float, found: list[tuple[float, int]], which: int) -> Figure:
    """Return the factor by which the plan was too high or too low."""
    real = statistics.median(one[which] for one in found)
    return Figure(
        name=f"plan_{name}",
        what=f"plan: {what}",
        against="a real run",
        ratio=max(expected / real, real / expected),
        unit="x off",
        at_most=1.2,
        bound="a few seconds' measurement of each part stands for the whole",
        details={"planned": expected, "real": [one[which] for one in found], "train": TRAIN, "val": VAL},
    )
