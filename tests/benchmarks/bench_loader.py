"""The loader with its join, from images stored raw or as JPEG, against ImageFolder and DataLoader."""

import os
import statistics
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import ImageFolder

from pipeline.images.pack import pack
from pipeline.images.preprocessing import IMAGENET
from pipeline.loading.image_loader import ImageLoader
from pipeline.loading.order import Order
from pipeline.loading.random_crop import RandomCrop
from pipeline.settings.commands import PackConfig
from tests.benchmarks.figure import Figure, interleaved, ratio
from tests.benchmarks.photographs import write_photographs
from tests.benchmarks.written_store import written_store

IMAGES, STORED, SIZE, BATCH, DIM, WORKERS = 2_048, 256, 224, 256, 2048, 2
BARS = {"raw": 4.0, "jpg": 2.3}


def measure(folder: Path) -> Iterator[Figure]:
    """Time an epoch of 2,048 images of 256 px: random crops of 224 px, flips, normalization, and teacher rows."""
    photographs = write_photographs(folder / "images", IMAGES, (STORED, STORED))
    teacher = written_store(folder / "store.zarr", rows=IMAGES, dim=DIM)
    loaders = {}
    for mode in BARS:
        out = folder / mode
        pack(PackConfig(data=photographs, out=out, write_mode=mode))
        loaders[mode] = ImageLoader(
            out / "train.beton",
            Order(rows=np.arange(IMAGES), batch=BATCH),
            image_size=SIZE,
            crops=(RandomCrop(),),
            teacher=teacher,
            workers=WORKERS,
        )
    peer = image_folder(photographs)
    epochs = dict.fromkeys(BARS, 0)

    def ours(mode: str) -> None:
        epochs[mode] += 1
        assert sum(len(batch.rows) for batch in loaders[mode].epoch(epochs[mode])) == IMAGES

    pixels = torch.zeros(BATCH, SIZE, SIZE, 3, dtype=torch.uint8)

    def normalize() -> None:
        for _ in range(IMAGES // BATCH):  # each batch is freed before the next, as in an epoch
            loaders["raw"].normalize(pixels)

    seconds = interleaved(
        {
            "raw": lambda: ours("raw"),
            "jpg": lambda: ours("jpg"),
            "ImageFolder": lambda: [None for _ in peer],
            "to normalized floats": normalize,
        }
    )
    rate = {name: IMAGES / statistics.median(of) for name, of in seconds.items()}
    for mode, bar in BARS.items():
        size = os.path.getsize(folder / mode / "train.beton") / IMAGES / 1024
        yield Figure(
            name=f"loader-{mode}",
            what=f"loader with join, {STORED} px images stored {mode}, crops of {SIZE}, {WORKERS} workers",
            against="ImageFolder and DataLoader(2) with the same crops, of JPEG files",
            ratio=ratio(seconds, "ImageFolder", mode),
            unit="x its speed",
            at_least=bar,
            seconds=seconds,
            bound=(
                f"{rate[mode]:.0f} images/s against {rate['ImageFolder']:.0f}; turning pixels into normalized floats "
                f"alone takes {rate[mode] / rate['to normalized floats']:.0%} of the time"
            ),
            details={"images a second": rate, "KiB per image in the .beton": size},
        )


def image_folder(root: Path) -> DataLoader:
    transform = transforms.Compose(
        [
            transforms.RandomResizedCrop(SIZE),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(IMAGENET.mean, IMAGENET.std),
        ]
    )
    return DataLoader(
        ImageFolder(root, transform),
        batch_size=BATCH,
        shuffle=True,
        drop_last=True,
        num_workers=WORKERS,
    )
