"""Images of four classes: noisy squares, each with a band in the colour and place of its class."""

from pathlib import Path

import numpy as np
from PIL import Image


def draw_squares(root: Path, *, train: int = 40, val: int = 10, seed: int = 0) -> None:
    """Write an image folder: `train` and `val` images of 32 px in each of four classes."""
    draws = np.random.default_rng(seed)
    for split, count in (("train", train), ("val", val)):
        for kind in range(4):
            folder = root / split / f"class-{kind}"
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = draws.integers(0, 60, (32, 32, 3))
                pixels[8 * kind : 8 * kind + 8, :, kind % 3] += 150
                Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number}.png")
