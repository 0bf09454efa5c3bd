"""Run commands in forked children, so that a trial costs no imports.

A child differs from a real process in three things: processes that the product spawns are forked instead (FFCV is not
imported again), a dask cluster consists of threads in the child, and the child runs on one core, since a pool of
threads does not survive a fork. processes.py has the trials with real processes.
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
SECONDS_TO_END = 20  # for the processes that a dead command had started
PR_SET_CHILD_SUBREAPER = 36
# at import: an interrupted child could keep the lock of logging
logging.getLogger("distributed").setLevel(logging.CRITICAL + 1)
OUTSIDE = 77  # exit code of a child interrupted before its command began or after it had ended


@dataclass(frozen=True, kw_only=True)
class Ending:
    """How a child ended: exit code (negative for a signal), output, and what is wrong with the ending itself."""

    code: int
    said: str
    wrong: str
    seconds: float


def adopt_orphans() -> None:
    """Make orphaned descendants children of this process, so that none is overlooked."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def in_child(
    shim: Shim, work: Callable[[], int], folder: Path, fault: Fault, trace: Path | None = None
) -> Ending:
    """Run work(), which returns an exit code, in a child with a fault below `folder`; return how it ended."""
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
            os.kill(child, fault.value)  # not reaped yet, so the pid is still the child's
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
    """Make a forked child behave like a new process."""
    os.setpgrp()
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o644)
    os.dup2(output, 1)
    os.dup2(output, 2)
    fork = multiprocessing.get_context("fork")

    def forking(method: str | None = None) -> object:
        resource_tracker.ensure_running()  # as spawn does: it cleans up after killed processes
        return fork

    multiprocessing.get_context = forking  # type: ignore[assignment]
    # the product spawns its processes, and a spawned process has no handlers
    os.register_at_fork(after_in_child=lambda: signal.signal(signal.SIGTERM, signal.SIG_DFL))
    tqdm.tqdm.monitor_interval = 0  # no monitor thread


def _wait(child: int) -> tuple[int, str]:
    """Return a child's exit code, and what is wrong: it hung, or a process that it started did not end."""
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
    """Yield the address of a dask cluster of one thread in this process, for `--scheduler`."""
    from distributed import LocalCluster

    logging.disable(logging.CRITICAL)  # its workers log every task that an interruption cancels
    with LocalCluster(
        n_workers=1, threads_per_worker=1, processes=False, dashboard_address=None, memory_limit=0
    ) as started:
        yield started.scheduler_address


def command(arguments: list[str]) -> Callable[[], int]:
    """Return a command line as work for a child."""
    return lambda: cli.run_cli(arguments)


def command_on_cluster(arguments: list[str]) -> Callable[[], int]:
    """Return a command line as work for a child, on a dask cluster of its own."""

    def work() -> int:
        with cluster() as address:
            return cli.run_cli([*arguments, "--scheduler", address])

    return work
