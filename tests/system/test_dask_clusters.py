"""Dask clusters: one of our own, and a running one whose scheduler and workers are others' processes."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from distributed import Client

import cli
from cache.reader import open_store
from pipeline.embedding.cache_teacher import embed
from pipeline.images.dataset import Dataset
from pipeline.teachers.backbone_spec import BackboneSpec
from tests.support.mixed_images import packed_mixed_images

pytestmark = pytest.mark.long

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 120
TEACHER = "tests.support.tiny_teacher:placed"


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """A scheduler and the folder in which its workers leave what they found."""

    address: str
    record: Path


@contextmanager
def started(module: str, *arguments: str, folder: Path, **environment: str) -> Iterator[None]:
    """Run one of dask's commands in a folder of its own, in which this project is not."""
    folder.mkdir()
    process = subprocess.Popen(
        [sys.executable, "-m", f"distributed.cli.{module}", *arguments, "--no-dashboard"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
    )
    try:
        yield
    finally:
        process.terminate()
        process.wait(PATIENCE)


@contextmanager
def worker(cluster: Cluster, site: str, *options: str, folder: Path) -> Iterator[None]:
    arguments = (cluster.address, "--host", "127.0.0.1", "--nworkers", "1", *options)
    with started("dask_worker", *arguments, folder=folder / site, SITE=site, RECORD=str(cluster.record)):
        yield


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A scheduler and two workers, each in another folder and with another environment."""
    folder = tmp_path_factory.mktemp("cluster")
    file = folder / "scheduler.json"
    with ExitStack() as stack:
        options = ("--host", "127.0.0.1", "--port", "0", "--scheduler-file", str(file))
        stack.enter_context(started("dask_scheduler", *options, folder=folder / "scheduler"))
        end = time.monotonic() + PATIENCE
        while not file.exists():
            assert time.monotonic() < end, "the scheduler did not start"
            time.sleep(0.05)
        with Client(scheduler_file=str(file), timeout=PATIENCE) as client:
            cluster = Cluster(address=client.scheduler.address, record=folder / "record")
            cluster.record.mkdir()
            # as many threads as dask likes: they are no slots
            stack.enter_context(worker(cluster, "first", "--nthreads", "16", folder=folder))
            stack.enter_context(worker(cluster, "second", "--nthreads", "1", folder=folder))
            client.wait_for_workers(2, timeout=PATIENCE)
        yield cluster


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return packed_mixed_images(tmp_path_factory.mktemp("mixed"))


@pytest.fixture(scope="module")
def whole(dataset: Dataset, scheduler: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store that one worker in this process writes."""
    out = tmp_path_factory.mktemp("store") / "whole.zarr"
    embed(BackboneSpec(kind="teacher", name=TEACHER), dataset, out, batch_size=16, scheduler=scheduler)
    return out


def require_same(store: Path, expected: Path) -> None:
    for name in ("train", "val"):
        found, wanted = open_store(store).split(name), open_store(expected).split(name)
        assert found.complete
        rows = np.arange(wanted.shape.rows)
        np.testing.assert_array_equal(found.gather(rows), wanted.gather(rows))
        np.testing.assert_array_equal(found.status, wanted.status)


def test_workers_resolve_device_and_threads_where_they_are(
    cluster: Cluster,
    dataset: Dataset,
    whole: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    # the command's own machine does not matter
    monkeypatch.setattr("pipeline.embedding.cache_teacher.resolve_device", None)
    monkeypatch.chdir(dataset.path.parent)
    out = tmp_path / "s.zarr"
    command = ["cache-teacher", "dataset", str(out), "--teacher", TEACHER, "--batch-size", "16"]
    assert cli.run_cli([*command, "--scheduler", cluster.address]) == 0
    each = max(1, len(os.sched_getaffinity(0)) // 2)
    named = f"2 workers: 2 x CPU with {each} thread{'s'[: each > 1]}\n"
    assert named in capsys.readouterr().err
    found = {file.name: file.read_text() for file in cluster.record.iterdir()}
    folders = cluster.record.parent
    assert found == {site: f"{folders / site} {each}" for site in ("first", "second")}
    require_same(out, whole)


def test_chunks_of_a_worker_that_dies_for_good_are_computed_by_the_others(
    cluster: Cluster, dataset: Dataset, whole: Path, tmp_path: Path
) -> None:
    out = tmp_path / "s.zarr"
    with (
        worker(cluster, "doomed", "--nthreads", "1", "--no-nanny", folder=tmp_path),
        Client(cluster.address, timeout=PATIENCE) as client,
    ):
        client.wait_for_workers(3, timeout=PATIENCE)
        report = embed(
            BackboneSpec(kind="teacher", name=TEACHER), dataset, out, batch_size=16, scheduler=cluster.address
        )
        assert len(client.nthreads()) == 2
    assert (cluster.record / "doomed").exists()
    assert (report.chunks, report.failures) == (4, {})
    require_same(out, whole)


def test_two_processes_of_our_own_write_the_same_store(
    dataset: Dataset, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SITE", "own")
    monkeypatch.setenv("RECORD", str(tmp_path))
    out = tmp_path / "s.zarr"
    spec = BackboneSpec(kind="teacher", name=TEACHER)
    report = embed(spec, dataset, out, batch_size=16, workers=2, device="cpu")
    each = max(1, len(os.sched_getaffinity(0)) // 2)
    assert (report.chunks, (tmp_path / "own").read_text()) == (4, f"{Path.cwd()} {each}")
    require_same(out, whole)
