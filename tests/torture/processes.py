"""Trials with real processes, as a person starts them: Ctrl-C to all of them, a dask worker killed, a rank killed."""

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

MARKS = "TORTURE_MARKS"  # names the file into which a teacher writes which process it runs in
MOST_SECONDS = 240
SECONDS_TO_END = 60  # of two ranks, once one is dead
MOMENTS = 4  # of each signal and stage


@dataclass(frozen=True, kw_only=True)
class ProcessTrial:
    """One trial of real processes; `run` gives what was wrong."""

    stage: str
    kind: str
    name: str
    run: Callable[[Materials], list[str]]


def process_trials() -> Iterator[ProcessTrial]:
    """Each stage ended by each signal at random moments of its whole life; a worker killed; either rank killed."""
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
    """Ctrl-C goes to every process, as a terminal sends it; the others to the command alone."""
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
    told = code == INTERRUPTED and said.splitlines()[-1:] == [GO_ON] and "Traceback" not in said
    if kind is not signal.SIGKILL and not (told or finished or in_python_itself(code, kind, said)):
        problems.append(f"it ended with {code}: {said}")
    return problems + again(materials, arguments, folder, whole)


def in_python_itself(code: int, kind: signal.Signals, said: str) -> bool:
    """Whether Python was still starting, before any line of the product ran."""
    return code in (-kind, INTERRUPTED) and (not said or ("Traceback" in said and "run_cli" not in said))


def worker_killed(materials: Materials) -> list[str]:
    """The worker dies while the teacher looks at a batch; its chunk is computed by another one."""
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
    """The other rank says so and ends; the same command then comes to what it would have."""
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
        problems.append(f"the other rank said nothing of it: {said}")
    return problems + again(materials, arguments, folder, whole)


def again(materials: Materials, arguments: Sequence[str], folder: Path, whole: Path) -> list[str]:
    """The same command to its end, and what is not as it would be without the fault."""
    if code := run(arguments, materials):
        return [f"run again: exit code {code}: {materials.log.read_text(errors='replace')}"]
    return differences(contents(whole), contents(folder))


def run(arguments: Sequence[str], materials: Materials) -> int:
    return start(arguments, materials).wait(MOST_SECONDS)


def start(
    arguments: Sequence[str], materials: Materials, more: dict[str, str] | None = None
) -> subprocess.Popen[bytes]:
    """A process of a session of its own, on one core, its output in a file, with no library in between."""
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
    """Wait so long, or until the process has ended; what it has started by then."""
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
    """Wait for a process and all that it had started; what is wrong with that."""
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
    """Says in which process it is, and takes its time."""

    def forward(self, images: Tensor) -> Tensor:
        if MARKS in os.environ:
            with open(os.environ[MARKS], "a") as file:
                file.write(f"{os.getpid()}\n")
            time.sleep(0.5)
        return super().forward(images)


def marking() -> tuple[nn.Module, dict]:
    return Marking(), PLAIN
