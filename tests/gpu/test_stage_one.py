"""Stage one on a GPU writes the CPU's rows but for rounding."""

from pathlib import Path

import numpy as np
import pytest
import torch

from cache.reader import open_store
from pipeline.embedding.cache_teacher import cache_teacher
from pipeline.settings.cache_commands import CacheTeacherConfig

TEACHERS = {"resnet50": "tests.support.untrained:resnet50", "vit": "tests.support.untrained:vit"}


def rows_of(packed: Path, out: Path, teacher: str, device: str, precision: str) -> np.ndarray:
    cache_teacher(
        CacheTeacherConfig(
            dataset=packed,
            cache=out,
            teacher=teacher,
            batch_size=16,
            device=device,
            amp_dtype=precision,
            workers=1,
        )
    )
    split = open_store(out).split("train")
    return split.gather(np.arange(split.shape.rows)).astype(np.float64)


@pytest.mark.parametrize(("precision", "least"), [("fp32", 0.9999), ("bf16", 0.99)])
@pytest.mark.parametrize("teacher", TEACHERS)
def test_rows_are_the_cpus(
    packed: Path, tmp_path: Path, device: torch.device, teacher: str, precision: str, least: float
) -> None:
    name = TEACHERS[teacher]
    found = rows_of(packed, tmp_path / "found.zarr", name, device.type, precision)
    expected = rows_of(packed, tmp_path / "expected.zarr", name, "cpu", "fp32")
    assert (found * expected).sum(1).min() >= least
