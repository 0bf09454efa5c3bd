"""The interface between the training loop and what a student is trained with."""

from collections.abc import Sequence

from torch import Tensor, nn

from pipeline.loading.batch import Batch


class Objective(nn.Module):
    """What a student is trained with. A step of the training loop is

        embeddings = tuple(network(view) for view in batch.images)
        loss = objective(embeddings, batch, step)
        loss.backward(); optimizer.step()
        objective.after_step(network, embeddings, batch, step)

    with network = Sequential(backbone, objective.head()). `start` is called once, before the first step and
    before `load_state_dict`. `state_dict` holds what an exact resume needs and nothing that can be derived.
    The optimiser gets the network's parameters only: what is trained belongs to the head.
    """

    views: int = 1
    needs_teacher: bool = True

    def head(self) -> nn.Module:
        """A new module to put after the backbone: trained with it, dropped at export."""
        return nn.Identity()

    def describe(self) -> str:
        """The objective and its settings in a few words, for the first line of a run."""
        return type(self).__name__

    def share(self, first: "Objective") -> None:
        """Share with the objective of another student in the same pass what no student changes.

        It is of the same class and settings. At every step it is called first, with the same batch, or has left.
        """

    def start(self, network: nn.Module) -> None:
        """Look at the initial network, on its device and not wrapped by DDP."""

    def forward(self, embeddings: Sequence[Tensor], batch: Batch, step: int) -> Tensor:
        """The scalar loss of one raw (B, D) embedding a view; `step` counts from 0 over the whole run."""
        raise NotImplementedError

    def after_step(self, network: nn.Module, embeddings: Sequence[Tensor], batch: Batch, step: int) -> None:
        """Update what no gradient trains, once the optimiser has stepped; `network` as in `start`."""
