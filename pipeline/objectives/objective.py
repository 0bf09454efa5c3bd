"""The interface between the training loop and the objectives."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from cache.reader import Split
from pipeline.loading.batch import Batch


class Objective(nn.Module):
    """A training objective. One step of the training loop is

        embeddings = network(torch.cat(batch.images)).chunk(views)  # one pass: BatchNorm sees all views
        loss = objective(embeddings, batch, step)
        loss.backward(); optimizer.step()
        objective.after_step(network, embeddings, batch, step)

    with network = Sequential(backbone, objective.head()). `start` is called once, before the first step and
    before `load_state_dict`. `state_dict` holds what an exact resume needs and nothing that can be recomputed.
    The optimizer gets the network's parameters only, so trainable layers belong in the head.

    views: augmented crops per image. needs_teacher: whether batches hold the teacher's embeddings. revision: above 1
    if an earlier version computed another loss under this name; its runs do not go on with this one. code: of a user's
    own, a hash of the function that built it.
    """

    views: int = 1
    needs_teacher: bool = True
    revision: int = 1
    code: str = ""

    def head(self) -> nn.Module:
        """Return a new module to put on the backbone: trained with it, dropped at export."""
        return nn.Identity()

    def describe(self) -> str:
        """Return a short name with the main settings, for the first line of a run."""
        return type(self).__name__

    def made_of(self) -> dict[str, Any]:
        """Return the identities of further inputs, beside dataset and cache, by which a run knows that it goes on."""
        return {}

    def share(self, first: "Objective") -> None:
        """Share what training does not change with `first`, the objective of another student in the same pass.

        `first` has the same class and settings. At each step it is called before this one with the same batch, unless
        its student has left the pass.
        """

    def start(self, network: nn.Module) -> None:
        """Set up from the initial network, on its device and not wrapped by DDP."""

    def forward(self, embeddings: Sequence[Tensor], batch: Batch, step: int) -> Tensor:
        """Return the loss () of raw embeddings (B, D), one per view; `step` counts from 0 over the whole run."""
        raise NotImplementedError

    def after_step(self, network: nn.Module, embeddings: Sequence[Tensor], batch: Batch, step: int) -> None:
        """Update queues, memories and averages after the optimizer's step; `network` as in `start`."""


def l2_normalize(embedding: Tensor) -> Tensor:
    """Return the rows of (B, D) at length 1, in float32."""
    return F.normalize(embedding.float(), dim=1)


def to_device(array: NDArray[Any], device: torch.device) -> Tensor:
    """Return an array as a tensor on a device. A copy to a GPU goes through pinned memory and is not waited for."""
    return staged(array, device).to(device, non_blocking=True)


def staged(array: NDArray[Any], device: torch.device) -> Tensor:
    """Return an array as a tensor on the CPU: in pinned memory if it is to be copied to a GPU."""
    tensor = torch.from_numpy(array)
    return tensor if device.type == "cpu" else tensor.pin_memory()


def teacher_embedding(batch: Batch) -> Tensor:
    """Return the teacher's unit rows (B, Dt), float16 or float32."""
    assert batch.teacher is not None, "this objective needs the teacher's embeddings"
    return batch.teacher


class TeacherNorms(nn.Module):
    """The lengths of the teacher's raw embeddings, float32 (N,) of the split's rows. It saves no state."""

    norm: Tensor

    def __init__(self, split: Split) -> None:
        super().__init__()
        self.register_buffer("norm", torch.from_numpy(split.norm_of(0)), persistent=False)

    def raw_embedding(self, batch: Batch) -> Tensor:
        """Return the teacher's raw rows, float32 (B, Dt): unit rows times their norms, cached or of a live teacher."""
        norm = batch.teacher_norm
        if norm is None:
            norm = self.norm[batch.rows.to(self.norm.device)]
        return teacher_embedding(batch).float() * norm[:, None]
