"""Faults at the n-th file operation of a process below a folder, injected by a preloaded library."""

import ctypes
import errno
import os
import signal
import subprocess
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Self

SOURCE = Path(__file__).with_name("faults.c")
LIBRARY = "LD_PRELOAD"


class Action(IntEnum):
    """What happens at the call; faults.c has the same numbers."""

    NOTHING = 0
    KILL_BEFORE = 1
    KILL_AFTER = 2
    KILL_HALF = 3
    FAIL_ONCE = 4
    FAIL_FROM_HERE = 5
    SHORT = 6
    SIGNAL = 7


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One fault: at call number `call`, counted from 1, or `after` seconds after the start.

    value: the errno of a failure, or the number of a signal.
    """

    action: Action = Action.NOTHING
    call: int = 0
    value: int = 0
    after: float | None = None

    @property
    def kills(self) -> bool:
        """Whether the process ends without a chance to print anything."""
        return self.action in (Action.KILL_BEFORE, Action.KILL_AFTER, Action.KILL_HALF) or (
            self.action is Action.SIGNAL and self.value == signal.SIGKILL
        )

    @property
    def interrupts(self) -> bool:
        """Whether the process is asked to end."""
        return self.action is Action.SIGNAL and self.value != signal.SIGKILL

    def __str__(self) -> str:
        if self.action is Action.SIGNAL:
            what = signal.Signals(self.value).name
            return what if self.after is not None else f"{what} at call {self.call}"
        what = errno.errorcode[self.value] if self.value else self.action.name.lower().replace("_", " ")
        onwards = " and ever after" if self.action is Action.FAIL_FROM_HERE else ""
        return f"{what} at call {self.call}{onwards}"


class Shim:
    """The library of faults.c, preloaded into this process."""

    def __init__(self, path: str) -> None:
        self.library = ctypes.CDLL(path)
        arguments = [ctypes.c_char_p, ctypes.c_long, ctypes.c_int, ctypes.c_int, ctypes.c_int]
        self.library.torture_arm.argtypes = arguments
        self.library.torture_disarm.restype = ctypes.c_long

    @classmethod
    def loaded(cls) -> Self | None:
        """Return the preloaded library, or None."""
        path = os.environ.get(LIBRARY, "")
        return cls(path) if Path(path).name == SOURCE.with_suffix(".so").name else None

    def arm(self, folder: Path, fault: Fault, trace: Path | None = None) -> None:
        """Count calls from now on, in this process and its forks; write a line for each to `trace`."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        log = -1 if trace is None else os.open(trace, flags, 0o644)
        armed = Action.NOTHING if fault.after is not None else fault.action
        self.library.torture_arm(os.fsencode(folder), fault.call, armed, fault.value, log)

    def disarm(self) -> int:
        """Let every call pass again; return how many were counted."""
        return int(self.library.torture_disarm())


def build(folder: Path) -> Path:
    """Compile the library into `folder`."""
    target = folder.resolve() / SOURCE.with_suffix(".so").name
    command = [
        os.environ.get("CC", "cc"),
        "-O1",
        "-Wall",
        "-Werror",
        "-shared",
        "-fPIC",
        SOURCE,
        "-o",
        target,
    ]
    subprocess.run(command, check=True)
    return target
