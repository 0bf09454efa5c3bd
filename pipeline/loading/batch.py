"""A batch as the loader passes it to the training loop."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Batch:
    """A batch for one step on one rank.

    images: one normalised float tensor (B, 3, H, W) per view. rows: int64 (B,). labels: int64 (B,), -1 for none.
    teacher: L2-normalised teacher embeddings (B, Dt): of the centre crops or, with --replay, of these very crops from
    the cache (float16), or of these crops from a live teacher (float32); None if the objective needs no teacher.
    teacher_norm: float32 (B,), the norms of these crops' features before normalisation; None for centre crops, whose
    norms the cache stores by row. All on one device.
    """

    images: tuple[Tensor, ...]
    rows: Tensor
    labels: Tensor
    teacher: Tensor | None = None
    teacher_norm: Tensor | None = None
