"""DINO's transformers: positions against a bicubic formula by hand, sizes, and the published files' shapes."""

import numpy as np
import pytest
import torch
from torch import nn

from pipeline.models.dino_vit import DinoTransformer, dinov2_transformer, resample_positions


def weight(distance: float) -> float:
    """The cubic convolution kernel with a = -0.75, as bicubic interpolation without antialiasing has it."""
    a, x = -0.75, abs(distance)
    if x <= 1:
        return (a + 2) * x**3 - (a + 3) * x**2 + 1
    return a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a if x < 2 else 0.0


def matrix(side: int, wanted: int) -> np.ndarray:
    """(wanted, side): pixel i of the new axis looks at (i + 0.5) * side / (wanted + 0.1) - 0.5 of the old one."""
    rows = np.zeros((wanted, side))
    for place in range(wanted):
        centre = (place + 0.5) * side / (wanted + 0.1) - 0.5
        for near in range(int(np.floor(centre)) - 1, int(np.floor(centre)) + 3):
            rows[place, min(max(near, 0), side - 1)] += weight(centre - near)
    return rows


@pytest.mark.parametrize(("rows", "columns"), [(4, 6), (9, 5), (7, 8), (16, 16)])
def test_positions_are_resampled_as_the_formula_says(rows: int, columns: int) -> None:
    positions = torch.randn(1, 1 + 7 * 7, 5, generator=torch.Generator().manual_seed(0))
    grid = positions[0, 1:].double().numpy().reshape(7, 7, 5)
    expected = np.einsum("ri,cj,ijd->rcd", matrix(7, rows), matrix(7, columns), grid).reshape(-1, 5)
    found = resample_positions(positions, rows, columns)
    assert torch.equal(found[:, :1], positions[:, :1])
    # float32 sums of 16 values of about 1 in size
    np.testing.assert_allclose(found[0, 1:].numpy(), expected, atol=2e-5)


def test_positions_of_the_own_size_are_left_as_they_are() -> None:
    positions = torch.randn(1, 1 + 37 * 37, 4)
    assert resample_positions(positions, 37, 37) is positions


def small(**settings: int) -> DinoTransformer:
    torch.manual_seed(0)
    return DinoTransformer(img_size=32, patch_size=8, embed_dim=12, depth=2, num_heads=3, **settings).eval()


def test_another_size_is_the_network_with_resampled_positions() -> None:
    network, other = small(), DinoTransformer(img_size=48, patch_size=8, embed_dim=12, depth=2, num_heads=3)
    state = {**network.state_dict(), "pos_embed": resample_positions(network.pos_embed, 6, 6)}
    other.load_state_dict(state)
    images = torch.rand(2, 3, 48, 48)
    with torch.inference_mode():
        # the same operations on the same values
        torch.testing.assert_close(network(images), other.eval()(images), rtol=0, atol=1e-6)


def test_a_size_between_patches_is_refused() -> None:
    with pytest.raises(AssertionError, match="divisible by patch size"):
        small()(torch.zeros(1, 3, 36, 36))


def test_the_giants_halves_are_gated_as_swiglu() -> None:
    with torch.device("meta"):
        block = dinov2_transformer(1536, 40).blocks[0]
    # 2 x 4096: as DINOv2's w12 is, and w3 takes one half
    assert block.mlp.fc1.weight.shape == (8192, 1536)
    assert block.mlp.fc2.weight.shape == (1536, 4096)
    mlp = type(block.mlp)(in_features=4, hidden_features=12, act_layer=nn.SiLU, gate_last=False)
    tokens = torch.randn(2, 3, 4)
    first, second = mlp.fc1(tokens).chunk(2, dim=-1)
    expected = mlp.fc2(nn.functional.silu(first) * second)
    torch.testing.assert_close(mlp(tokens), expected)
    assert (block.mlp.gate_last, type(block.mlp.act)) == (False, nn.SiLU)
