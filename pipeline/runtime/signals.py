"""Ctrl-C and SIGTERM: both interrupt a command, or ask the training loop to stop at the end of its step."""

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator
from multiprocessing import resource_tracker
from types import FrameType, TracebackType
from typing import Self

RETRY_SECONDS = 0.01  # enough to leave a destructor


class InterruptRetry:
    """Raises SIGTERM again after a moment, because Python discards a KeyboardInterrupt raised in a destructor.

    Not SIGINT, which a process in the background, under nohup for example, ignores.
    It borrows SIGALRM and its timer, and gives them back to their owner, such as a test with a time limit.
    """

    pending = False

    def start(self) -> None:
        self.handler = signal.signal(signal.SIGALRM, self.fire)
        self.timer = signal.setitimer(signal.ITIMER_REAL, RETRY_SECONDS)
        self.pending = True

    def cancel(self) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, self.handler)
        signal.setitimer(signal.ITIMER_REAL, *self.timer)
        self.pending = False

    def fire(self, number: int, frame: FrameType | None) -> None:
        self.cancel()
        signal.raise_signal(signal.SIGTERM)


@contextlib.contextmanager
def terminated_as_interrupted() -> Iterator[None]:
    """Within the context, SIGTERM raises KeyboardInterrupt, as Ctrl-C does.

    An interrupt that arrives while a destructor runs is raised after it. Does nothing outside the main thread, which
    alone receives signals.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    def unraisable(problem: "sys.UnraisableHookArgs") -> None:
        if not issubclass(problem.exc_type, KeyboardInterrupt):
            hook(problem)
        elif not retry.pending:
            retry.start()

    retry = InterruptRetry()
    hook, sys.unraisablehook = sys.unraisablehook, unraisable
    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
        sys.unraisablehook = hook
        if retry.pending:
            retry.cancel()
            raise KeyboardInterrupt


@contextlib.contextmanager
def children_ignore_interrupts() -> Iterator[None]:
    """Processes started by this thread within the context ignore Ctrl-C, which a terminal sends to all processes.

    They inherit a signal mask that blocks SIGINT, so only this process is interrupted, and ends them in order.
    """
    resource_tracker.ensure_running()  # started later, it would unblock SIGINT again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class StopRequest:
    """Within the context, the first SIGINT or SIGTERM only sets `wanted`; a second one interrupts at once."""

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
def delayed_interrupts() -> Iterator[None]:
    """Within the context, the first Ctrl-C or SIGTERM is delayed until its end; a second one interrupts at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    with StopRequest() as stop:
        yield
    if stop.wanted:
        raise KeyboardInterrupt
