"""DINO's and DINOv2's vision transformers: timm's, with the authors' resampling of positions for other image sizes."""

from typing import Any

import torch
from timm.layers.mlp import SwiGLUPacked
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn


class DinoTransformer(VisionTransformer):
    """Images (B, 3, H, W), H and W multiples of the patch size -> class token (B, D) after the last LayerNorm.

    The state dict has the shapes of the published checkpoints for any image size: positions are resampled in the
    forward pass as by Caron et al. 2021 and Oquab et al. 2023, bicubic, without antialiasing, and with the scale of a
    grid 0.1 patches larger. timm's own resampling gives slightly different features.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(num_classes=0, global_pool="token", dynamic_img_size=True, **settings)

    def forward(self, images: Tensor) -> Tensor:  # type: ignore[override]  # timm's also takes a mask
        assert self.cls_token is not None
        assert self.pos_embed is not None
        patches = self.patch_embed(images)  # (B, rows, columns, D)
        _, rows, columns, _ = patches.shape
        classes = self.cls_token.expand(len(images), -1, -1)
        tokens = torch.cat([classes, patches.flatten(1, 2)], dim=1)
        tokens = self.blocks(tokens + resample_positions(self.pos_embed, rows, columns))
        return self.norm(tokens)[:, 0]


def resample_positions(positions: Tensor, rows: int, columns: int) -> Tensor:
    """Resample positions (1, 1 + n * n, D), class token first, to a rows x columns grid: (1, 1 + rows * columns, D)."""
    side = round((positions.shape[1] - 1) ** 0.5)
    if (rows, columns) == (side, side):
        return positions
    grid = positions[:, 1:].float().reshape(1, side, side, -1).permute(0, 3, 1, 2)
    scale = ((rows + 0.1) / side, (columns + 0.1) / side)
    resampled = nn.functional.interpolate(grid, scale_factor=scale, mode="bicubic").to(positions.dtype)
    return torch.cat([positions[:, :1], resampled.flatten(2).transpose(1, 2)], dim=1)


def dino_transformer(patch: int, dim: int) -> DinoTransformer:
    """Build DINO's ViT for 224 px: small (width 384) or base (768)."""
    return DinoTransformer(img_size=224, patch_size=patch, embed_dim=dim, depth=12, num_heads=dim // 64)


def dinov2_transformer(dim: int, depth: int) -> DinoTransformer:
    """Build DINOv2's ViT with patches of 14 px and positions for 518 px; the giant, of width 1536, uses SwiGLU."""
    settings: dict[str, Any] = {}
    if dim == 1536:
        # timm's ratio counts both halves of SwiGLU, of width 4096 each
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
