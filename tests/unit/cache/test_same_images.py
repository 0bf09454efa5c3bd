"""Two caches are of the same images if their datasets are, or if all perceptual hashes are equal."""

from pathlib import Path

import numpy as np
import pytest

from cache.layout import SplitShape
from cache.reader import Split, open_store
from cache.same_images import same_images
from cache.writer import create_split, create_store
from tests.support.tiny_store import dataset_of


def split_of(path: Path, images: str, thumbs: list[int]) -> Split:
    shape = SplitShape(rows=len(thumbs), views=1, dim=2)
    create_store(path, {"dim": 2})
    create_split(
        path,
        "train",
        dataset=dataset_of(shape) | {"images": images * 64},
        rows=shape.rows,
        views=1,
        dim=2,
        labels=np.zeros(shape.rows, np.int64),
        thumbs=np.array(thumbs, np.uint64),
    )
    return open_store(path).split("train")


@pytest.mark.parametrize(
    ("images", "thumbs", "same"),
    [("1", [3, 4], True), ("2", [3, 4], True), ("2", [4, 3], False), ("2", [3, 4, 5], False)],
)
def test_images_not_labels_decide(tmp_path: Path, images: str, thumbs: list[int], same: bool) -> None:
    one = split_of(tmp_path / "one.zarr", "1", [3, 4])
    assert same_images(one, split_of(tmp_path / "other.zarr", images, thumbs)) is same
