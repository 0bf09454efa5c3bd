"""The teacher's distribution over a ring of its own anchors, found once a step for all students of a pass."""

import torch
from torch import Tensor, nn

from cache.anchors import AnchorWindow
from cache.reader import Split
from pipeline.loading.batch import Batch
from pipeline.objectives.queues import AnchorQueue
from pipeline.objectives.streamed import TeacherSide, divergence, teacher_side

PRODUCT_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


class AnchoredTeacher(nn.Module):
    """A ring of anchors on the device, and how near a batch's rows are to them in the teacher's eyes.

    split: the teacher's cache. window: which of its rows are anchors at a step. tau: the teacher's temperature.
    own_anchor: whether its embedding of an image is one more anchor, for that image alone. precision: of the products
    with the anchors, fp32 or bf16. There is no state to save.
    """

    def __init__(
        self,
        split: Split,
        window: AnchorWindow,
        *,
        tau: float,
        own_anchor: bool = False,
        precision: str = "fp32",
    ) -> None:
        super().__init__()
        self.product_dtype = PRODUCT_DTYPES[precision]
        self.ring = AnchorQueue(split, window, centred=precision == "bf16")
        self.tau, self.own_anchor = tau, own_anchor
        self.known: tuple[int, Tensor, TeacherSide] | None = None

    def divergence(self, query: Tensor, batch: Batch, step: int, *, tau: float) -> Tensor:
        """Mean over queries (B, Dt), unit rows, of KL(p(teacher) || p(query)) over the anchors of a step: a scalar.

        tau: the student's temperature.
        """
        assert batch.teacher is not None, "this objective needs the teacher's rows"
        self.ring.move_to(step)
        anchors, own = self.ring.anchors, self.ring.slots_of(batch.rows)
        positive = self.moved(batch.teacher) if self.own_anchor else None
        if self.known is None or self.known[:1] != (step,) or self.known[1] is not batch.teacher:
            side = teacher_side(
                *(batch.teacher, anchors, anchors),
                tau=self.tau,
                own=own,
                positive=positive,
                product_dtype=self.product_dtype,
            )
            self.known = (step, batch.teacher, side)
        return divergence(
            *(self.known[2], query, anchors),
            tau=tau,
            own=own,
            positive=positive,
            product_dtype=self.product_dtype,
        )

    def moved(self, embedding: Tensor) -> Tensor:
        """Embeddings (B, Dt) where the anchors have them: less the ring's origin, if it has one."""
        return embedding if self.ring.origin is None else embedding.float() - self.ring.origin
