"""What the loader hands to the training loop at each step."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Batch:
    """What the loader gives for one step on one rank.

    images: one float tensor (B, 3, H, W) a view, normalised. rows: int64 (B,).
    labels: int64 (B,), -1 where there is none.
    teacher: the unit embeddings (B, Dt) of these rows, as cached (float16) or of this very crop by a live teacher
    (float32); None where the objective needs none. teacher_norm: float32 (B,), the lengths that a live teacher's
    features had before; None where there is none: a cache keeps them by row.
    """

    images: tuple[Tensor, ...]
    rows: Tensor
    labels: Tensor
    teacher: Tensor | None = None
    teacher_norm: Tensor | None = None
