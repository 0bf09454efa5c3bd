"""The similarity loss against a queue of the teacher's anchors; students in one pass share the teacher's side of it."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from pipeline.loading.batch import Batch
from pipeline.objectives.centroids import Centroids
from pipeline.objectives.neighbour_anchors import NeighbourAnchors
from pipeline.objectives.objective import teacher_embedding
from pipeline.objectives.queues import AnchorQueue
from pipeline.objectives.streamed import SimilarityLoss, TeacherSide
from pipeline.runtime.distributed import all_gather


@dataclass(frozen=True, kw_only=True)
class SharedStep:
    """What all students of a step share. teacher: that of this rank's batch, and everyone: of all ranks' batches.

    loss: for the queries of all ranks.
    """

    step: int
    teacher: Tensor
    everyone: Tensor
    loss: SimilarityLoss
    teacher_side: TeacherSide


class AnchoredTeacher(nn.Module):
    """The teacher's anchors on the device, and the loss of a batch against them.

    anchors: a window over the cache's rows, or centroids. similarity_loss: temperatures and precision. own_anchor:
    whether the teacher's embedding of an image is one more anchor, for that image alone. neighbours: further anchors
    of each image.

    With several ranks, each holds some of the anchors and scores the queries of all ranks against them.
    """

    def __init__(
        self,
        anchors: AnchorQueue | Centroids,
        similarity_loss: SimilarityLoss,
        *,
        own_anchor: bool = False,
        neighbours: NeighbourAnchors | None = None,
    ) -> None:
        super().__init__()
        self.queue, self.neighbours, self.own_anchor = anchors, neighbours, own_anchor
        self.similarity_loss = replace(similarity_loss, sharded=True)
        self.last: SharedStep | None = None

    def loss(self, query: Tensor, batch: Batch, step: int) -> Tensor:
        """Return the mean loss () over the images of all ranks, given a student's unit rows (B, Dt) of all ranks."""
        shared = self.shared(batch, step)
        return shared.loss.student_loss(query, self.queue.anchors, shared.teacher_side)

    def shared(self, batch: Batch, step: int) -> SharedStep:
        """Return what all students of a step share; it is computed for the first of them."""
        shared = self.last
        if shared is None or shared.step != step or shared.teacher is not batch.teacher:
            shared = self.last = self.start_step(batch, step)
        return shared

    def start_step(self, batch: Batch, step: int) -> SharedStep:
        """Fetch the anchors of a step and compute the teacher's side of its loss."""
        self.queue.move_to(step)
        own_teacher, anchors = teacher_embedding(batch), self.queue.anchors
        teacher, rows = all_gather(own_teacher), all_gather(batch.rows)
        left_out, own, drawn_from = self.queue.slots_of(rows), None, None
        if self.own_anchor:
            own = self.queue.center(teacher)[:, None]
        if self.neighbours is not None:
            near, embedding = self.neighbours.of(rows)
            # a neighbour is an anchor once
            left_out = torch.cat([left_out[:, None], self.queue.slots_of(near)], dim=1)
            own, drawn_from = self.queue.center(embedding), self.neighbours.drawn_from
        loss = replace(
            self.similarity_loss,
            self_index=left_out,
            counts=self.queue.counts,
            own_anchors=own,
            drawn_from=drawn_from,
        )
        side = loss.teacher_side(teacher, anchors, anchors)
        return SharedStep(step=step, teacher=own_teacher, everyone=teacher, loss=loss, teacher_side=side)
