"""Chunks over dask workers: the progress bar, and workers that do not come back."""

from collections.abc import Callable
from pathlib import Path

import pytest
from distributed import Client, LocalCluster

from cache.layout import ChunkKey
from pipeline.embedding.dispatch import RowsBar, dispatch
from pipeline.embedding.tasks import Chunk, Job
from pipeline.errors import PipelineError
from pipeline.teachers.backbone_spec import BackboneSpec


class Subscriptions:
    """As much of a dask client as the progress bar needs."""

    id = "client-1"

    def subscribe_topic(self, topic: str, handler: Callable[[tuple[float, tuple]], None]) -> None:
        assert topic != self.id, "that is where dask itself speaks"
        self.topic, self.handler = topic, handler

    def unsubscribe_topic(self, topic: str) -> None:
        assert topic == self.topic


def test_the_bar_takes_back_the_rows_of_a_chunk_that_begins_again() -> None:
    place = {"dataset": Path("d"), "data": Path("i"), "split": "train", "images": ""}
    chunks = [Chunk(**place, key=ChunkKey(0, n), rows=range(64 * n, 64 * n + 64)) for n in range(2)]
    client, seen = Subscriptions(), []
    with RowsBar(client, chunks, shown=True) as bar:
        for index, done in ((0, 16), (1, 16), (1, 32), (1, 16)):
            client.handler((0.0, (chunks[index].place, done)))
            seen.append(bar.bar.n)
        bar.set(chunks[0], 64)
        assert [*seen, bar.bar.n] == [16, 32, 48, 32, 80]


def test_workers_that_do_not_come_back_end_the_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("pipeline.embedding.chunk_queue.SECONDS_WITHOUT_WORKERS", 0.5)
    spec = BackboneSpec(kind="teacher", name="pixels")
    job = Job(
        spec=spec, weights_sha256="", store=tmp_path, device="cpu", precision="fp32", batch_size=1, threads=1
    )
    place = {"dataset": tmp_path, "data": tmp_path, "split": "train", "images": ""}
    chunk = Chunk(**place, key=ChunkKey(0, 0), rows=range(64))
    with (
        LocalCluster(n_workers=0, processes=False, dashboard_address=":0") as cluster,
        Client(cluster) as client,
        pytest.raises(
            PipelineError, match=r"no worker has been alive for 0.5 s: .*computes only what is absent"
        ),
    ):
        dispatch(client, job, [chunk], progress=False)
