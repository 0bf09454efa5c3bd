"""Bytes of pixels -> normalised floats, each looked up in a table: one pass over the memory in place of four."""

import numpy as np
import torch
from numba import njit
from numpy.typing import NDArray
from torch import Tensor

from pipeline.images.preprocessing import IMAGENET


def imagenet_table() -> NDArray[np.float32]:
    """(3, 256) float32: what each byte of each channel is, less ImageNet's mean and over its deviation."""
    mean, std = (torch.tensor(numbers).view(3, 1) for numbers in (IMAGENET.mean, IMAGENET.std))
    return torch.arange(256).float().div_(255).sub(mean).div_(std).numpy()


def look_up(pixels: Tensor, table: NDArray[np.float32]) -> Tensor:
    """uint8 (B, H, W, 3) on the CPU -> float32 (B, 3, H, W), channels last in memory."""
    # numpy asks the system for huge pages, and fresh memory of small ones would cost more than what is written to it
    out = np.empty(tuple(pixels.shape), np.float32)
    _look_up(pixels.contiguous().numpy().reshape(-1, 3), table, out.reshape(-1, 3))
    return torch.from_numpy(out).permute(0, 3, 1, 2)


@njit(nogil=True, cache=True)
def _look_up(pixels, table, out):  # type: ignore[no-untyped-def]
    for place in range(len(pixels)):
        for channel in range(3):
            out[place, channel] = table[channel, pixels[place, channel]]
