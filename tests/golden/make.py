"""`python -m tests.golden.make FOLDER`: make the golden files of format 1.

The committed files never change; run this only for a new format, into another folder. The .beton files are compressed,
since FFCV's smallest page is 8 MiB. TensorBoard's files and the run's own store are left out.
"""

import gzip
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

from tests.golden.values import values

CLI = Path(__file__).resolve().parents[2] / "cli.py"
COUNTS = {"train": 4, "val": 2}
TRAINING = ("--image-size", "24", "--epochs", "2", "--batch-size", "3", "--anchors", "4", "--lr", "0.1")


def teacher() -> tuple[nn.Module, dict]:
    """Return a teacher of 24 fixed mixtures of 4 x 4 pooled pixels: no random numbers, and zeros for a black image."""
    linear = nn.Linear(48, 24, bias=False)
    with torch.no_grad():
        linear.weight.copy_(torch.arange(24 * 48).reshape(24, 48).mul(0.7).sin())
    module = nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), linear)
    return module, {"resize": 16, "crop": 16, "mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}


def student() -> nn.Module:
    """Return a student of one convolution and a BatchNorm, whose running statistics belong to a checkpoint."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten()
    )


def draw(folder: Path) -> None:
    """Write twelve images in two classes: one is black, one is unreadable, and two are too large to be stored raw."""
    for split, count in COUNTS.items():
        for kind, name in enumerate(("rising", "falling")):
            (folder / split / name).mkdir(parents=True)
            for number in range(count):
                side = 96 if (split, number) == ("val", 1) else 32
                ramp = np.linspace(20, 120 + 30 * number, side)
                pixels = np.zeros((side, side, 3), np.uint8)
                pixels[..., (kind + number) % 3] = ramp[:: 1 - 2 * kind, None]
                pixels[..., kind] = np.maximum(pixels[..., kind], ramp[None] / 2)
                Image.fromarray(pixels).save(folder / split / name / f"{number}.png")
    Image.new("RGB", (32, 32)).save(folder / "train" / "rising" / "2.png")
    (folder / "train" / "falling" / "1.png").write_text("This is no picture.\n")


def run(folder: Path, *arguments: str) -> None:
    """Run a command in `folder`."""
    subprocess.run([sys.executable, str(CLI), *arguments], cwd=folder, check=True)


def compress(folder: Path) -> None:
    """Replace each .beton by a .beton.gz without time and name."""
    for beton in folder.glob("*.beton"):
        beton.with_name(f"{beton.name}.gz").write_bytes(gzip.compress(beton.read_bytes(), mtime=0))
        beton.unlink()


def forget_place(description: Path) -> None:
    """Record the images' folder as a relative path, which holds wherever the project is cloned."""
    known = json.loads(description.read_text())
    description.write_text(json.dumps({**known, "data": "pictures"}, ensure_ascii=False, indent=2) + "\n")


def main(folder: Path) -> None:
    """Make every golden file, and expected.json with their values."""
    draw(folder / "pictures")
    device = ("--device", "cpu", "--workers", "1")
    run(folder, "pack", "pictures", "dataset", "--workers", "1")
    run(folder, "cache-teacher", "dataset", "teacher.zarr", "--teacher", "tests.golden.make:teacher", *device)
    made = ("--student", "tests.golden.make:student", "--amp-dtype", "fp32", *TRAINING, *device)
    run(folder, "distill", "dataset", "teacher.zarr", "run", *made)
    run(folder, "eval", "run", "--dataset", "dataset", "--protocol", "nn", *device)
    shutil.rmtree(folder / "run" / "tensorboard")
    shutil.rmtree(folder / "run" / "embeddings.zarr")
    forget_place(folder / "dataset" / "dataset.json")
    found = json.dumps(values(folder), indent=1, allow_nan=False)
    (folder / "expected.json").write_text(found + "\n")
    compress(folder / "dataset")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
