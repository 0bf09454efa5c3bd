"""The similarity loss against a queue of the teacher's anchors; students in one pass share the teacher's side of it."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from cache.anchors import AnchorWindow
from cache.reader import Split
from pipeline.loading.batch import Batch
from pipeline.objectives.objective import teacher_embedding
from pipeline.objectives.queues import AnchorQueue
from pipeline.objectives.streamed import SimilarityLoss, TeacherSide
from pipeline.runtime.distributed import all_gather


@dataclass(frozen=True, kw_only=True)
class SharedStep:
    """What all students of a step share. teacher: that of this rank's batch. loss: for the queries of all ranks."""

    step: int
    teacher: Tensor
    loss: SimilarityLoss
    teacher_side: TeacherSide


class AnchoredTeacher(nn.Module):
    """A queue of the teacher's anchors on the device, and the loss of a batch against them. It saves no state.

    split: the teacher's cache. window: which of its rows are anchors at each step. similarity_loss: temperatures and
    precision. own_anchor: whether the teacher's embedding of an image is one more anchor, for that image alone.

    With several ranks, each holds some of the anchors and scores the queries of all ranks against them.
    """

    def __init__(
        self, split: Split, window: AnchorWindow, similarity_loss: SimilarityLoss, *, own_anchor: bool = False
    ) -> None:
        super().__init__()
        self.queue = AnchorQueue(split, window, centered=similarity_loss.product_dtype == torch.bfloat16)
        self.similarity_loss = replace(similarity_loss, sharded=True)
        self.own_anchor = own_anchor
        self.last: SharedStep | None = None

    def loss(self, query: Tensor, batch: Batch, step: int) -> Tensor:
        """Return the mean loss () over the images of all ranks, given a student's unit rows (B, Dt) on this one."""
        shared = self.last
        if shared is None or shared.step != step or shared.teacher is not batch.teacher:
            shared = self.last = self.start_step(batch, step)
        return shared.loss.student_loss(all_gather(query), self.queue.anchors, shared.teacher_side)

    def start_step(self, batch: Batch, step: int) -> SharedStep:
        """Fetch the anchors of a step and compute the teacher's side of its loss."""
        self.queue.move_to(step)
        own_teacher, anchors = teacher_embedding(batch), self.queue.anchors
        teacher = all_gather(own_teacher)
        loss = replace(
            self.similarity_loss,
            self_index=self.queue.slots_of(all_gather(batch.rows)),
            positive=self.queue.center(teacher) if self.own_anchor else None,
        )
        side = loss.teacher_side(teacher, anchors, anchors)
        return SharedStep(step=step, teacher=own_teacher, loss=loss, teacher_side=side)
