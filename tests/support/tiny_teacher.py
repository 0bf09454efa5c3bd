"""Small teachers of a user's own, given as package.module:function."""

import os
import signal
import time
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn

PLAIN = {"resize": 16, "crop": 16, "mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25)}


class Wide(nn.Module):
    """8 x 8 pooled pixels, repeated to a width of 131,072: a chunk holds 64 rows."""

    def forward(self, images: Tensor) -> Tensor:
        pooled = nn.functional.adaptive_avg_pool2d(images, 8).flatten(1)
        return pooled.repeat(1, 683)[:, : 1 << 17]


class Slow(Wide):
    """Wide, with a forward pass that sleeps SLOW_TEACHER seconds."""

    def forward(self, images: Tensor) -> Tensor:
        time.sleep(float(os.environ.get("SLOW_TEACHER", "0")))
        return super().forward(images)


class Deadly(Wide):
    """Kill the process on every image of gray 255, and once over all processes on an image of gray 254.

    The three images on which a teacher is tried, one of them white, are spared.
    """

    def forward(self, images: Tensor) -> Tensor:
        if len(images) == 3:
            return super().forward(images)
        record = Path(os.environ["DEADLY_RECORD"])
        for gray, mark in ((254, "once"), (255, "always")):
            deaths = record.read_text() if record.exists() else ""
            plain = (
                torch.isclose(images, torch.tensor((gray / 255 - 0.5) / 0.25), atol=1e-4).flatten(1).all(1)
            )
            if plain.any() and not (mark == "once" and "once" in deaths):
                record.write_text(f"{deaths}{mark}\n")
                os.kill(os.getpid(), signal.SIGKILL)
        return super().forward(images)


class Placed(Wide):
    """Write the process's folder and threads to RECORD/SITE, and die if SITE is "doomed"; nothing without a SITE."""

    def forward(self, images: Tensor) -> Tensor:
        site = os.environ.get("SITE")
        if site and len(images) != 3:
            (Path(os.environ["RECORD"]) / site).write_text(f"{Path.cwd()} {torch.get_num_threads()}")
            if site == "doomed":
                os.kill(os.getpid(), signal.SIGKILL)
        return super().forward(images)


class Blind(Wide):
    """Wide, after its weights have become NaN."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images) * torch.nan


class Greedy(Wide):
    """Allocate a pebibyte for more than 4 images."""

    def forward(self, images: Tensor) -> Tensor:
        if len(images) > 4:
            torch.empty(1 << 50, dtype=torch.uint8)
        return super().forward(images)


def convolutional() -> nn.Module:
    torch.manual_seed(5)
    layers = [nn.Conv2d(3, 8, 3, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*layers)


def with_mapping() -> tuple[nn.Module, dict]:
    return convolutional(), PLAIN


def brightness(image: Image.Image) -> Tensor:
    return torch.full((3, 8, 8), image.resize((1, 1)).convert("L").getpixel((0, 0)) / 255)


def with_callable() -> tuple[nn.Module, object]:
    return convolutional(), brightness


def with_lambda() -> tuple[nn.Module, object]:
    return convolutional(), lambda image: brightness(image)


def with_hidden_settings() -> tuple[nn.Module, object]:
    sizes = (size for size in (8,))
    return convolutional(), lambda image: brightness(image.resize((next(sizes), 8)))


def with_typo() -> tuple[nn.Module, dict]:
    return convolutional(), {**PLAIN, "interpolate": "bicubic"}


def unpooled() -> nn.Module:
    return nn.Conv2d(3, 8, 3)


def broken() -> nn.Module:
    raise RuntimeError("the moon is full")


def nothing() -> str:
    return "no module"


def wide() -> tuple[nn.Module, dict]:
    return Wide(), PLAIN


def slow() -> tuple[nn.Module, dict]:
    return Slow(), PLAIN


def placed() -> tuple[nn.Module, dict]:
    return Placed(), PLAIN


def blind() -> tuple[nn.Module, dict]:
    return Blind(), PLAIN


def greedy() -> tuple[nn.Module, dict]:
    return Greedy(), PLAIN


def deadly() -> tuple[nn.Module, dict]:
    return Deadly(), PLAIN
