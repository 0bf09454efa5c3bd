"""Transfer: logistic regression on frozen features of another, often small dataset such as CUB-200 or Cars-196.

The L2 penalty is chosen on held-out training images, after Kornblith, Shlens and Le, CVPR 2019 (arXiv 1805.08974).
For large datasets such as Places, the paper uses the `linear` protocol.
"""

from collections.abc import Iterator

import numpy as np
import torch

from pipeline.errors import PipelineError
from pipeline.evaluate.features import LabeledFeatures, require_comparable
from pipeline.evaluate.linear import accuracies
from pipeline.evaluate.logistic import fit
from pipeline.runtime.device import CPU

STRENGTHS = tuple(10.0**power for power in range(-1, 5))
HELD_OUT = 5  # one in five images of a class


def evaluate(
    train: LabeledFeatures, val: LabeledFeatures, *, seed: int = 0, device: torch.device = CPU
) -> Iterator[tuple[str, float]]:
    """Yield ("transfer", top-1 accuracy on val) and, with more than five classes, ("transfer_top5", top-5 accuracy).

    val is used once, after the penalty is chosen and the classifier is fitted to all of train.

    Raises PipelineError when train and val differ in dim or classes, or no class has five images.
    """
    require_comparable(train, val)
    layer = fit(train, strength=best_strength(train, seed, device), device=device)
    yield from accuracies(layer, val, device, "transfer")


def best_strength(train: LabeledFeatures, seed: int, device: torch.device) -> float:
    """Return the value of STRENGTHS with the best accuracy on the held-out fifth; in a tie, the strongest penalty."""
    fitted, held_out = split(train, seed)
    scores = {}
    for strength in STRENGTHS:
        layer = fit(fitted, strength=strength, device=device)
        scores[strength] = dict(accuracies(layer, held_out, device, "held out"))["held out"]
    return max(scores, key=lambda strength: scores[strength])


def split(train: LabeledFeatures, seed: int) -> tuple[LabeledFeatures, LabeledFeatures]:
    """Split train into four fifths to fit on and one fifth to hold out, class by class, drawn by the seed."""
    random = np.random.default_rng(seed)
    held_out = np.zeros(len(train.label), np.bool_)
    for each in range(train.classes):
        rows = random.permutation(np.flatnonzero(train.label == each))
        held_out[rows[: len(rows) // HELD_OUT]] = True
    if not held_out.any():
        raise PipelineError(
            f"no class of the train split has {HELD_OUT} usable images, so none can be held out to choose the "
            "penalty; use the few-label protocol"
        )
    return train.where(~held_out), train.where(held_out)
