"""What one would write without `pack`: `python -m tests.benchmarks.ffcv_pack IMAGES OUT.beton LONGEST WORKERS`."""

import sys

import pipeline.ffcv_patches  # noqa: F401  before FFCV

# isort: split

from ffcv.fields import IntField, RGBImageField
from ffcv.writer import DatasetWriter
from torchvision.datasets import ImageFolder


def main(images: str, out: str, longest: str, workers: str) -> None:
    image = RGBImageField(write_mode="jpg", max_resolution=int(longest), jpeg_quality=90)
    fields = {"image": image, "label": IntField()}
    DatasetWriter(out, fields, num_workers=int(workers)).from_indexed_dataset(ImageFolder(images))


if __name__ == "__main__":
    main(*sys.argv[1:])
