"""Batches of a small cache for an objective, without a loader, and steps of gradient descent."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from cache.reader import Split
from pipeline.loading.batch import Batch
from pipeline.objectives.objective import Objective

STUDENT_DIM = 5


def eligible_batch(split: Split, size: int, seed: int = 0) -> Batch:
    """Return `size` eligible rows in random order, each with its image of 4 x 4 px."""
    draws = torch.Generator().manual_seed(seed)
    eligible = torch.from_numpy(split.eligible())
    rows = eligible[torch.randperm(len(eligible), generator=draws)[:size]]
    images = torch.randn(split.shape.rows, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    return Batch(
        images=(images[rows],),
        rows=rows,
        labels=torch.from_numpy(split.label)[rows],
        teacher=torch.from_numpy(split.gather(rows.numpy())),
    )


def losses_of_descent(objective: Objective, batches: Iterable[Batch], lr: float) -> list[float]:
    """Train a small seeded network with the objective's head by gradient descent, and return the losses."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(48, STUDENT_DIM), objective.head())
    optimizer = torch.optim.SGD(network.parameters(), lr)
    losses = []
    for step, batch in enumerate(batches):
        loss = objective((network(batch.images[0]),), batch, step)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def gradient_of(objective: Objective, embedding: Tensor, batch: Batch) -> Tensor:
    """Return the gradient of the loss at step 0 with respect to the embedding."""
    leaf = embedding.detach().requires_grad_()
    objective((leaf,), batch, 0).backward()
    assert leaf.grad is not None
    return leaf.grad


def slope(objective: Objective, embedding: Tensor, batch: Batch, *, by: float = 1e-2) -> Tensor:
    """Return the same gradient by central differences. The step is wide: float32 rounds a loss near 1 by 1e-7."""
    found = torch.zeros_like(embedding)
    for index in range(embedding.numel()):
        ends = []
        for sign in (1, -1):
            moved = embedding.detach().clone()
            moved.view(-1)[index] += sign * by
            ends.append(objective((moved,), batch, 0).item())
        found.view(-1)[index] = (ends[0] - ends[1]) / (2 * by)
    return found
