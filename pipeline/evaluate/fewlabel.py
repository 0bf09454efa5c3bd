"""Few labels: one linear layer on frozen features, from a few labelled images of each class.

CompRess (Abbasi Koohpayegani, Tejankar, Pirsiavash, NeurIPS 2020, arXiv 2010.14713) reports 1 shot, 1 % and 10 %.
The layer is the optimum of scikit-learn's default, an L2 penalty of C = 1 on unit-length features: with a row or ten a
class there is nothing to choose a schedule on.
"""

import re
import statistics
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import PipelineError, WrongUse
from pipeline.evaluate.features import Features, require_comparable
from pipeline.evaluate.linear import accuracies
from pipeline.evaluate.logistic import fit

LABELS = re.compile(r"(?P<shots>[1-9]\d*)shot|(?P<percent>\d+(\.\d+)?)pct")
STRENGTH = 1.0


def evaluate(
    train: Features,
    val: Features,
    *,
    labels: Sequence[str] = ("1shot", "1pct", "10pct"),
    draws: int = 5,
    seed: int = 0,
    device: str = "cpu",
) -> Iterator[tuple[str, float]]:
    """Yields ("few1shot", top-1 of val as a fraction), ("few1shot_top5", ...) and so on for each of `labels`.

    "Nshot" is the mean over `draws` draws of N images a class, with their sample standard deviation as
    "few1shot_std"; "Npct" is one draw of N percent of train, as many images of every class. Top-5 needs more
    than five classes.

    Raises:
        WrongUse: a name in `labels` is neither, or draws is below 1.
        PipelineError: train and val do not belong together, or a class has too few images.
    """
    require_comparable(train, val)
    require_known(labels, draws)
    for name in labels:
        per_class, metric = images_a_class(name, train), f"few{name}"
        found = [
            dict(_draw(train, val, per_class, (seed, draw), device, metric))
            for draw in range(draws if name.endswith("shot") else 1)
        ]
        for each in found[0]:
            yield each, statistics.fmean(draw[each] for draw in found)
        if len(found) > 1:
            yield f"{metric}_std", statistics.stdev(draw[metric] for draw in found)


def require_known(labels: Sequence[str], draws: int) -> None:
    """Raise WrongUse for a name in `labels` that is neither shots nor a share, or for less than one draw."""
    if draws < 1:
        raise WrongUse(f"--draws {draws}: expected at least one")
    for name in labels:
        if not LABELS.fullmatch(name):
            raise WrongUse(
                f"--labels {name!r}: expected a number of images such as 1shot, or a share such as 1pct"
            )


def images_a_class(name: str, train: Features) -> int:
    """How many images of each class a known name, "5shot" or "1pct", asks for.

    Raises PipelineError when that is less than one or more than some class has.
    """
    asked = LABELS.fullmatch(name)
    assert asked, name
    share = float(asked["percent"] or 0) / 100
    count = int(asked["shots"] or round(share * len(train.label) / train.classes))
    if count < 1:
        raise PipelineError(
            f"{name} of {len(train.label)} images is less than one for each of {train.classes} classes; "
            "leave it out of --labels"
        )
    have = np.bincount(train.label, minlength=train.classes)
    if have.min() < count:
        raise PipelineError(
            f"{name} asks for {count} images of each class, but class {have.argmin()} has {have.min()} "
            "that are usable; leave it out of --labels"
        )
    return count


def draw_rows(
    label: NDArray[np.int64], classes: int, per_class: int, seed: Sequence[int]
) -> NDArray[np.int64]:
    """Rows (classes * per_class,) of a class-balanced draw, class after class, decided by the seed alone."""
    random = np.random.default_rng(seed)
    return np.concatenate(
        [random.permutation(np.flatnonzero(label == each))[:per_class] for each in range(classes)]
    )


def _draw(
    train: Features, val: Features, per_class: int, seed: Sequence[int], device: str, name: str
) -> Iterator[tuple[str, float]]:
    chosen = train.where(draw_rows(train.label, train.classes, per_class, seed))
    yield from accuracies(fit(chosen, strength=STRENGTH, device=device), val, device, name)
