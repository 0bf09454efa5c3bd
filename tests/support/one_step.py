"""One step of training, as the training loop takes it, on features in place of images."""

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
    """Embed, score, descend, let the objective follow. Returns the loss before."""
    embeddings = (network(features),)
    loss = objective(embeddings, batch, step)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    objective.after_step(network, embeddings, batch, step)
    return loss.item()
