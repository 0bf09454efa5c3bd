"""The images on which a student fell furthest from its teacher: planted ones come first."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from cache.layout import ChunkKey
from cache.reader import open_store
from cache.writer import ChunkRows, write_chunk
from pipeline.images.dataset import open_dataset
from pipeline.report.furthest import FURTHEST, furthest

LOST = [7, 21]


@pytest.fixture
def student(cached: Path, tmp_path: Path) -> Path:
    """A copy of the teacher's store in which two validation images have the opposite embedding."""
    path = Path(shutil.copytree(cached, tmp_path / "student.zarr"))
    split = open_store(cached).split("val")
    embedding = split.gather(np.arange(split.shape.rows))
    embedding[LOST] *= -1
    rows = ChunkRows(embedding=embedding, norm=split.norm[0], crop=split.crop[0], status=split.status[0])
    write_chunk(path, "val", ChunkKey(0, 0), rows)
    return path


def test_the_images_with_other_neighbours_come_first(packed: Path, cached: Path, student: Path) -> None:
    dataset = open_dataset(packed)
    found = furthest("student", open_store(student), open_store(cached), dataset, seed=0)
    names = dataset.splits["val"].names
    assert {one.query.name for one in found.worst[:2]} == {names[row] for row in LOST}
    assert (len(found.worst), found.images) == (FURTHEST, 40)
    assert found.recall == pytest.approx(38 / 40)
    assert (found.alike, found.lost) == (pytest.approx(38 / 40), pytest.approx(2 / 40))
    assert list(found.worst[0].found) == ["teacher", "student"]
    assert found.worst[-1].found["teacher"] == found.worst[-1].found["student"]
