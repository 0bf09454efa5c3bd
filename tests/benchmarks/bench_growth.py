"""Memory and time per step of `distill` on 1,281,167 images, against 20,000."""

import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.runtime.provenance import ROOT
from tests.benchmarks.figure import Figure, ratio
from tests.benchmarks.written_dataset import written_dataset
from tests.benchmarks.written_store import written_store

SIZES, DIM = {"small": 20_000, "large": 1_281_167}, 2048
ROUNDS, STEPS, FIRST = 5, 40, 10
SETTINGS = ("--student", "resnet18", "--image-size", "32", "--batch-size", "64", "--anchors", "16384")
EVERY_SECONDS = 0.25
MIB = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Measurements:
    """One `distill`: bytes of private memory over time, and seconds of each step."""

    private: list[int] = field(default_factory=list)
    steps: list[float] = field(default_factory=list)


def measure(folder: Path) -> Iterator[Figure]:
    """Run both sizes by turns, stop each run after 40 steps, and do not count the first 10."""
    for name, rows in SIZES.items():
        (folder / name).mkdir()
        split = written_dataset(folder / name, rows)
        about = {"dataset": split.identity, "labels": split.labels, "thumbs": split.thumbs}
        written_store(folder / name / "store.zarr", rows=rows, dim=DIM, **about)
    seen: dict[str, list[Measurements]] = {name: [] for name in SIZES}
    for turn in range(-1, ROUNDS):  # the first turn verifies the stores and warms the page cache
        for name in SIZES:
            watched = run(folder / name, str(turn))
            if turn >= 0:
                seen[name].append(watched)
    memory = {name: [max(each.private) for each in of] for name, of in seen.items()}
    steps = {name: [statistics.median(each.steps) for each in of] for name, of in seen.items()}
    yield of_memory(memory)
    yield of_time(steps)


def run(folder: Path, name: str) -> Measurements:
    """Run `distill` on the dataset and the store in `folder` as a process, and end it by Ctrl-C."""
    out, watched = folder / f"run-{name}", Measurements()
    command = [
        sys.executable,
        "cli.py",
        "distill",
        *map(str, (folder / "dataset", folder / "store.zarr", out)),
    ]
    environment = {**os.environ, "XDG_CACHE_HOME": str(folder / "verified")}
    with (folder / f"run-{name}.log").open("w") as log:
        process = subprocess.Popen([*command, *SETTINGS], cwd=ROOT, env=environment, stdout=log, stderr=log)
        while process.poll() is None and len(watched.steps) < STEPS // 10:
            time.sleep(EVERY_SECONDS)
            watched.private.append(private_bytes(process.pid))
            watched.steps[:] = step_seconds(out / "metrics.jsonl")
        process.send_signal(signal.SIGINT)
        process.wait()
    if len(watched.steps) < STEPS // 10:
        raise RuntimeError(f"`{' '.join(command)}` ended early:\n{Path(log.name).read_text()}")
    del watched.steps[: FIRST // 10]
    return watched


def private_bytes(pid: int) -> int:
    """Return the bytes that a process has written to and shares with none.

    Mapped files do not count: their pages belong to the page cache, which every run shares.
    """
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:  # the process has ended
        return 0
    return sum(int(line.split()[1]) << 10 for line in lines if line.startswith("Private_Dirty"))


def step_seconds(metrics: Path) -> list[float]:
    """Return the seconds per step of every ten logged steps."""
    lines = metrics.read_text().splitlines() if metrics.exists() else []
    batch = int(SETTINGS[SETTINGS.index("--batch-size") + 1])
    return [batch / json.loads(line)["images_per_s"] for line in lines if line.endswith("}")]


def of_memory(memory: Mapping[str, list[int]]) -> Figure:
    small, large = (statistics.median(memory[name]) for name in SIZES)
    rows = SIZES["large"] - SIZES["small"]
    return Figure(
        name="growth-memory",
        what=f"peak private memory of `distill`, {SIZES['large']:,} rows x {DIM}",
        against=f"{SIZES['small']:,} rows",
        ratio=large / small,
        unit="x the memory",
        at_most=1.05,
        bound=(
            f"{large / MIB:,.0f} MiB against {small / MIB:,.0f}: {(large - small) / rows:.0f} bytes a row, for the "
            "order of the rows, the eligible anchors and the image offsets; embeddings and pixels stay in the page "
            "cache"
        ),
        details={"bytes": {name: list(of) for name, of in memory.items()}, "settings": " ".join(SETTINGS)},
    )


def of_time(steps: Mapping[str, list[float]]) -> Figure:
    each = {name: f"{statistics.median(of) * 1000:.0f} ms" for name, of in steps.items()}
    return Figure(
        name="growth-time",
        what=f"a step of `distill`, {SIZES['large']:,} rows x {DIM}",
        against=f"{SIZES['small']:,} rows",
        ratio=ratio(steps, "large", "small"),
        unit="x the time",
        at_most=1.1,
        seconds=steps,
        bound=f"{each['large']} against {each['small']}: the student and the loss, which do not depend on the rows",
        details={"settings": " ".join(SETTINGS)},
    )
