"""Color augmentation of a batch in torch, drawn per image; FFCV's own cannot be seeded."""

from dataclasses import dataclass

import torch
from torch import Tensor

LUMA = (0.299, 0.587, 0.114)


@dataclass(frozen=True, kw_only=True)
class ColorJitter:
    """Brightness, contrast and saturation jitter with factors in 1 +- strength, and random grayscale.

    SimCLR's color distortion (Chen et al. 2020, appendix A) without hue. grayscale: its probability.
    """

    strength: float = 0.4
    grayscale: float = 0.2

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """images (B, 3, H, W) float in [0, 1] -> same shape and range. generator: on the CPU."""
        brightness, contrast, saturation = self.factors(len(images), generator, images.device)
        images = (images * brightness).clamp_(0, 1)
        images = blend(images, luma(images).mean((2, 3), keepdim=True), contrast)
        return blend(images, luma(images), saturation)

    def factors(self, count: int, generator: torch.Generator, device: torch.device) -> tuple[Tensor, ...]:
        """Draw factors of brightness, contrast and saturation, (B, 1, 1, 1) each; the last is 0 for grayscale."""
        draws = torch.rand(3, count, 1, 1, 1, generator=generator).mul_(2).sub_(1)
        factors = (1 + self.strength * draws).clamp_(min=0)
        factors[2, torch.rand(count, generator=generator).lt(self.grayscale)] = 0
        return tuple(to_device(factors, device))


def luma(images: Tensor) -> Tensor:
    """Return the luma (B, 1, H, W) of images (B, 3, H, W), ITU-R 601."""
    weights = to_device(torch.tensor(LUMA).view(1, 3, 1, 1), images.device)
    return (images * weights).sum(1, keepdim=True)


def to_device(values: Tensor, device: torch.device) -> Tensor:
    """Return values of the CPU on a device. A copy to a GPU goes through pinned memory and is not waited for."""
    return values if device.type == "cpu" else values.pin_memory().to(device, non_blocking=True)


def blend(images: Tensor, towards: Tensor, factor: Tensor) -> Tensor:
    """Return factor * images + (1 - factor) * towards, clamped to [0, 1]."""
    return torch.lerp(towards.expand_as(images), images, factor).clamp_(0, 1)
