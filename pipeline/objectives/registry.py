"""Every objective by name: what it is, and how a run's settings make one."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from cache.anchors import AnchorWindow, default_anchors
from cache.reader import Split
from pipeline.errors import WrongUse, suggest
from pipeline.objectives.clusterfit import ClusterFit
from pipeline.objectives.compress import Compress1q, Compress2q
from pipeline.objectives.crd import CRD
from pipeline.objectives.objective import Objective
from pipeline.objectives.regression import Regression, RegressionBN
from pipeline.objectives.seed import DEFAULT_ANCHORS, Seed
from pipeline.objectives.simreg import SimReg
from pipeline.objectives.supervised import Supervised, labelled_classes
from pipeline.settings.commands import DistillConfig

REDUCED = ("1q", "seed")  # whose anchors are all in the teacher's space
COMPRESS = "Abbasi Koohpayegani, Tejankar, Pirsiavash, NeurIPS 2020"


@dataclass(frozen=True, kw_only=True)
class ObjectiveEntry:
    """What a person reads about an objective, and its maker: (config, student's width, cache, rows) -> Objective.

    tau, student_tau, lr and schedule are the objective's own: a run has them unless it is given others. A
    temperature of 0: there is none. defaults: the other settings that the paper gives, in words.
    """

    description: str
    paper: str
    build: Callable[[DistillConfig, int, Split, NDArray[np.int64]], Objective]
    defaults: str = ""
    tau: float = 0.0
    student_tau: float = 0.0
    lr: float = 0.01
    schedule: str = "step"


def build_1q(config: DistillConfig, student_dim: int, split: Split, rows: NDArray[np.int64]) -> Objective:
    """CompRess with the teacher's anchors, taken from the rows that are trained on."""
    window = AnchorWindow(rows, anchor_count(config.anchors, len(rows)), config.batch_size, config.seed)
    return Compress1q(split, window, student_dim=student_dim, tau=config.tau, precision=config.loss_dtype)


def build_2q(config: DistillConfig, student_dim: int, split: Split, rows: NDArray[np.int64]) -> Objective:
    """CompRess with anchors in the student's own space."""
    return Compress2q(
        split,
        student_dim=student_dim,
        anchors=anchor_count(config.anchors, len(rows)),
        head_dim=config.head_dim or None,
        momentum=config.momentum,
        tau=config.tau,
        live=config.live_teacher,
    )


def build_regression(
    config: DistillConfig, student_dim: int, split: Split, rows: NDArray[np.int64]
) -> Objective:
    """The squared distance of unit features."""
    return Regression(student_dim=student_dim, teacher_dim=split.shape.dim)


def build_regression_bn(
    config: DistillConfig, student_dim: int, split: Split, rows: NDArray[np.int64]
) -> Objective:
    """The squared distance of features after BatchNorm."""
    if config.batch_size < 2:
        raise WrongUse("reg-bn needs batches of at least 2 images: of one there is no variance")
    return RegressionBN(split, student_dim=student_dim)


def build_simreg(config: DistillConfig, student_dim: int, split: Split, rows: NDArray[np.int64]) -> Objective:
    """The squared distance of unit features behind a deep head."""
    return SimReg(student_dim=student_dim, teacher_dim=split.shape.dim)


def build_seed(config: DistillConfig, student_dim: int, split: Split, rows: NDArray[np.int64]) -> Objective:
    """SEED, its anchors a window over the rows that are trained on."""
    anchors = anchor_count(config.anchors or str(min(DEFAULT_ANCHORS, len(rows))), len(rows))
    window = AnchorWindow(rows, anchors, config.batch_size, config.seed)
    return Seed(
        split,
        window,
        student_dim=student_dim,
        tau=config.tau,
        student_tau=config.student_tau,
        precision=config.loss_dtype,
    )


def build_supervised(
    config: DistillConfig, student_dim: int, split: Split, rows: NDArray[np.int64]
) -> Objective:
    """The labels."""
    return Supervised(student_dim=student_dim, classes=labelled_classes(split, rows))


def build_crd(config: DistillConfig, student_dim: int, split: Split, rows: NDArray[np.int64]) -> Objective:
    """CRD, with negatives and memories of the rows that are trained on. WrongUse if there are no negatives."""
    if min(config.negatives, len(rows) - 1) < 1:
        raise WrongUse(
            f"--negatives {config.negatives} of {len(rows):,} rows leaves an image none: give 1 or more, and 2 rows"
        )
    return CRD(
        split,
        rows,
        student_dim=student_dim,
        negatives=config.negatives,
        tau=config.tau,
        seed=config.seed,
    )


def build_cc(config: DistillConfig, student_dim: int, split: Split, rows: NDArray[np.int64]) -> Objective:
    """ClusterFit on the rows that are trained on. WrongUse for fewer than one cluster."""
    if config.clusters < 1:
        raise WrongUse(f"--clusters {config.clusters}: expected a number above 0")
    return ClusterFit(split, rows, student_dim=student_dim, clusters=config.clusters, seed=config.seed)


OBJECTIVES = {
    "1q": ObjectiveEntry(
        description="the teacher's distribution over the teacher's anchors",
        paper=COMPRESS,
        defaults="K 128,000",
        tau=0.04,
        build=build_1q,
    ),
    "2q": ObjectiveEntry(
        description="the teacher's distribution over anchors in the student's own space",
        paper=COMPRESS,
        defaults="K 128,000, momentum 0.999",
        tau=0.04,
        build=build_2q,
    ),
    "reg": ObjectiveEntry(
        description="the teacher's unit feature, by squared distance",
        paper=COMPRESS,
        build=build_regression,
    ),
    "reg-bn": ObjectiveEntry(
        description="the teacher's feature after BatchNorm, by squared distance",
        paper=COMPRESS,
        build=build_regression_bn,
    ),
    "simreg": ObjectiveEntry(
        description="the teacher's unit feature, behind a head of 4 layers",
        paper="Navaneet, Koohpayegani, Tejankar, Pirsiavash, BMVC 2021",
        lr=0.05,
        schedule="cosine",
        build=build_simreg,
    ),
    "seed": ObjectiveEntry(
        description="a sharp teacher's distribution over its anchors and the image itself",
        paper="Fang, Wang, Wang, Zhang, Yang, Liu, ICLR 2021",
        defaults=f"K {DEFAULT_ANCHORS:,}",
        tau=0.01,
        student_tau=0.2,
        lr=0.03,
        schedule="cosine",
        build=build_seed,
    ),
    "supervised": ObjectiveEntry(
        description="the labels, by cross-entropy: the upper row of the paper's tables",
        paper=COMPRESS,
        build=build_supervised,
    ),
    "crd": ObjectiveEntry(
        description="which of many images its teacher saw, by contrast of 128-d projections",
        paper="Tian, Krishnan, Isola, ICLR 2020",
        defaults="16,384 negatives, memory momentum 0.5",
        tau=0.07,
        build=build_crd,
    ),
    "cc": ObjectiveEntry(
        description="the k-means cluster that the teacher's embedding is in (ClusterFit)",
        paper="Yan et al., CVPR 2020",
        defaults="16,000 clusters",
        build=build_cc,
    ),
}


def build_objective(
    config: DistillConfig, student_dim: int, split: Split, rows: NDArray[np.int64]
) -> Objective:
    """The objective that resolved settings ask for. WrongUse for what it cannot be made of."""
    return entry_of(config.objective).build(config, student_dim, split, rows)


def build_objectives(
    config: DistillConfig, student_dims: Sequence[int], split: Split, rows: NDArray[np.int64]
) -> list[Objective]:
    """An objective for each student of a pass, of these widths; what no student changes they share."""
    first, *others = [build_objective(config, dim, split, rows) for dim in student_dims]
    for other in others:
        other.share(first)
    return [first, *others]


def entry_of(name: str) -> ObjectiveEntry:
    """An objective by name. WrongUse, with the nearest, for an unknown one."""
    if name not in OBJECTIVES:
        known = ", ".join(OBJECTIVES)
        raise WrongUse(f"no objective {name!r}: known are {known}{suggest(name, OBJECTIVES)}")
    return OBJECTIVES[name]


def resolved(config: DistillConfig) -> DistillConfig:
    """The settings with the objective's own in place of what is left to it, as they run and are recorded.

    WrongUse for an unknown objective, a temperature below 0, and a setting given to an objective that has none.
    """
    own = entry_of(config.objective)
    if config.loss_dtype != "fp32" and config.objective not in REDUCED:
        raise WrongUse(
            f"--loss-dtype {config.loss_dtype} with the objective {config.objective}: only "
            f"{' and '.join(REDUCED)} have products in less than fp32; leave it out"
        )
    for name in ("tau", "student_tau"):
        given = getattr(config, name)
        if given < 0 or (given and not getattr(own, name)):
            flag, expected = f"--{name.replace('_', '-')}", "a number above 0" if given < 0 else "none"
            raise WrongUse(
                f"{flag} {given} with the objective {config.objective}: expected {expected}; leave it out"
            )
    return replace(
        config,
        tau=config.tau or own.tau,
        student_tau=config.student_tau or own.student_tau,
        lr=config.lr or own.lr,
        schedule=own.schedule if config.schedule == "own" else config.schedule,
    )


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
