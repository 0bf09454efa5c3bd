"""CompRess-1q with InfoNCE: an image's own teacher embedding, which CompRess leaves out of its anchors, as a target.

InfoNCE of a student against its teacher is that of CLIP-KD (Yang et al., CVPR 2024, arXiv 2307.12732).
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.loading.batch import Batch
from pipeline.objectives.compress import Compress1q
from pipeline.objectives.objective import l2_normalize
from pipeline.runtime.distributed import all_gather

INFONCE_TAU = 0.07


class Compress1qInfoNCE(Compress1q):
    """The sum of CompRess-1q's loss and of `infonce` over the batch of all ranks."""

    def describe(self) -> str:
        return f"{super().describe()}, and InfoNCE, tau {INFONCE_TAU}"

    def forward(self, embeddings: Sequence[Tensor], batch: Batch, step: int) -> Tensor:
        student = all_gather(l2_normalize(embeddings[0]))
        return self.teacher.loss(student, batch, step) + infonce(
            student, self.teacher.shared(batch, step).everyone
        )


def infonce(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the mean over images i of -log(exp(s_i . t_i / 0.07) / sum_j exp(s_i . t_j / 0.07)), () in float32.

    student, teacher: unit rows (B, D) of the same images.
    """
    with torch.autocast(student.device.type, enabled=False):
        logits = student.float() @ teacher.float().T / INFONCE_TAU
        return F.cross_entropy(logits, torch.arange(len(student), device=student.device))
