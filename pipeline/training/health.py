"""Checks of a run while it trains: values that are not finite, and features that have collapsed.

Values stay on the device until they are checked, so that no step waits for them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

COLLAPSED_COSINE = 0.999
CHECKS_BEFORE_WARNING = 3
ROWS_LISTED = 5


@dataclass(frozen=True, kw_only=True)
class StepOutcome:
    """The outcome of one step, counted from 1.

    rows: int64 (B,). loss: (). finite: bool (B,), whether a row's features are finite in every view.
    """

    step: int
    rows: Tensor
    loss: Tensor
    finite: Tensor

    def problem(self) -> str:
        """Return what is not finite, and the rows of the batch."""
        finite = self.finite.cpu()
        if not finite.all():
            rows = list_rows(self.rows.cpu()[~finite])
            return f"the student's features are not finite at step {self.step} for {rows} of the train split"
        rows = list_rows(self.rows.cpu())
        return f"the loss is {self.loss.item()} at step {self.step}, on {rows} of the train split"


class TrainingHealth:
    """The outcomes of the steps since the last check, and the steps at which features had collapsed."""

    def __init__(self) -> None:
        self.outcomes: list[StepOutcome] = []
        self.features: Tensor | None = None
        self.collapsed_at: list[int] = []
        self.has_warned = False

    def record(self, step: int, rows: Tensor, loss: Tensor, embeddings: Sequence[Tensor]) -> None:
        """Record a step, counted from 1: rows (B,), loss () and raw embeddings (B, D), one per view."""
        views = [embedding.detach() for embedding in embeddings]
        finite = torch.stack([view.isfinite().flatten(1).all(1) for view in views]).all(0)
        self.outcomes.append(StepOutcome(step=step, rows=rows, loss=loss.detach(), finite=finite))
        self.features = views[0]

    def first_problem(self) -> str | None:
        """Describe the first step since the last call whose loss or features are not finite; None if there is none."""
        outcomes, self.outcomes = self.outcomes, []
        if not outcomes:
            return None
        is_finite = torch.stack([each.loss.isfinite() & each.finite.all() for each in outcomes]).tolist()
        return None if all(is_finite) else outcomes[is_finite.index(False)].problem()

    def collapse_warning(self, step: int) -> str | None:
        """Return a warning, once, if the features had collapsed at this check and the two before."""
        assert self.features is not None, "no step was recorded"
        cosine = mean_cosine(self.features)
        self.collapsed_at = [*self.collapsed_at, step] if cosine > COLLAPSED_COSINE else []
        if self.has_warned or len(self.collapsed_at) < CHECKS_BEFORE_WARNING:
            return None
        self.has_warned = True
        return (
            f"warning: features have collapsed: mean cosine {cosine:.5f} between the images of a batch, above "
            f"{COLLAPSED_COSINE} since step {self.collapsed_at[0]}; try a smaller --lr, or a --warmup"
        )


def mean_cosine(features: Tensor) -> float:
    """Return the mean cosine over the B (B - 1) pairs of distinct rows of (B, D); NaN for one row.

    It is (|s|^2 - B) / (B (B - 1)), with s the sum of the unit rows. It is 1 for equal rows, also if all are zero.
    """
    count = len(features)
    if count < 2:
        return float("nan")
    if (features == features[0]).all():
        return 1.0
    total = F.normalize(features.float(), dim=1).sum(0).square().sum().item()
    return (total - count) / (count * (count - 1))


def non_finite_weights(network: nn.Module, step: int) -> str | None:
    """Name the first parameter that is not finite after a step; None if all are finite."""
    names, parameters = zip(*network.named_parameters(), strict=True)
    finite = torch.stack([each.detach().isfinite().all() for each in parameters]).tolist()
    return (
        None
        if all(finite)
        else f"the weights in {names[finite.index(False)]} are not finite after step {step}"
    )


def list_rows(rows: Tensor) -> str:
    """Return the first few rows, and the number of the others, as text."""
    more = f" and {len(rows) - ROWS_LISTED:,} more" if len(rows) > ROWS_LISTED else ""
    return f"{'row' if len(rows) == 1 else 'rows'} {', '.join(map(str, rows[:ROWS_LISTED].tolist()))}{more}"
