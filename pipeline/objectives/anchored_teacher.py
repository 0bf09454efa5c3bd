"""The similarity loss against a queue of the teacher's anchors; students in one pass share the teacher's side of it."""

from dataclasses import replace

import torch
from torch import Tensor, nn

from cache.anchors import AnchorWindow
from cache.reader import Split
from pipeline.loading.batch import Batch
from pipeline.objectives.objective import teacher_embedding
from pipeline.objectives.queues import AnchorQueue
from pipeline.objectives.streamed import SimilarityLoss, TeacherSide


class AnchoredTeacher(nn.Module):
    """A queue of the teacher's anchors on the device, and the loss of a batch against them. It saves no state.

    split: the teacher's cache. window: which of its rows are anchors at each step. similarity_loss: temperatures and
    precision. own_anchor: whether the teacher's embedding of an image is one more anchor, for that image alone.
    """

    def __init__(
        self, split: Split, window: AnchorWindow, similarity_loss: SimilarityLoss, *, own_anchor: bool = False
    ) -> None:
        super().__init__()
        self.queue = AnchorQueue(split, window, centered=similarity_loss.product_dtype == torch.bfloat16)
        self.similarity_loss, self.own_anchor = similarity_loss, own_anchor
        self.last: tuple[int, Tensor, TeacherSide] | None = None

    def loss(self, query: Tensor, batch: Batch, step: int) -> Tensor:
        """Return the loss () of a student's unit rows (B, Dt) over the anchors of a step."""
        teacher = teacher_embedding(batch)
        self.queue.move_to(step)
        anchors = self.queue.anchors
        loss = replace(
            self.similarity_loss,
            self_index=self.queue.slots_of(batch.rows),
            positive=self.queue.center(teacher) if self.own_anchor else None,
        )
        if self.last is None or self.last[0] != step or self.last[1] is not teacher:
            self.last = step, teacher, loss.teacher_side(teacher, anchors, anchors)
        return loss.student_loss(query, anchors, self.last[2])
