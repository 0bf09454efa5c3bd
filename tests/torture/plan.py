"""The trials of a stage: faults at every call that it makes, and signals at random moments."""

import errno
import random
import re
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tests.torture.faults import Action, Fault

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
MOMENTS = 60  # for each signal and stage
INTERRUPT_EVERY = 3  # calls


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A stage and its fault. at: the call, or the share of the stage's time, at which the fault comes."""

    stage: str
    fault: Fault
    at: str

    @property
    def name(self) -> str:
        """A name that is the same in every process."""
        return f"{self.stage}: {self.fault}, {self.at}"

    @property
    def kind(self) -> str:
        """The kind of fault in the table."""
        if self.fault.after is not None:
            return f"{signal.Signals(self.fault.value).name} at a random moment"
        if self.fault.action is Action.SIGNAL:
            return f"{signal.Signals(self.fault.value).name} at a call"
        if self.fault.value:
            return errno.errorcode[self.fault.value]
        return "a write cut short" if self.fault.action is Action.SHORT else "SIGKILL at a call"


def trials(stage: str, calls: Sequence[str], seconds: float, seed: int = 0) -> Iterator[Trial]:
    """Yield kills before every call, after the last and within every write; failures of every call; signals."""
    for number, call in enumerate(calls, start=1):
        for fault in at_call(number, call, last=number == len(calls)):
            yield Trial(stage=stage, fault=fault, at=without_numbers(call))
    draws = random.Random(f"{seed} {stage}")
    for kind in SIGNALS:
        for moment in range(MOMENTS):
            share = (moment + draws.random()) / MOMENTS
            fault = Fault(action=Action.SIGNAL, value=kind, after=share * seconds)
            yield Trial(stage=stage, fault=fault, at=f"{share:.3f} of its time")


def at_call(number: int, call: str, *, last: bool) -> Iterator[Fault]:
    """Yield the faults at one call; a kill after it is a kill before the next, but for the last."""
    kills = [Action.KILL_BEFORE, *[Action.KILL_AFTER] * last]
    if call.startswith("write "):
        kills += [Action.KILL_HALF, Action.SHORT]
    yield from (Fault(action=action, call=number) for action in kills)
    if not call.startswith("remove "):
        yield Fault(action=Action.FAIL_FROM_HERE, call=number, value=errno.ENOSPC)
        yield Fault(action=Action.FAIL_ONCE, call=number, value=errno.EIO)
    if number % INTERRUPT_EVERY == 0:
        asked = signal.SIGTERM if number % 2 else signal.SIGINT
        yield Fault(action=Action.SIGNAL, call=number, value=asked)


def without_numbers(call: str) -> str:
    """Return a call without the process id and the random part of temporary names, which differ between runs."""
    action, path = call.split(" ", 1)
    path = re.sub(r"\.\d+\.tmp$", ".tmp", path)
    parts = [
        part.split("~")[0] + "~" if part.startswith(".") and "~" in part else part for part in path.split("/")
    ]
    return f"{action} {'/'.join(parts)}"
