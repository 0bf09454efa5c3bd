"""Fixtures for every test: no fsync, a private cache folder, and one small dataset with its cache."""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.support.squares import draw_squares

TESTS = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests by their folder: `pytest -m "not slow"` runs the unit tests alone."""
    for item in items:
        for folder, mark in (("system", "slow"), ("gpu", "gpu")):
            if item.path.is_relative_to(TESTS / folder):
                item.add_marker(mark)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Report that no test was skipped: pytest's -rs prints nothing in that case."""
    if not terminalreporter.getreports("skipped"):
        terminalreporter.write_line("no test was skipped")
    if terminalreporter.getreports("deselected"):
        terminalreporter.write_line("tests marked `long` are run by `make test-long`")


@pytest.fixture(autouse=True, scope="session")
def unsynced() -> Iterator[None]:
    """Turn fsync off: it takes most of the time of a test, and no test cuts the power."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


@pytest.fixture(autouse=True, scope="session")
def own_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep the records of verified stores in a temporary folder, for child processes as well."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache-home")))
        yield


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image folder: 4 classes of noisy coloured squares, 40 training and 10 validation images of 32 px each."""
    root = tmp_path_factory.mktemp("pictures")
    draw_squares(root)
    return root


@pytest.fixture(scope="session")
def packed(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The dataset packed from `pictures`."""
    from pipeline.images.pack import pack
    from pipeline.settings.commands import PackConfig

    out = tmp_path_factory.mktemp("packed") / "dataset"
    pack(PackConfig(data=pictures, out=out, workers=1))
    return out


@pytest.fixture(scope="module")
def scheduler() -> Iterator[str]:
    """Return the address of a dask cluster of one worker in this process, which starts quickly."""
    from distributed import LocalCluster

    with LocalCluster(
        n_workers=1, threads_per_worker=1, processes=False, dashboard_address=":0", memory_limit=0
    ) as cluster:
        yield cluster.scheduler_address


@pytest.fixture(scope="session")
def cached(packed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of `packed`: 24-d embeddings, each near the direction of its class."""
    from cache.layout import ChunkKey
    from cache.writer import ChunkRows, create_split, create_store, normalize, write_chunk
    from pipeline.images.dataset import open_dataset

    path = tmp_path_factory.mktemp("cached") / "teacher.zarr"
    create_store(path, {"architecture": "planted", "dim": 24})
    draws = np.random.default_rng(1)
    centres = draws.normal(size=(4, 24))
    for name, split in open_dataset(packed).splits.items():
        features = centres[split.labels] + draws.normal(size=(split.rows, 24))
        embedding, norm, status = normalize(features.astype(np.float32))
        create_split(
            path,
            name,
            dataset=split.identity,
            rows=split.rows,
            views=1,
            dim=24,
            labels=split.labels,
            thumbs=split.thumbs,
        )
        crop = np.tile(np.float32([0, 0, 1, 1, 0]), (split.rows, 1))
        rows = ChunkRows(embedding=embedding, norm=norm, crop=crop, status=status)
        write_chunk(path, name, ChunkKey(0, 0), rows)
    return path
