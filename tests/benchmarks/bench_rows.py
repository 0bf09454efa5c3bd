"""Random rows of a store against the same rows of an array in memory, against zarr's own indexing, and in int8."""

import statistics
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from cache.reader import Split, open_store
from pipeline.embedding.convert import convert_cache
from pipeline.settings.cache_commands import ConvertConfig
from tests.benchmarks.figure import Figure, interleaved, ratio
from tests.benchmarks.written_store import written_store

ROWS, DIM, BATCH, BATCHES, ZARR_BATCHES = 200_000, 2048, 256, 400, 3

Rows = NDArray[np.int64]


def measure(folder: Path) -> Iterator[Figure]:
    """Time batches of 256 random rows of 200,000 x 2048, different rows in each batch, all in memory."""
    split = written_store(folder / "store.zarr", rows=ROWS, dim=DIM)
    batches = np.random.default_rng(0).integers(0, ROWS, (BATCHES, BATCH))
    yield against_memory(split, batches)
    yield against_zarr(split, zarr.open_array(folder / "store.zarr/train/embedding", mode="r"), batches)
    convert_cache(ConvertConfig(cache=folder / "store.zarr", out=folder / "int8.zarr", as_="int8"))
    yield of_int8(split, open_store(folder / "int8.zarr").split("train"), batches)


def over(batches: Rows, take: Callable[[Rows], object]) -> Callable[[], None]:
    def run() -> None:
        for rows in batches:
            take(rows)

    return run


def against_memory(split: Split, batches: Rows) -> Figure:
    array = np.empty((ROWS, DIM), np.float16)
    for start in range(0, ROWS, split.shape.chunk_rows):
        rows = np.arange(start, min(start + split.shape.chunk_rows, ROWS))
        split.gather(rows, out=array[rows[0] : rows[-1] + 1])
    for rows in batches[:ZARR_BATCHES]:
        assert np.array_equal(split.gather(rows), array[rows])
    # the fastest form of `take` as well: into an existing buffer, without a copy in between
    out, first = np.empty((BATCH, DIM), np.float16), array[:BATCH]
    seconds = interleaved(
        {
            "store": over(batches, lambda rows: split.gather(rows, out=out)),
            "np.take": over(batches, lambda rows: np.take(array, rows, axis=0)),
            "np.take into a buffer": over(
                batches, lambda rows: np.take(array, rows, axis=0, out=out, mode="clip")
            ),
            "neighbouring rows": over(batches, lambda rows: np.copyto(out, array[rows[0] // 2 :][:BATCH])),
            "cached rows": over(batches, lambda rows: np.copyto(out, first)),
        },
        rounds=15,
    )
    fastest = min(("np.take", "np.take into a buffer"), key=lambda name: statistics.median(seconds[name]))
    each = {name: statistics.median(of) / BATCHES * 1e6 for name, of in seconds.items()}
    return Figure(
        name="rows",
        what=f"{BATCH} random rows out of {ROWS:,} x {DIM} fp16, from the store",
        against="np.take on the array in RAM, the faster of its two ways",
        ratio=ratio(seconds, fastest, "store"),
        unit="x its speed",
        at_least=1.0,
        seconds=seconds,
        bound=(
            f"memory: {each['store']:.0f} us a batch; copying as many neighbouring rows takes "
            f"{each['neighbouring rows']:.0f} us, rows in the processor's cache {each['cached rows']:.0f}; np.take "
            f"{each[fastest]:.0f}"
        ),
        details={"microseconds a batch": each},
    )


def against_zarr(split: Split, from_zarr: Any, batches: Rows) -> Figure:
    few = batches[:ZARR_BATCHES]
    for rows in few:
        assert np.array_equal(from_zarr.oindex[0, rows], split.gather(rows))
    seconds = interleaved(
        {
            "store": over(few, lambda rows: split.gather(rows)),
            "zarr": over(few, lambda rows: from_zarr.oindex[0, rows]),
        }
    )
    each = {name: statistics.median(of) / ZARR_BATCHES * 1e3 for name, of in seconds.items()}
    return Figure(
        name="rows-zarr",
        what=f"{BATCH} random rows out of {ROWS:,} x {DIM} fp16, from the store",
        against="zarr's own indexing of the same store",
        ratio=ratio(seconds, "zarr", "store"),
        unit="x its speed",
        at_least=200,
        seconds=seconds,
        bound=(
            f"zarr reads and checks every chunk that holds a row, here all {split.shape.chunks} "
            f"({each['zarr']:.0f} ms); the store reads only the rows ({each['store']:.2f} ms)"
        ),
        details={"milliseconds a batch": each},
    )


def of_int8(split: Split, small: Split, batches: Rows) -> Figure:
    out = np.empty((BATCH, DIM), np.float16)
    seconds = interleaved(
        {
            "float16": over(batches, lambda rows: split.gather(rows, out=out)),
            "int8": over(batches, lambda rows: small.gather(rows, out=out)),
        },
        rounds=15,
    )
    each = {name: statistics.median(of) / BATCHES * 1e6 for name, of in seconds.items()}
    return Figure(
        name="rows-int8",
        what=f"{BATCH} random rows out of {ROWS:,} x {DIM} int8, widened to fp16",
        against="the same rows of the store in fp16",
        ratio=ratio(seconds, "float16", "int8"),
        unit="x its speed",
        at_least=1.0,
        seconds=seconds,
        bound=f"{each['int8']:.0f} us a batch against {each['float16']:.0f}: half the bytes are read",
        details={"microseconds a batch": each},
    )
