"""Transfer: a linear classifier on frozen features of another dataset, often a small one such as CUB-200 or Cars-196.

Logistic regression whose L2 penalty is chosen on held-out training images, after Kornblith, Shlens and Le, CVPR 2019
(arXiv 1805.08974). For a large dataset, such as Places, the `linear` protocol is the paper's.
"""

from collections.abc import Iterator

import numpy as np

from pipeline.errors import PipelineError
from pipeline.evaluate.features import Features, require_comparable
from pipeline.evaluate.linear import accuracies
from pipeline.evaluate.logistic import fit

STRENGTHS = tuple(10.0**power for power in range(-1, 5))
HELD_OUT = 5  # of so many images of a class, one


def evaluate(
    train: Features, val: Features, *, seed: int = 0, device: str = "cpu"
) -> Iterator[tuple[str, float]]:
    """Yields ("transfer", top-1) and, with more than five classes, ("transfer_top5", top-5) of val as fractions.

    val is seen once, after the penalty has been chosen and the classifier fitted to the whole of train.

    Raises:
        PipelineError: train and val do not belong together, or no class has five images.
    """
    require_comparable(train, val)
    layer = fit(train, strength=best_strength(train, seed, device), device=device)
    yield from accuracies(layer, val, device, "transfer")


def best_strength(train: Features, seed: int, device: str) -> float:
    """The one of STRENGTHS that is best on the held-out fifth; of equals the one that penalises most."""
    fitted, held_out = split(train, seed)
    found = {}
    for strength in STRENGTHS:
        layer = fit(fitted, strength=strength, device=device)
        found[strength] = dict(accuracies(layer, held_out, device, "held out"))["held out"]
    return max(found, key=lambda strength: found[strength])


def split(train: Features, seed: int) -> tuple[Features, Features]:
    """Train without a fifth of the images of each class, and that fifth, drawn by the seed."""
    random = np.random.default_rng(seed)
    held_out = np.zeros(len(train.label), np.bool_)
    for each in range(train.classes):
        rows = random.permutation(np.flatnonzero(train.label == each))
        held_out[rows[: len(rows) // HELD_OUT]] = True
    if not held_out.any():
        raise PipelineError(
            f"no class of the train split has {HELD_OUT} usable images, so none can be held out to choose the "
            "penalty; use the protocol few-label"
        )
    return train.where(~held_out), train.where(held_out)
