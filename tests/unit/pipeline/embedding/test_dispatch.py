"""The progress bar over the chunks that workers compute."""

from collections.abc import Callable
from pathlib import Path

from cache.layout import ChunkKey
from pipeline.embedding.dispatch import RowsBar
from pipeline.embedding.tasks import Chunk


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
        for start, done in ((0, 16), (64, 16), (64, 32), (64, 16)):
            client.handler((0.0, ("train", start, done)))
            seen.append(bar.bar.n)
        bar.set(chunks[0], 64)
        assert [*seen, bar.bar.n] == [16, 32, 48, 32, 80]
