"""A backbone's inputs: what the decoding threads prepare of an image, and batches of it on the device."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from pipeline.images.preprocessing import Preprocessing, Transform
from pipeline.loading.staging import PinnedStaging
from pipeline.models.backbone import stack_images


class Inputs(Protocol):
    """The two steps from images to a batch."""

    def prepare(self, image: Image.Image) -> Tensor:
        """Return an upright RGB image as a CPU tensor. Decoding threads call it."""

    def batch(self, prepared: Sequence[Tensor]) -> Tensor:
        """Return prepared images as a backbone's input, float32 (B, 3, H, W)."""


class FloatInputs:
    """Inputs that are preprocessed on the CPU."""

    def __init__(self, preprocessing: Transform, name: str) -> None:
        self.name, self.prepare = name, preprocessing.transform

    def batch(self, prepared: Sequence[Tensor]) -> Tensor:
        return stack_images(prepared, self.name)


class ByteInputs:
    """Inputs that are resized and cropped on the CPU, copied to a GPU as bytes, and normalized there.

    Bytes are a quarter of the copy, and the decoding threads have less to do.
    """

    def __init__(self, preprocessing: Preprocessing, device: torch.device, batch_size: int) -> None:
        self.preprocessing, self.staging = preprocessing, PinnedStaging(device, batch_size)
        # tensors, as PyTorch multiplies by the reciprocal of a Python number on CUDA, which rounds otherwise
        self.levels = torch.tensor(255.0, device=device)
        self.mean, self.std = (
            torch.tensor(values, device=device).view(1, 3, 1, 1)
            for values in (preprocessing.mean, preprocessing.std)
        )

    def prepare(self, image: Image.Image) -> Tensor:
        """Return pixels uint8 (H, W, 3)."""
        return torch.from_numpy(np.array(self.preprocessing.crop_of(image)))

    def batch(self, prepared: Sequence[Tensor]) -> Tensor:
        (pixels,) = self.staging.to_device([torch.stack(list(prepared))])
        images = pixels.permute(0, 3, 1, 2).float().div_(self.levels).sub_(self.mean).div_(self.std)
        return images.contiguous()


def inputs_for(preprocessing: Transform, name: str, device: torch.device, batch_size: int) -> Inputs:
    """Return the inputs of the backbone `name`: as bytes for a GPU, unless the preprocessing is the user's own."""
    if device.type == "cpu" or not isinstance(preprocessing, Preprocessing):
        return FloatInputs(preprocessing, name)
    return ByteInputs(preprocessing, device, batch_size)
