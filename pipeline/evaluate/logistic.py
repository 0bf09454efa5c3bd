"""Logistic regression on frozen features, solved to its optimum: where rows are few, a schedule would decide."""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.errors import PipelineError
from pipeline.evaluate.features import Features

MOST_STEPS = 500
GRADIENT_TOLERANCE = 1e-6


def fit(train: Features, *, strength: float, device: str = "cpu") -> nn.Linear:
    """The linear layer of multinomial logistic regression with an L2 penalty on the unit-length embeddings.

    Minimises the summed cross-entropy plus |weight|² / (2 strength), as scikit-learn's LogisticRegression with
    C = strength, by L-BFGS from zero: nothing is random.

    Raises:
        PipelineError: an embedding is not finite.
    """
    rows, labels = torch.from_numpy(train.embedding).to(device), torch.from_numpy(train.label).to(device)
    layer = nn.utils.skip_init(nn.Linear, rows.shape[1], train.classes, device=device)
    penalty = 1 / (2 * strength * len(labels))

    def loss() -> Tensor:
        return F.cross_entropy(layer(rows), labels) + penalty * layer.weight.square().sum()

    minimise(layer, loss)
    return layer


def minimise(layer: nn.Linear, loss: Callable[[], Tensor]) -> None:
    """Brings a layer, from zero, to the minimum of a convex loss of its weight and bias.

    Raises:
        PipelineError: the loss is not finite.
    """
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    solver = torch.optim.LBFGS(
        layer.parameters(),
        max_iter=MOST_STEPS,
        tolerance_grad=GRADIENT_TOLERANCE,
        tolerance_change=0,
        line_search_fn="strong_wolfe",
    )

    def descend() -> Tensor:
        solver.zero_grad()
        value = loss()
        value.backward()
        return value

    # Zero weights give a finite loss for all but features that are not finite themselves.
    if not math.isfinite(loss().item()):
        raise PipelineError("the logistic regression's loss is not finite; check the backbone's features")
    solver.step(descend)
