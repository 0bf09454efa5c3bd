"""Logistic regression on frozen features, solved to its optimum so that no training schedule affects the result."""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.errors import PipelineError
from pipeline.evaluate.features import LabeledFeatures
from pipeline.runtime.device import CPU

MOST_STEPS = 500
GRADIENT_TOLERANCE = 1e-6


def fit(train: LabeledFeatures, *, strength: float, device: torch.device = CPU) -> nn.Linear:
    """Fit multinomial logistic regression with an L2 penalty to the embeddings.

    Minimizes the summed cross-entropy plus |weight|² / (2 strength), like scikit-learn's LogisticRegression with
    C = strength, by L-BFGS from zero. Deterministic.

    Raises PipelineError when an embedding is not finite.
    """
    rows, labels = torch.from_numpy(train.embedding).to(device), torch.from_numpy(train.label).to(device)
    layer = nn.utils.skip_init(nn.Linear, rows.shape[1], train.classes, device=device)
    penalty = 1 / (2 * strength * len(labels))

    def loss() -> Tensor:
        return F.cross_entropy(layer(rows), labels) + penalty * layer.weight.square().sum()

    minimize(layer, loss)
    return layer


def minimize(layer: nn.Linear, loss: Callable[[], Tensor]) -> None:
    """Set the layer's weight and bias to the minimum of a convex loss, starting from zero.

    Raises PipelineError when the loss is not finite.
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

    # with zero weights the loss is finite unless the features are not
    if not math.isfinite(loss().item()):
        raise PipelineError("the logistic regression's loss is not finite; check the backbone's features")
    solver.step(descend)
