"""Color jitter: repeatable, within range, and for one image the same as torchvision's."""

import torch
from torchvision.transforms.v2 import functional as F

from pipeline.loading.color_jitter import ColorJitter, blend, luma


def images(count: int = 4) -> torch.Tensor:
    return torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def test_nothing_happens_at_strength_zero() -> None:
    jitter = ColorJitter(strength=0, grayscale=0)
    torch.testing.assert_close(jitter(images(), torch.Generator().manual_seed(1)), images())


def test_the_same_seed_gives_the_same_colors_and_another_does_not() -> None:
    first, again, other = (ColorJitter()(images(), torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert first.min() >= 0
    assert first.max() <= 1


def test_grayscale_makes_the_channels_equal() -> None:
    gray = ColorJitter(strength=0, grayscale=1)(images(), torch.Generator())
    torch.testing.assert_close(gray[:, 0], gray[:, 1])
    torch.testing.assert_close(gray[:, :1], luma(images()))


def test_contrast_and_saturation_are_torchvisions() -> None:
    image, factor = images(1), torch.tensor(0.5).view(1, 1, 1, 1)
    contrast = blend(image, luma(image).mean((2, 3), keepdim=True), factor)
    saturation = blend(image, luma(image), factor)
    # torchvision's gray weights, 0.2989, 0.587 and 0.114, differ from ours by up to 1e-4
    torch.testing.assert_close(contrast, F.adjust_contrast(image, 0.5), atol=1e-3, rtol=0)
    torch.testing.assert_close(saturation, F.adjust_saturation(image, 0.5), atol=1e-3, rtol=0)
