"""SIGTERM as Ctrl-C, and both as a request that the training loop answers at the end of a step."""

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator
from multiprocessing import resource_tracker
from types import FrameType, TracebackType
from typing import Self

SECONDS_TO_RETURN = 0.01  # out of a destructor


class Reminder:
    """SIGINT once more, soon: for one that came within a destructor, out of which nothing can be raised.

    The alarm is the caller's, say a test's with a time limit, but for these hundredths of a second.
    """

    waiting = False

    def start(self) -> None:
        self.handler = signal.signal(signal.SIGALRM, self.ring)
        self.timer = signal.setitimer(signal.ITIMER_REAL, SECONDS_TO_RETURN)
        self.waiting = True

    def stop(self) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, self.handler)
        signal.setitimer(signal.ITIMER_REAL, *self.timer)
        self.waiting = False

    def ring(self, number: int, frame: FrameType | None) -> None:
        self.stop()
        signal.raise_signal(signal.SIGINT)


@contextlib.contextmanager
def terminated_as_interrupted() -> Iterator[None]:
    """While open, SIGTERM raises KeyboardInterrupt, as Ctrl-C does. Only the main thread can hear signals.

    One that comes while a destructor runs is raised after it.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    def unraisable(problem: "sys.UnraisableHookArgs") -> None:
        if not issubclass(problem.exc_type, KeyboardInterrupt):
            hook(problem)
        elif not reminder.waiting:
            reminder.start()

    reminder = Reminder()
    hook, sys.unraisablehook = sys.unraisablehook, unraisable
    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
        sys.unraisablehook = hook
        if reminder.waiting:
            reminder.stop()
            raise KeyboardInterrupt


@contextlib.contextmanager
def children_deaf_to_interrupts() -> Iterator[None]:
    """While open, what this thread starts never hears Ctrl-C, which a terminal sends to every process.

    They inherit its mask, so that only this process hears it, and ends them.
    """
    resource_tracker.ensure_running()  # when started later it unblocks the signal again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class StopRequest:
    """While open, the first SIGINT or SIGTERM only sets `wanted`; a second one interrupts at once."""

    def __init__(self) -> None:
        self.wanted = False

    def __enter__(self) -> Self:
        self.previous = {kind: signal.signal(kind, self.ask) for kind in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self.previous.items():
            signal.signal(number, handler)

    def ask(self, number: int, frame: FrameType | None) -> None:
        if self.wanted:
            raise KeyboardInterrupt
        self.wanted = True


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """While open, Ctrl-C and SIGTERM wait; then they interrupt. A second one interrupts at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    with StopRequest() as stop:
        yield
    if stop.wanted:
        raise KeyboardInterrupt
