"""One training step, as in the training loop, on features instead of images."""

import torch
from torch import Tensor, nn

from pipeline.loading.batch import Batch
from pipeline.objectives.objective import Objective


def one_step(
    objective: Objective,
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    features: Tensor,
    batch: Batch,
    step: int,
) -> float:
    """Embed, compute the loss, step the optimizer and update the objective. Return the loss."""
    embeddings = (network(features),)
    loss = objective(embeddings, batch, step)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    objective.after_step(network, embeddings, batch, step)
    return loss.item()
