"""What a run's steps came to: numbers that are not finite, and features that are all alike.

All is kept on the device until somebody looks, so that no step waits for it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ALIKE = 0.999
LOOKS = 3
ROWS_NAMED = 5


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """One step, counted from 1: rows (B,) int64, loss (), finite (B,) bool: whose features are, in every view."""

    step: int
    rows: Tensor
    loss: Tensor
    finite: Tensor

    def problem(self) -> str:
        """What is not finite, with the rows that it happened on."""
        finite = self.finite.cpu()
        if not finite.all():
            rows = named(self.rows.cpu()[~finite])
            return f"the student's features are not finite at step {self.step} for {rows} of the train split"
        rows = named(self.rows.cpu())
        return f"the loss is {self.loss.item()} at step {self.step}, on {rows} of the train split"


class Watch:
    """The outcomes since the last look, and how alike the features were at each."""

    def __init__(self) -> None:
        self.outcomes: list[Outcome] = []
        self.features: Tensor | None = None
        self.alike: list[int] = []
        self.has_warned = False

    def note(self, step: int, rows: Tensor, loss: Tensor, embeddings: Sequence[Tensor]) -> None:
        """Remember a step: its number from 1, rows (B,), loss () and raw embeddings (B, D), one a view."""
        own = [embedding.detach() for embedding in embeddings]
        finite = torch.stack([each.isfinite().flatten(1).all(1) for each in own]).all(0)
        self.outcomes.append(Outcome(step=step, rows=rows, loss=loss.detach(), finite=finite))
        self.features = own[0]

    def problem(self) -> str | None:
        """The first step since the last look whose loss or features are not finite, in words; None if all are."""
        outcomes, self.outcomes = self.outcomes, []
        if not outcomes:
            return None
        sound = torch.stack([each.loss.isfinite() & each.finite.all() for each in outcomes]).tolist()
        return None if all(sound) else outcomes[sound.index(False)].problem()

    def collapse(self, step: int) -> str | None:
        """A warning, once, when the last batch's features are nearly one at this look and the two before."""
        assert self.features is not None, "no step was noted"
        cosine = mean_cosine(self.features)
        self.alike = [*self.alike, step] if cosine > ALIKE else []
        if self.has_warned or len(self.alike) < LOOKS:
            return None
        self.has_warned = True
        return (
            f"warning: the student says nearly the same of every image (mean cosine {cosine:.5f} between the "
            f"features of a batch, and above {ALIKE} since step {self.alike[0]}): it has collapsed, or has not begun "
            "to learn; a smaller --lr may help, or a --warmup"
        )


def mean_cosine(features: Tensor) -> float:
    """The mean cosine of the B (B - 1) pairs of distinct rows of (B, D); NaN for one row.

    The unit rows' sum s has |s|^2 = B + the sum over these pairs. Rows that are all equal have 1, zeros too.
    """
    count = len(features)
    if count < 2:
        return float("nan")
    if (features == features[0]).all():
        return 1.0
    total = F.normalize(features.float(), dim=1).sum(0).square().sum().item()
    return (total - count) / (count * (count - 1))


def non_finite_weights(network: nn.Module, step: int) -> str | None:
    """The first parameter that is not finite after a step, in words; None if all are."""
    names, parameters = zip(*network.named_parameters(), strict=True)
    finite = torch.stack([each.detach().isfinite().all() for each in parameters]).tolist()
    return (
        None
        if all(finite)
        else f"the weights in {names[finite.index(False)]} are not finite after step {step}"
    )


def named(rows: Tensor) -> str:
    """Rows for a sentence: the first, and how many more."""
    more = f" and {len(rows) - ROWS_NAMED:,} more" if len(rows) > ROWS_NAMED else ""
    return f"{'row' if len(rows) == 1 else 'rows'} {', '.join(map(str, rows[:ROWS_NAMED].tolist()))}{more}"
