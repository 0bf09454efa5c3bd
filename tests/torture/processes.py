"""Trials with real processes: a signal to a whole command, a killed dask worker, a killed rank."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
from torch import Tensor, nn

from tests.support.tiny_teacher import PLAIN, Wide
from tests.torture.faults import LIBRARY
from tests.torture.stages import STAGES, STUDENT, Materials, Stage, contents
from tests.torture.trial import GO_ON, INTERRUPTED, differences

MARKS = "TORTURE_MARKS"  # environment variable with the file to which a teacher writes its process id
MOST_SECONDS = 240
SECONDS_TO_END = 60  # for the other rank, once one is dead
MOMENTS = 4  # for each signal and stage


@dataclass(frozen=True, kw_only=True)
class ProcessTrial:
    """One trial of real processes; `run` returns its problems."""

    stage: str
    kind: str
    name: str
    run: Callable[[Materials], list[str]]


def process_trials() -> Iterator[ProcessTrial]:
    """Yield a killed worker, each rank killed, and each stage ended by each signal at random moments."""
    yield ProcessTrial(
        stage="cache-teacher",
        kind="a dask worker killed",
        name="cache-teacher: a dask worker killed within a chunk",
        run=worker_killed,
    )
    for rank in (1, 0):
        yield ProcessTrial(
            stage="distill",
            kind="one of two ranks killed",
            name=f"distill: rank {rank} of 2 killed",
            run=lambda materials, rank=rank: rank_killed(materials, rank),
        )
    draws = random.Random(0)
    for stage in STAGES:
        for kind in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
            for moment in range(MOMENTS):
                share = (moment + draws.random()) / MOMENTS
                yield ProcessTrial(
                    stage=stage.name,
                    kind=f"{kind.name} to the processes",
                    name=f"{stage.name}: {kind.name} to the processes, {share:.3f} of their time",
                    run=lambda materials, stage=stage, kind=kind, share=share: ended(
                        materials, stage, kind, share
                    ),
                )


def ended(materials: Materials, stage: Stage, kind: signal.Signals, share: float) -> list[str]:
    """Send a signal at a share of the stage's time: SIGINT to the whole group, others to the command."""
    folder = emptied(materials.trial)
    arguments = [sys.executable, "cli.py", *stage.arguments(materials, folder)]
    record = materials.folder / f"{stage.name}.process-seconds"
    if not record.exists():
        began = time.monotonic()
        if problems := again(materials, arguments, folder, materials.whole(stage.name)):
            return problems
        record.write_text(str(time.monotonic() - began))
        emptied(folder)
    process = start(arguments, materials)
    family = asleep(process, share * float(record.read_text()))
    (os.killpg if kind is signal.SIGINT else os.kill)(process.pid, kind) if process.poll() is None else None
    problems = gone(process, family)
    said = materials.log.read_text(errors="replace")
    code = process.returncode
    whole = materials.whole(stage.name)
    finished = not differences(contents(whole), contents(folder))
    reported = code == INTERRUPTED and said.splitlines()[-1:] == [GO_ON] and "Traceback" not in said
    if kind is not signal.SIGKILL and not (reported or finished or in_python_itself(code, kind, said)):
        problems.append(f"it ended with {code}: {said}")
    return problems + again(materials, arguments, folder, whole)


def in_python_itself(code: int, kind: signal.Signals, said: str) -> bool:
    """Whether Python was still starting up and the product had not run yet."""
    return code in (-kind, INTERRUPTED) and (not said or ("Traceback" in said and "run_cli" not in said))


def worker_killed(materials: Materials) -> list[str]:
    """Kill a worker during a forward pass; another one must compute its chunk."""
    whole = materials.whole("worker")
    command = [sys.executable, "cli.py", "cache-teacher", str(materials.whole("pack") / "dataset")]
    options = ["--teacher", "tests.torture.processes:marking", "--batch-size", "4", "--device", "cpu"]
    folder, marks = emptied(materials.trial), materials.folder / "marks"
    arguments = [*command, str(folder / "cache.zarr"), *options]
    if not whole.exists():
        if run(arguments, materials):
            return [materials.log.read_text()]
        folder.rename(whole)
        emptied(folder)
    marks.unlink(missing_ok=True)
    process = start(arguments, materials, {MARKS: str(marks)})
    wait_until(process, lambda: marks.exists() and len(marks.read_text().splitlines()) > 1)
    worker = int(marks.read_text().split()[-1])
    os.kill(worker, signal.SIGKILL)
    problems = gone(process, [])
    if process.returncode or len(set(marks.read_text().split())) < 2:
        problems.append(f"it ended with {process.returncode}: {materials.log.read_text()}")
    return problems + differences(contents(whole), contents(folder))


def rank_killed(materials: Materials, rank: int) -> list[str]:
    """Kill one rank: the other must report it and end, and the same command must then reach the same result."""
    whole = materials.whole("ranks")
    dataset, cache = materials.whole("pack") / "dataset", materials.whole("cache-teacher") / "cache.zarr"
    folder = emptied(materials.trial)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone"]
    distill = ["cli.py", "distill", str(dataset), str(cache), str(folder / "run"), *STUDENT.split()]
    arguments = [*launcher, *distill, "--epochs", "60"]
    if not whole.exists():
        if run(arguments, materials):
            return [materials.log.read_text()]
        folder.rename(whole)
        emptied(folder)
    process = start(arguments, materials)
    wait_until(process, (folder / "run" / "resume.pt").exists)
    ranks = {environment_of(child).get("RANK"): child for child in psutil.Process(process.pid).children()}
    os.kill(ranks[str(rank)].pid, signal.SIGKILL)
    killed = time.monotonic()
    problems = gone(process, list(ranks.values()))
    said = materials.log.read_text(errors="replace")
    if time.monotonic() - killed > SECONDS_TO_END:
        problems.append("the other rank took more than a minute to end")
    if "error: another rank died" not in said and GO_ON not in said:
        problems.append(f"the other rank did not report it: {said}")
    return problems + again(materials, arguments, folder, whole)


def again(materials: Materials, arguments: Sequence[str], folder: Path, whole: Path) -> list[str]:
    """Run the same command to its end; return the differences from an uninterrupted result."""
    if code := run(arguments, materials):
        return [f"run again: exit code {code}: {materials.log.read_text(errors='replace')}"]
    return differences(contents(whole), contents(folder))


def run(arguments: Sequence[str], materials: Materials) -> int:
    return start(arguments, materials).wait(MOST_SECONDS)


def start(
    arguments: Sequence[str], materials: Materials, more: dict[str, str] | None = None
) -> subprocess.Popen[bytes]:
    """Start a process in a session of its own, on one core, without the library, and log its output."""
    environment = {name: value for name, value in os.environ.items() if name != LIBRARY} | (more or {})
    core = min(os.sched_getaffinity(0))
    with materials.log.open("wb") as log:
        return subprocess.Popen(
            ["taskset", "-c", str(core), *arguments],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def asleep(process: subprocess.Popen[bytes], seconds: float) -> list[psutil.Process]:
    """Wait for some seconds or the process's end; return the processes that it has started."""
    deadline = time.monotonic() + seconds
    while process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    return psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []


def wait_until(process: subprocess.Popen[bytes], condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + MOST_SECONDS
    while not condition():
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError("the moment to kill did not come")
        time.sleep(0.01)


def gone(process: subprocess.Popen[bytes], family: list[psutil.Process]) -> list[str]:
    """Wait for a process and its family to end; return what is wrong."""
    try:
        process.wait(MOST_SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return ["it hung"]
    left = psutil.wait_procs(family, timeout=SECONDS_TO_END)[1]
    for other in left:
        other.kill()
    return [f"processes that it started did not end: {left}"] if left else []


def environment_of(process: psutil.Process) -> dict[str, str]:
    try:
        return process.environ()
    except psutil.Error:
        return {}


def emptied(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


class Marking(Wide):
    """Wide, with a slow forward pass that records its process id."""

    def forward(self, images: Tensor) -> Tensor:
        if MARKS in os.environ:
            with open(os.environ[MARKS], "a") as file:
                file.write(f"{os.getpid()}\n")
            time.sleep(0.5)
        return super().forward(images)


def marking() -> tuple[nn.Module, dict]:
    return Marking(), PLAIN
