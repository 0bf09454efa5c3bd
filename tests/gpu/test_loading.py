"""Batches arrive whole on a GPU, also when it runs late."""

from pathlib import Path

import numpy as np
import pytest
import torch

from cache.reader import Split, open_store
from pipeline.images.dataset import DatasetSplit, open_dataset
from pipeline.loading.batch import Batch
from pipeline.loading.image_loader import ImageLoader
from pipeline.loading.order import Order
from pipeline.loading.random_crop import RandomCrop
from pipeline.runtime.device import CPU

LATE = 20_000_000  # clock cycles: some 10 ms, in which the loader fills several batches


@pytest.fixture(scope="module")
def images(packed: Path) -> DatasetSplit:
    return open_dataset(packed).splits["train"]


@pytest.fixture(scope="module")
def teacher(cached: Path) -> Split:
    return open_store(cached).split("train")


def batches(images: DatasetSplit, teacher: Split, device: torch.device, late: int = 0) -> list[Batch]:
    order = Order(rows=np.arange(images.rows), batch=16, seed=3)
    crops = (RandomCrop(), RandomCrop())
    loader = ImageLoader(
        images.beton, order, image_size=24, crops=crops, seed=3, teacher=teacher, workers=2, device=device
    )
    found = []
    for epoch in range(3):
        for batch in loader.epoch(epoch):
            if late:
                torch.cuda._sleep(late)
            found.append(batch)  # left on the device: copying it back would wait for the device
    return found


@pytest.mark.parametrize("late", [0, LATE])
def test_every_batch_is_the_cpus(
    images: DatasetSplit, teacher: Split, device: torch.device, late: int
) -> None:
    late = late if device.type == "cuda" else 0
    found, expected = batches(images, teacher, device, late), batches(images, teacher, CPU)
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one.rows.cpu(), other.rows)
        assert torch.equal(one.labels.cpu(), other.labels)
        assert one.teacher is not None
        assert other.teacher is not None
        assert torch.equal(one.teacher.cpu(), other.teacher)
        for view, expected_view in zip(one.images, other.images, strict=True):
            torch.testing.assert_close(view.cpu(), expected_view, atol=1e-5, rtol=1e-5)
