"""Chunks under way in one worker overlap without a pause, within the memory of one, and in the bits of one alone."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from cache.errors import StoreError
from pipeline.embedding.chunk_pipeline import ChunkPipeline
from pipeline.embedding.extract import ExtractionSettings, extract, pipeline_for
from pipeline.errors import PipelineError
from pipeline.images.sources import open_sources
from pipeline.runtime.device import CPU
from pipeline.teachers.registry import load_teacher

PATIENCE = 20.0
SETTINGS = ExtractionSettings(device=CPU, precision="fp32", batch_size=4, threads=1)
TEACHER = "tests.support.tiny_teacher:with_mapping"


@pytest.fixture
def chunks() -> Iterator[ThreadPoolExecutor]:
    """Two threads, each of which computes a chunk."""
    with ThreadPoolExecutor(2) as threads:
        yield threads


def small_pipeline(ahead: int) -> ChunkPipeline:
    return ChunkPipeline(CPU, threads=2, ahead=ahead)


class Waiting(nn.Module):
    """Before the second batch passes, `event` must happen."""

    def __init__(self, network: nn.Module, event: threading.Event) -> None:
        super().__init__()
        self.network, self.event, self.passes, self.threads = network, event, 0, set[int]()

    def forward(self, images: Tensor) -> Tensor:
        self.passes += 1
        self.threads.add(threading.get_ident())
        assert self.passes != 2 or self.event.wait(PATIENCE), "the pipeline was drained"
        return self.network(images)


def test_the_next_chunk_is_decoded_while_the_last_batch_of_this_one_is_computed(
    images: Path, chunks: ThreadPoolExecutor
) -> None:
    source, next_decodes = open_sources(images)["train"], threading.Event()

    def read(row: int) -> bytes:
        if row >= 8:
            next_decodes.set()
        return source.read(row)

    plain = load_teacher(TEACHER)
    network = Waiting(plain.module, next_decodes)
    pipeline, backbone = pipeline_for(SETTINGS), replace(plain, module=network)
    parts = [range(8), range(8, 16), range(16, 21)]

    def features(part: range) -> np.ndarray:
        return extract(backbone, read, part, SETTINGS, pipeline=pipeline).feature

    found = list(chunks.map(features, parts))
    assert network.passes == 2 + 2 + 2
    assert len(network.threads) == 1, "cuDNN would plan anew in every thread"
    alone = [extract(plain, source.read, part, SETTINGS).feature for part in parts]
    np.testing.assert_array_equal(np.concatenate(found), np.concatenate(alone))


def test_the_next_chunk_is_computed_while_this_one_is_written(chunks: ThreadPoolExecutor) -> None:
    pipeline, computed = small_pipeline(4), threading.Event()

    def write() -> None:
        assert computed.wait(PATIENCE)

    written = chunks.submit(pipeline.write, write)
    pipeline.run(computed.set)
    written.result(PATIENCE)


def test_two_chunks_keep_no_more_images_than_one(chunks: ThreadPoolExecutor) -> None:
    ahead, lock = 6, threading.Lock()
    pipeline, counts, most = small_pipeline(ahead), [0, 0], 0

    def prepare(item: int) -> int:
        nonlocal most
        with lock:
            counts[0] += 1
            most = max(most, counts[0] - counts[1])
        return item

    def take(items: range) -> list[int]:
        taken = []
        with closing(pipeline.prefetch(prepare, items)) as prepared:
            for item in prepared:
                time.sleep(0.001)  # as long as a network takes, so that the decoders are ahead
                with lock:
                    counts[1] += 1
                taken.append(item)
        return taken

    parts = [range(40 * number, 40 * number + 40) for number in range(4)]
    assert list(chunks.map(take, parts)) == [list(part) for part in parts]
    # an item that was taken is counted late, one for each chunk
    assert ahead - 1 <= most <= ahead + 2


def test_a_chunk_that_fails_leaves_the_pipeline_as_it_was(images: Path, chunks: ThreadPoolExecutor) -> None:
    class Failing(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            raise KeyError("missing")

    source, backbone = open_sources(images)["train"], load_teacher(TEACHER)
    pipeline = pipeline_for(SETTINGS)
    for _ in range(3):
        with pytest.raises(PipelineError, match="KeyError: 'missing'"):
            extract(replace(backbone, module=Failing()), source.read, range(60), SETTINGS, pipeline=pipeline)
    assert pipeline.places._value == 8
    later = chunks.submit(extract, backbone, source.read, range(9), SETTINGS, pipeline=pipeline)
    assert later.result(PATIENCE).readable.all()


def test_an_error_while_decoding_is_raised_and_ends_that_chunk_alone() -> None:
    def prepare(item: int) -> int:
        if item == 3:
            raise OSError("the disk is gone")
        return item

    pipeline = small_pipeline(4)
    with (
        closing(pipeline.prefetch(prepare, range(10))) as prepared,
        pytest.raises(OSError, match="the disk is gone"),
    ):
        list(prepared)
    assert list(pipeline.prefetch(prepare, range(4, 20))) == list(range(4, 20))


def test_after_a_refused_write_no_chunk_that_was_under_way_is_tried() -> None:
    tried = []

    def full_disk(key: int) -> None:
        tried.append(key)
        raise StoreError("no space left on device")

    pipeline = small_pipeline(4)
    for key in range(2):
        with pytest.raises(StoreError, match="no space left on device"):
            pipeline.write(full_disk, key)
    assert tried == [0]


def test_the_computing_thread_has_the_threads_and_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    devices: list[tuple[int, torch.device]] = []
    monkeypatch.setattr(
        torch.cuda, "set_device", lambda device: devices.append((threading.get_ident(), device))
    )
    pipeline = ChunkPipeline(torch.device("cuda", 3), threads=2, ahead=4)
    here: Callable[[], int] = threading.get_ident
    assert pipeline.run(torch.get_num_threads) == 2
    assert devices == [(pipeline.run(here), torch.device("cuda", 3))]
