"""Every objective by name: what it is, and how a run's settings make one."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cache.anchors import AnchorWindow, default_anchors
from cache.reader import Split
from pipeline.config import DistillConfig
from pipeline.errors import WrongUse, suggest
from pipeline.objectives.compress import Compress1q, Compress2q
from pipeline.objectives.objective import Objective

COMPRESS = "Abbasi Koohpayegani, Tejankar, Pirsiavash, NeurIPS 2020"


@dataclass(frozen=True, kw_only=True)
class ObjectiveEntry:
    """What a person reads about an objective, and its maker: (config, student's width, cache, rows) -> Objective."""

    description: str
    paper: str
    defaults: str
    build: Callable[[DistillConfig, int, Split, NDArray[np.int64]], Objective]


def build_1q(config: DistillConfig, student_dim: int, split: Split, rows: NDArray[np.int64]) -> Objective:
    """CompRess with the teacher's anchors, taken from the rows that are trained on."""
    window = AnchorWindow(rows, anchor_count(config.anchors, len(rows)), config.batch_size, config.seed)
    return Compress1q(split, window, student_dim=student_dim, tau=config.tau)


def build_2q(config: DistillConfig, student_dim: int, split: Split, rows: NDArray[np.int64]) -> Objective:
    """CompRess with anchors in the student's own space."""
    return Compress2q(
        split,
        student_dim=student_dim,
        anchors=anchor_count(config.anchors, len(rows)),
        head_dim=config.head_dim or None,
        momentum=config.momentum,
        tau=config.tau,
    )


OBJECTIVES = {
    "1q": ObjectiveEntry(
        description="the teacher's distribution over the teacher's anchors",
        paper=COMPRESS,
        defaults="K 128,000, tau 0.04",
        build=build_1q,
    ),
    "2q": ObjectiveEntry(
        description="the teacher's distribution over anchors in the student's own space",
        paper=COMPRESS,
        defaults="K 128,000, tau 0.04, momentum 0.999",
        build=build_2q,
    ),
}


def build_objective(
    config: DistillConfig, student_dim: int, split: Split, rows: NDArray[np.int64]
) -> Objective:
    """The objective that a run asks for. WrongUse for an unknown name or a number of anchors that cannot be."""
    if config.objective not in OBJECTIVES:
        known = ", ".join(OBJECTIVES)
        near = suggest(config.objective, OBJECTIVES)
        raise WrongUse(f"no objective {config.objective!r}: known are {known}{near}")
    return OBJECTIVES[config.objective].build(config, student_dim, split, rows)


def anchor_count(wanted: str, rows: int) -> int:
    """`--anchors` as a number: of "" the default, of "all" every row, else K itself, at most the rows."""
    if not wanted:
        return default_anchors(rows)
    if wanted == "all":
        return rows
    if not wanted.isdecimal() or int(wanted) < 1:
        raise WrongUse(f"--anchors {wanted}: expected a number above 0, or all")
    if int(wanted) > rows:
        raise WrongUse(
            f"--anchors {wanted}: there are only {rows:,} rows to take them from; give --anchors all"
        )
    return int(wanted)
