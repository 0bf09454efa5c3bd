"""Photographs for benchmarks: JPEG crops of scikit-learn's two sample photographs."""

from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_images

QUALITY = 90
CLASSES = 10


def write_photographs(folder: Path, count: int, size: tuple[int, int], seed: int = 0) -> Path:
    """Write FOLDER/CLASS/NUMBER.jpg of `size` (width, height) px, each a crop of at least a quarter of a photograph."""
    draws = np.random.default_rng(seed)
    photographs = [Image.fromarray(pixels) for pixels in load_sample_images().images]
    for kind in range(CLASSES):
        (folder / f"class-{kind}").mkdir(parents=True)
    for number in range(count):
        photograph = photographs[draws.integers(len(photographs))]
        # a random share of the largest crop of this aspect ratio
        fits = min(photograph.width / size[0], photograph.height / size[1])
        width, height = (round(side * fits * draws.uniform(0.5, 1)) for side in size)
        left, top = (
            draws.integers(photograph.width - width + 1),
            draws.integers(photograph.height - height + 1),
        )
        cut = photograph.resize(size, Image.Resampling.BICUBIC, (left, top, left + width, top + height))
        cut.save(folder / f"class-{number % CLASSES}" / f"{number:06}.jpg", quality=QUALITY)
    return folder
