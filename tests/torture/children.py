"""Commands in children that are forked after the imports: a trial costs no start-up.

In a child everything is the product's own but three things: processes that it would start afresh are forked as well
(no second import of FFCV), a dask cluster is one of threads in the child itself, and it runs on one core, so that no
pool of threads is ever forked. Trials with real processes are those of processes.py.
"""

import ctypes
import logging
import multiprocessing
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import resource_tracker
from pathlib import Path

import tqdm

import cli
from tests.torture.faults import Fault, Shim

MOST_SECONDS = 90
SECONDS_TO_END = 20  # for what a command had started, once the command itself is dead
PR_SET_CHILD_SUBREAPER = 36
# here, since a child that is interrupted within would keep logging's lock
logging.getLogger("distributed").setLevel(logging.CRITICAL + 1)
OUTSIDE = 77  # exit code of a child that was interrupted before the command began or after it had ended


@dataclass(frozen=True, kw_only=True)
class Ending:
    """How a child ended: its exit code, negative for a signal; what it said; what is wrong with the ending itself."""

    code: int
    said: str
    wrong: str
    seconds: float


def become_heir() -> None:
    """Orphans of children become children of this process, so that none is overlooked."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def in_child(
    shim: Shim, work: Callable[[], int], folder: Path, fault: Fault, trace: Path | None = None
) -> Ending:
    """What work(), whose value is the exit code, comes to in a child that meets a fault below `folder`."""
    log = folder.with_name(f"{folder.name}.log")
    sys.stdout.flush()
    sys.stderr.flush()
    began = time.monotonic()
    child = os.fork()
    if not child:
        _run(shim, work, folder, log, fault, trace)
    try:
        if fault.after is not None:
            time.sleep(fault.after)
            os.kill(child, fault.value)  # not reaped yet: the number is still the child's
        code, wrong = _wait(child)
    finally:
        shim.disarm()
    return Ending(
        code=code, said=log.read_text(errors="replace"), wrong=wrong, seconds=time.monotonic() - began
    )


def _run(
    shim: Shim, work: Callable[[], int], folder: Path, log: Path, fault: Fault, trace: Path | None
) -> None:
    code = 99
    signal.signal(signal.SIGTERM, lambda number, frame: os._exit(OUTSIDE))
    try:
        _prepare(log)
        shim.arm(folder, fault, trace)
        code = work()
    except KeyboardInterrupt:
        code = OUTSIDE
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _prepare(log: Path) -> None:
    """What makes a forked child behave as a process that was started."""
    os.setpgrp()
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o644)
    os.dup2(output, 1)
    os.dup2(output, 2)
    fork = multiprocessing.get_context("fork")

    def forking(method: str | None = None) -> object:
        resource_tracker.ensure_running()  # as the other ways of starting do: it clears up after who was killed
        return fork

    multiprocessing.get_context = forking  # type: ignore[assignment]
    # what is forked where the product starts afresh has no handlers
    os.register_at_fork(after_in_child=lambda: signal.signal(signal.SIGTERM, signal.SIG_DFL))
    tqdm.tqdm.monitor_interval = 0  # a thread


def _wait(child: int) -> tuple[int, str]:
    """Exit code of a child, and what is wrong: that it hung, or that something which it started did not end."""
    deadline = time.monotonic() + MOST_SECONDS
    code, wrong = None, ""
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            assert code is not None
            return code, wrong
        if pid == child:
            code = os.waitstatus_to_exitcode(status)
            deadline = min(deadline, time.monotonic() + SECONDS_TO_END)
        elif not pid and time.monotonic() > deadline:
            wrong = "it hung" if code is None else "a process that it started did not end"
            _end_all()
        elif not pid:
            time.sleep(0.002)


def _end_all() -> None:
    own = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    for pid in map(int, own):
        os.kill(pid, signal.SIGKILL)


@contextmanager
def cluster() -> Iterator[str]:
    """The address of a dask cluster of one thread in this process: for the command it is somebody's own."""
    from distributed import LocalCluster

    logging.disable(logging.CRITICAL)  # its workers tell of tasks that an interruption took from them
    with LocalCluster(
        n_workers=1, threads_per_worker=1, processes=False, dashboard_address=None, memory_limit=0
    ) as started:
        yield started.scheduler_address


def command(arguments: list[str]) -> Callable[[], int]:
    """A command line as work for a child."""
    return lambda: cli.run_cli(arguments)


def command_on_cluster(arguments: list[str]) -> Callable[[], int]:
    """A command line that is told a dask cluster."""

    def work() -> int:
        with cluster() as address:
            return cli.run_cli([*arguments, "--scheduler", address])

    return work
