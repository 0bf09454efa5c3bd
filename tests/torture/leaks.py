"""Find leaks by counting before and after: files, shared memory, processes, and what a long-lived reader has open."""

import hashlib
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

SHARED = Path("/dev/shm")
# Read the store argv[1] until the file argv[2] exists. Print the number of rounds, then the open files and maps at
# first, then both at the end.
READER = """
import os, sys, time
import numpy as np
from pathlib import Path
from cache.reader import open_store
draws = np.random.default_rng(0)
def rounds(count):
    for _ in range(count):
        split = open_store(Path(sys.argv[1])).split("train")
        split.verify()
        split.gather(draws.integers(0, split.shape.rows, 100))
        time.sleep(0.1)
def held():
    return len(os.listdir("/proc/self/fd")), len(open("/proc/self/maps").readlines())
rounds(20)
before, done = held(), 0
while not Path(sys.argv[2]).exists():
    rounds(5)
    done += 5
print(done, *before, *held())
"""


def counted(kept: Mapping[str, Path], temporary: Path) -> dict[str, dict[str, str]]:
    """Return everything that must not change, by kind; for the folders in `kept`, the state of every file."""
    time.sleep(2)  # processes that end with their parent need a moment
    with suppress(ChildProcessError):  # reap adopted orphans
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    children = " ".join(file.read_text() for file in Path("/proc/self/task").glob("*/children")).split()
    return {
        **{kind: state(folder) for kind, folder in kept.items()},
        "shared memory": dict.fromkeys(os.listdir(SHARED), ""),
        "temporary files": dict.fromkeys(os.listdir(temporary), ""),
        "processes": dict.fromkeys(children, ""),
        "open files of this process": {str(len(os.listdir("/proc/self/fd"))): ""},
    }


def state(folder: Path) -> dict[str, str]:
    """Return the content, time and mode of every file and folder."""
    return {
        path.relative_to(folder).as_posix(): f"{path.stat().st_mtime_ns} {path.stat().st_mode} "
        + (sha256(path) if path.is_file() else "")
        for path in folder.rglob("*")
    }


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def left_behind(before: dict[str, dict[str, str]], after: dict[str, dict[str, str]]) -> list[str]:
    """Return every difference, one sentence each."""
    return [
        f"{kind}: {name} was {before[kind].get(name, 'not there')}, is {after[kind].get(name, 'not there')}"
        for kind in before
        for name in sorted(before[kind].keys() | after[kind].keys())
        if before[kind].get(name) != after[kind].get(name)
    ]


def reader_leaks(counts: list[int]) -> list[str]:
    """Return what the reading process held more of at the end than at first."""
    if len(counts) != 5:
        return ["the reading process did not come to its end"]
    rounds, files, maps, files_after, maps_after = counts
    leaks = {"open files": files_after - files}
    # an allocator's maps come and go; a store that stays open would leave several for each round
    if maps_after - maps > rounds // 10:
        leaks["maps"] = maps_after - maps
    return [f"the reading process has {more} more {what}" for what, more in leaks.items() if more > 0]
