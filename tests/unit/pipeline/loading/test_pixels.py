import numpy as np
import pytest
import torch

from pipeline.images.preprocessing import IMAGENET
from pipeline.loading.image_loader import imagenet_table, look_up


@pytest.mark.parametrize("shape", [(2, 5, 7, 3), (1, 16, 16, 3)])
def test_bit_for_bit_what_torch_computes(shape: tuple[int, ...]) -> None:
    pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 256, shape, np.uint8))
    mean, std = (torch.tensor(numbers).view(1, 3, 1, 1) for numbers in (IMAGENET.mean, IMAGENET.std))
    expected = pixels.permute(0, 3, 1, 2).float().div_(255).sub_(mean).div_(std)
    found = look_up(pixels, imagenet_table())
    assert torch.equal(found, expected)
    assert found.is_contiguous(memory_format=torch.channels_last)


def test_every_byte_of_every_channel() -> None:
    pixels = torch.arange(256, dtype=torch.uint8)[None, :, None, None].expand(1, 256, 1, 3)
    found = look_up(pixels, imagenet_table())[0, :, :, 0].double().numpy()
    mean, std = (np.array(numbers)[:, None] for numbers in (IMAGENET.mean, IMAGENET.std))
    # three roundings of float32
    np.testing.assert_allclose(found, (np.arange(256) / 255 - mean) / std, rtol=1e-5, atol=1e-6)
