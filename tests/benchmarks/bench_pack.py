"""`pack`, with its checks, against FFCV's own writer over the same folder: files kept as they are, and reduced ones."""

import shutil
import statistics
from collections.abc import Iterator
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

from torchvision.datasets import ImageFolder

import pipeline.ffcv_patches  # noqa: F401  before FFCV

# isort: split

from ffcv.fields import IntField, RGBImageField
from ffcv.writer import DatasetWriter

from pipeline.images.pack import pack
from pipeline.settings.commands import PackConfig
from tests.benchmarks.figure import Figure, interleaved, ratio
from tests.benchmarks.photographs import write_photographs

IMAGES, SIZE, WORKERS = 3_000, (500, 375), 2
WAYS = {"pack": (512, "stored as they are"), "pack-reduced": (256, "reduced to 256 px")}


def measure(folder: Path) -> Iterator[Figure]:
    """Time the packing of 3,000 JPEG files of 500 x 375 px into .beton files whose images are JPEG."""
    photographs = write_photographs(folder / "images", IMAGES, SIZE)
    for name, (longest, how) in WAYS.items():
        yield figure(name, how, longest, photographs, folder / "dataset", folder / "peer.beton")


def figure(name: str, how: str, longest: int, photographs: Path, out: Path, peer: Path) -> Figure:
    def ours() -> None:
        with redirect_stdout(StringIO()):
            pack(
                PackConfig(
                    data=photographs, out=out, write_mode="jpg", max_resolution=longest, workers=WORKERS
                )
            )

    def theirs() -> None:
        image = RGBImageField(write_mode="jpg", max_resolution=longest, jpeg_quality=90)
        fields = {"image": image, "label": IntField()}
        DatasetWriter(str(peer), fields, num_workers=WORKERS).from_indexed_dataset(ImageFolder(photographs))

    def clear() -> None:
        shutil.rmtree(out, ignore_errors=True)
        peer.unlink(missing_ok=True)

    seconds = interleaved({"pack": ours, "FFCV": theirs}, rounds=3, before=clear)
    rate = {side: IMAGES / statistics.median(of) for side, of in seconds.items()}
    return Figure(
        name=name,
        what=f"`pack` of {IMAGES:,} JPEG files of {SIZE[0]} x {SIZE[1]} px, {how}, {WORKERS} workers",
        against="FFCV's DatasetWriter over ImageFolder, which decodes once, checks nothing and encodes all",
        ratio=ratio(seconds, "FFCV", "pack"),
        unit="x its speed",
        at_least=1.0,
        seconds=seconds,
        bound=f"{rate['pack']:.0f} images/s against {rate['FFCV']:.0f}: `pack` decodes each image to check it, and "
        "once more where it has to be encoded",
        details={"images a second": rate},
    )
