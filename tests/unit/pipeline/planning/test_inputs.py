"""Images of a plan: a packed dataset to the byte, or numbers that come close."""

from pathlib import Path

import pytest

from cache.layout import SplitShape
from pipeline.images.beton_format import beton_bytes, open_beton
from pipeline.images.beton_writer import SMALLEST_PAGE
from pipeline.images.dataset import open_dataset
from pipeline.planning.inputs import planned_images, rows_of_busiest_worker
from pipeline.settings.plan import PlanConfig


def test_a_packed_dataset_is_measured_and_an_absent_one_is_close(packed: Path) -> None:
    """`packed` was written by one process, so FFCV's pages are filled as they are counted: the .beton is exact."""
    files = [file for file in packed.iterdir() if file.is_file()]
    there = planned_images(PlanConfig(dataset=packed))
    assert there.footprint.bytes == sum(file.stat().st_size for file in files)
    assert there.footprint.files == len(files)
    assert (there.train, there.total, there.decoded_bytes) == (160, 200, 0)
    for split in open_dataset(packed).splits.values():
        stored = open_beton(split.beton, split.labels).sizes
        assert beton_bytes(split.rows, float(stored.mean()), SMALLEST_PAGE) == split.beton.stat().st_size
    absent = planned_images(PlanConfig(images=160, val_images=40, picture_bytes=3072))
    assert absent.footprint.bytes == pytest.approx(there.footprint.bytes, rel=0.01)


def test_workers_take_whole_chunks() -> None:
    assert rows_of_busiest_worker([4, 4, 4], 2) == 8
    assert rows_of_busiest_worker([4, 1, 1, 1], 2) == 4
    assert rows_of_busiest_worker([3] * 10, 1) == 30
    assert SplitShape(rows=1, views=1, dim=3072).chunk_rows == 2048
