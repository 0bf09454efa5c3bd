"""`pack`, with its checks, against FFCV's own writer over the same folder."""

import shutil
import statistics
from collections.abc import Iterator
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

from torchvision.datasets import ImageFolder

import pipeline.ffcv_patches  # noqa: F401  # isort: skip  before FFCV

from ffcv.fields import IntField, RGBImageField
from ffcv.writer import DatasetWriter

from pipeline.images.pack import pack
from pipeline.settings.commands import PackConfig
from tests.benchmarks.figure import Figure, interleaved, ratio
from tests.benchmarks.photographs import write_photographs

IMAGES, SIZE, WORKERS = 4_000, (500, 375), 2


def measure(folder: Path) -> Iterator[Figure]:
    """Time the packing of 4,000 JPEG files of 500 x 375 px into .beton files whose images are JPEG."""
    photographs = write_photographs(folder / "images", IMAGES, SIZE)
    out, peer = folder / "dataset", folder / "peer.beton"

    def ours() -> None:
        with redirect_stdout(StringIO()):
            pack(PackConfig(data=photographs, out=out, write_mode="jpg", workers=WORKERS))

    def theirs() -> None:
        image = RGBImageField(write_mode="jpg", max_resolution=512, jpeg_quality=90)
        fields = {"image": image, "label": IntField()}
        DatasetWriter(str(peer), fields, num_workers=WORKERS).from_indexed_dataset(ImageFolder(photographs))

    def clear() -> None:
        shutil.rmtree(out, ignore_errors=True)
        peer.unlink(missing_ok=True)

    seconds = interleaved({"pack": ours, "FFCV": theirs}, rounds=3, before=clear)
    ours()
    rate = {name: IMAGES / statistics.median(of) for name, of in seconds.items()}
    size = {"pack": (out / "train.beton").stat().st_size, "FFCV": peer.stat().st_size}
    yield Figure(
        name="pack",
        what=f"`pack` of {IMAGES:,} JPEG files of {SIZE[0]} x {SIZE[1]} px, every one checked, {WORKERS} workers",
        against="FFCV's DatasetWriter over ImageFolder, which checks nothing",
        ratio=ratio(seconds, "FFCV", "pack"),
        unit="x its speed",
        at_least=1.0,
        seconds=seconds,
        bound=f"{rate['pack']:.0f} images/s against {rate['FFCV']:.0f}; .beton of {size['pack'] / 1e6:.0f} MB against "
        f"{size['FFCV'] / 1e6:.0f}",
        details={"images a second": rate, "bytes": size},
    )
