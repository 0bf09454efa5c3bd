"""Few-label evaluation: a linear classifier on frozen features, from a few labelled images per class.

CompRess (Abbasi Koohpayegani, Tejankar, Pirsiavash, NeurIPS 2020, arXiv 2010.14713) reports 1 shot, 1 % and 10 %.
The paper trains one linear layer on frozen features. From its linear probe comes that features have unit length and are
standardized by the mean and variance of all training images, which needs no labels. The classifier is a choice of this
project: logistic regression with scikit-learn's default L2 penalty, C = 1, solved to its optimum. On standardized
features the accuracy hardly depends on C, and one image per class would leave none to choose it on.
"""

import re
import statistics
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.errors import PipelineError, WrongUse
from pipeline.evaluate.features import LabeledFeatures, require_comparable
from pipeline.evaluate.linear import LinearProbe, accuracies, new_probe
from pipeline.evaluate.logistic import fit
from pipeline.runtime.device import CPU

LABELS = re.compile(r"(?P<shots>[1-9]\d*)shot|(?P<percent>\d+(\.\d+)?)pct")
STRENGTH = 1.0


def evaluate(
    train: LabeledFeatures,
    val: LabeledFeatures,
    *,
    labels: Sequence[str] = ("1shot", "1pct", "10pct"),
    draws: int = 5,
    seed: int = 0,
    device: torch.device = CPU,
) -> Iterator[tuple[str, float]]:
    """Yield ("few1shot", top-1 accuracy on val), ("few1shot_top5", ...) and so on for each of `labels`.

    "Nshot" is the mean over `draws` draws of N images per class, and "few1shot_std" is their sample standard
    deviation; "Npct" is one class-balanced draw of N percent of train. Top-5 needs more than five classes.

    Raises:
        WrongUse: a name in `labels` has neither form, or draws is below 1.
        PipelineError: train and val differ in dim or classes, or a class has too few images.
    """
    require_comparable(train, val)
    require_valid_labels(labels, draws)
    probe = new_probe(train, seed).to(device)
    for name in labels:
        per_class, metric = images_per_class(name, train), f"few{name}"
        scores = [
            dict(_draw(train, val, per_class, (seed, draw), probe, metric))
            for draw in range(draws if name.endswith("shot") else 1)
        ]
        for key in scores[0]:
            yield key, statistics.fmean(score[key] for score in scores)
        if len(scores) > 1:
            yield f"{metric}_std", statistics.stdev(score[metric] for score in scores)


def require_valid_labels(labels: Sequence[str], draws: int) -> None:
    """Raise WrongUse for a name in `labels` that is neither "Nshot" nor "Npct", or for less than one draw."""
    if draws < 1:
        raise WrongUse(f"--draws {draws}: expected at least one")
    for name in labels:
        if not LABELS.fullmatch(name):
            raise WrongUse(
                f"--labels {name!r}: expected a number of images such as 1shot, or a share such as 1pct"
            )


def images_per_class(name: str, train: LabeledFeatures) -> int:
    """Return the number of images per class for a valid name, such as "5shot" or "1pct".

    Raises PipelineError when that is less than one, or more than some class has.
    """
    matched = LABELS.fullmatch(name)
    assert matched, name
    share = float(matched["percent"] or 0) / 100
    count = int(matched["shots"] or round(share * len(train.label) / train.classes))
    if count < 1:
        raise PipelineError(
            f"{name} of {len(train.label)} images is less than one for each of {train.classes} classes; "
            "leave it out of --labels"
        )
    available = np.bincount(train.label, minlength=train.classes)
    if available.min() < count:
        rarest = int(available.argmin())
        shown = repr(train.names[rarest]) if train.names else rarest
        raise PipelineError(
            f"{name} needs {count} images of each class, but class {shown} has {available.min()} usable ones; "
            "leave it out of --labels"
        )
    return count


def draw_rows(
    label: NDArray[np.int64], classes: int, per_class: int, seed: Sequence[int]
) -> NDArray[np.int64]:
    """Draw per_class rows of each class, by the seed alone: (classes * per_class,), class after class."""
    random = np.random.default_rng(seed)
    return np.concatenate(
        [random.permutation(np.flatnonzero(label == each))[:per_class] for each in range(classes)]
    )


def _draw(
    train: LabeledFeatures,
    val: LabeledFeatures,
    per_class: int,
    seed: Sequence[int],
    probe: LinearProbe,
    name: str,
) -> Iterator[tuple[str, float]]:
    """Fit the probe's linear layer to a draw of train and yield its accuracies on val."""
    chosen, device = train.where(draw_rows(train.label, train.classes, per_class, seed)), probe.mean.device
    with torch.inference_mode():
        rows = probe.standardized(torch.from_numpy(chosen.embedding).to(device)).cpu().numpy()
    drawn = LabeledFeatures(rows, chosen.label, train.classes)
    probe.linear = fit(drawn, strength=STRENGTH, device=device)
    yield from accuracies(probe, val, device, name)
