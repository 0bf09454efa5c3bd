"""CIFAR-10 as parquet files: the last images of each class are held out, and `pack` reads the pixels that went in."""

from pathlib import Path

import numpy as np

from pipeline.images.decode import decode
from pipeline.images.sources import open_sources
from recipes.cifar10.images import write_parquet


def test_the_last_images_of_each_class_are_val(tmp_path: Path) -> None:
    draws = np.random.default_rng(0)
    pixels = draws.integers(0, 256, (30, 32, 32, 3), np.uint8)
    labels = draws.permutation(np.repeat(np.arange(3), 10))
    write_parquet(pixels, labels, tmp_path / "cifar10", 2)
    sources = open_sources(tmp_path / "cifar10")
    found = {split: [int(Path(name).stem) for name in source.names] for split, source in sources.items()}
    assert found["val"] == sorted(row for kind in range(3) for row in np.flatnonzero(labels == kind)[-2:])
    assert sorted(found["train"] + found["val"]) == list(range(30))
    for split, source in sources.items():
        assert source.labels.tolist() == labels[found[split]].tolist()
        for row, number in enumerate(found[split]):
            np.testing.assert_array_equal(np.asarray(decode(source.read(row))), pixels[number])
