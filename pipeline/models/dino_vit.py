"""The vision transformers of DINO and DINOv2: timm's, with the authors' way to fit positions to another image size."""

from typing import Any

import torch
from timm.layers.mlp import SwiGLUPacked
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn


class DinoTransformer(VisionTransformer):
    """Images (B, 3, H, W), H and W multiples of the patch size -> class token (B, D) after the last LayerNorm.

    The state dict has the shapes of the published files, whatever the size of the images: positions are resampled in
    the forward pass as in Caron et al. 2021 and Oquab et al. 2023, bicubic, without antialiasing, and with the scale
    of a grid that is 0.1 patches wider. timm's own resampling gives slightly other features.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(num_classes=0, global_pool="token", dynamic_img_size=True, **settings)

    def forward(self, images: Tensor) -> Tensor:  # type: ignore[override]  # timm's takes a mask too
        assert self.cls_token is not None
        assert self.pos_embed is not None
        patches = self.patch_embed(images)  # (B, rows, columns, D)
        _, rows, columns, _ = patches.shape
        classes = self.cls_token.expand(len(images), -1, -1)
        tokens = torch.cat([classes, patches.flatten(1, 2)], dim=1)
        tokens = self.blocks(tokens + resample_positions(self.pos_embed, rows, columns))
        return self.norm(tokens)[:, 0]


def resample_positions(positions: Tensor, rows: int, columns: int) -> Tensor:
    """Positions (1, 1 + n * n, D), class token first, for a grid of rows x columns: (1, 1 + rows * columns, D)."""
    side = round((positions.shape[1] - 1) ** 0.5)
    if (rows, columns) == (side, side):
        return positions
    grid = positions[:, 1:].float().reshape(1, side, side, -1).permute(0, 3, 1, 2)
    scale = ((rows + 0.1) / side, (columns + 0.1) / side)
    resampled = nn.functional.interpolate(grid, scale_factor=scale, mode="bicubic").to(positions.dtype)
    return torch.cat([positions[:, :1], resampled.flatten(2).transpose(1, 2)], dim=1)


def dino_transformer(patch: int, dim: int) -> DinoTransformer:
    """DINO's ViT: small (384 wide) or base (768), for 224 px."""
    return DinoTransformer(img_size=224, patch_size=patch, embed_dim=dim, depth=12, num_heads=dim // 64)


def dinov2_transformer(dim: int, depth: int) -> DinoTransformer:
    """DINOv2's ViT with patches of 14 px, whose positions are those of 518 px; the giant, 1536 wide, has SwiGLU."""
    settings: dict[str, Any] = {}
    if dim == 1536:
        # SwiGLU's two halves are 4096 wide each, and timm counts both
        settings = {"mlp_ratio": 2.66667 * 2, "mlp_layer": SwiGLUPacked, "act_layer": nn.SiLU}
    return DinoTransformer(
        img_size=518,
        patch_size=14,
        embed_dim=dim,
        depth=depth,
        num_heads=dim // 64,
        init_values=1e-5,
        **settings,
    )
