"""The first full pass over a store that is not in memory, against `cat`; and random rows right after it."""

import os
import shutil
import statistics
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import numpy as np

from cache.reader import Split, open_store
from tests.benchmarks.figure import Figure, interleaved, ratio
from tests.benchmarks.written_store import written_store

ROWS, DIM, BATCH, BATCHES = 500_000, 2048, 256, 100


def measure(folder: Path) -> Iterator[Figure]:
    """Time 2 GB of 500,000 rows x 2048, dropped from the page cache before every turn."""
    store = folder / "store.zarr"
    written_store(store, rows=ROWS, dim=DIM)
    files = sorted(file for file in store.rglob("*") if file.is_file())
    total = sum(file.stat().st_size for file in files)
    with patch.dict(os.environ, XDG_CACHE_HOME=str(folder / "home")):

        def forget_verified() -> None:
            shutil.rmtree(folder / "home", ignore_errors=True)

        def cold() -> None:
            forget_verified()
            drop_from_page_cache(files)

        cold()
        before = bytes_read()
        first_pass(store)
        assert bytes_read() - before > 0.95 * total, "the store was not cold"
        sides = {"first pass": lambda: first_pass(store), "cat": lambda: cat(files)}
        seconds = interleaved(sides, rounds=9, before=cold)
        warm = interleaved(sides, rounds=5, before=forget_verified)
        yield of_pass(seconds, warm, total)
        yield of_rows(store, files, folder / "home")


def first_pass(store: Path) -> Split:
    """Open the store and verify every chunk, as a run does before it trains."""
    split = open_store(store).split("train")
    split.verify()
    return split


def cat(files: list[Path]) -> None:
    subprocess.run(["cat", *files], stdout=subprocess.DEVNULL, check=True)


def drop_from_page_cache(files: list[Path]) -> None:
    """Drop these files, none of which may be mapped, from the page cache."""
    for file in files:
        descriptor = os.open(file, os.O_RDONLY)
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def bytes_read() -> int:
    """Return the bytes that this process has read from the disk."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("read_bytes"))


def of_pass(seconds: dict[str, list[float]], warm: dict[str, list[float]], total: int) -> Figure:
    gigabytes = {name: total / 1e9 / statistics.median(of) for name, of in seconds.items()}
    return Figure(
        name="cold-start",
        what=f"the first full pass over a cold store of {total / 1e9:.1f} GB, every checksum verified",
        against="`cat` of the same files",
        ratio=ratio(seconds, "cat", "first pass"),
        unit="x its speed",
        at_least=0.7,
        seconds=seconds,
        bound=(
            f"the disk: {gigabytes['first pass']:.2f} GB/s against {gigabytes['cat']:.2f}; with the files in memory "
            f"the pass takes {statistics.median(warm['first pass']):.2f} s and cat {statistics.median(warm['cat']):.2f}"
        ),
        details={"GB/s": gigabytes, "warm seconds": warm},
    )


def of_rows(store: Path, files: list[Path], home: Path) -> Figure:
    """Time batches of random rows right after a start on a cold store, new or verified before."""
    batches = np.random.default_rng(0).integers(0, ROWS, (BATCHES, BATCH))

    def taken(split: Split) -> float:
        start = time.perf_counter()
        for rows in batches:
            split.gather(rows)
        return time.perf_counter() - start

    drop_from_page_cache(files)
    seconds = {"first": [], "again": [], "not warmed": [taken(open_store(store).split("train"))]}
    warming = []
    for turn in range(5):
        if turn % 2:  # in the other turns the store is verified already and only read to warm it
            shutil.rmtree(home)
        drop_from_page_cache(files)
        split = first_pass(store)
        start = time.perf_counter()
        thread = split.warm()
        assert thread, "the store does not fit into memory"
        thread.join()
        warming.append(time.perf_counter() - start)
        for name in ("first", "again"):
            seconds[name].append(taken(split))
        del split, thread
    each = {name: statistics.median(of) / BATCHES * 1e3 for name, of in seconds.items()}
    return Figure(
        name="cold-start-rows",
        what=f"{BATCH} random rows, the first time after a cold start",
        against="the same rows again",
        ratio=ratio(seconds, "first", "again"),
        unit="x the time",
        at_most=1.5,
        seconds=seconds,
        bound=(
            f"memory: {each['first']:.2f} ms a batch, then {each['again']:.2f}; {each['not warmed']:.0f} ms, the disk, "
            "from a cold store that was only opened. Mapping the pages takes "
            f"{statistics.median(warming):.1f} s here, in the background"
        ),
        details={"milliseconds a batch": each, "seconds to warm": warming},
    )
