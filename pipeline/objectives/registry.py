"""The objectives by name: description, paper, default settings, and how to build each from a run's settings."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
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
from pipeline.objectives.supervised import Supervised, labeled_classes
from pipeline.settings.training import DistillConfig

PRODUCT_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
REDUCED = ("1q", "seed")  # their anchors are the teacher's alone, which can be held in bfloat16
COMPRESS = "Abbasi Koohpayegani, Tejankar, Pirsiavash, NeurIPS 2020"


@dataclass(frozen=True, kw_only=True)
class ObjectiveEntry:
    """An objective: what `cli.py objectives` prints, its default settings, and the function that builds it.

    build: (config, student's dim, the cache's split, rows to train on) -> Objective.
    tau, student_tau, lr, schedule: defaults of a run; a temperature is None where the objective has none.
    defaults: the paper's other settings, as text.
    """

    description: str
    paper: str
    build: Callable[[DistillConfig, int, Split, NDArray[np.int64]], Objective]
    defaults: str = ""
    tau: float | None = None
    student_tau: float | None = None
    lr: float = 0.01
    schedule: str = "step"


def _temperature(value: float | None) -> float:
    assert value is not None  # `resolved` replaced None by the objective's default
    return value


def build_1q(config: DistillConfig, student_dim: int, split: Split, rows: NDArray[np.int64]) -> Objective:
    """Build CompRess-1q with anchors from the training rows."""
    window = AnchorWindow(rows, anchor_count(config.anchors, len(rows)), config.batch_size, config.seed)
    return Compress1q(
        split,
        window,
        student_dim=student_dim,
        tau=_temperature(config.tau),
        product_dtype=PRODUCT_DTYPES[config.loss_dtype],
    )


def build_2q(config: DistillConfig, student_dim: int, split: Split, rows: NDArray[np.int64]) -> Objective:
    """Build CompRess-2q."""
    return Compress2q(
        split,
        student_dim=student_dim,
        anchors=anchor_count(config.anchors, len(rows)),
        head_dim=config.head_dim,
        momentum=config.momentum,
        tau=_temperature(config.tau),
        live=config.live_teacher,
    )


def build_regression_bn(
    config: DistillConfig, student_dim: int, split: Split, rows: NDArray[np.int64]
) -> Objective:
    """Build the BatchNorm regression baseline of CompRess. WrongUse for batches of one image."""
    if config.batch_size < 2:
        raise WrongUse("reg-bn needs at least 2 images per batch, for BatchNorm; give a larger --batch-size")
    return RegressionBN(split, student_dim=student_dim)


def build_seed(config: DistillConfig, student_dim: int, split: Split, rows: NDArray[np.int64]) -> Objective:
    """Build SEED with anchors from the training rows."""
    anchors = anchor_count(config.anchors or str(min(DEFAULT_ANCHORS, len(rows))), len(rows))
    window = AnchorWindow(rows, anchors, config.batch_size, config.seed)
    return Seed(
        split,
        window,
        student_dim=student_dim,
        tau=_temperature(config.tau),
        student_tau=_temperature(config.student_tau),
        product_dtype=PRODUCT_DTYPES[config.loss_dtype],
    )


def build_crd(config: DistillConfig, student_dim: int, split: Split, rows: NDArray[np.int64]) -> Objective:
    """Build CRD with negatives and memories of the training rows. WrongUse if there are no negatives."""
    if min(config.negatives, len(rows) - 1) < 1:
        raise WrongUse(
            f"--negatives {config.negatives} with {len(rows):,} training rows: CRD needs at least 1 negative and 2 rows"
        )
    return CRD(
        split,
        rows,
        student_dim=student_dim,
        negatives=config.negatives,
        tau=_temperature(config.tau),
        seed=config.seed,
    )


def build_cc(config: DistillConfig, student_dim: int, split: Split, rows: NDArray[np.int64]) -> Objective:
    """Build ClusterFit on the training rows. WrongUse for fewer than one cluster."""
    if config.clusters < 1:
        raise WrongUse(f"--clusters {config.clusters}: expected a number above 0")
    return ClusterFit(split, rows, student_dim=student_dim, clusters=config.clusters, seed=config.seed)


OBJECTIVES = {
    "1q": ObjectiveEntry(
        description="CompRess-1q: KL divergence of similarity distributions over the teacher's anchors",
        paper=COMPRESS,
        defaults="K 128,000",
        tau=0.04,
        build=build_1q,
    ),
    "2q": ObjectiveEntry(
        description="CompRess-2q: KL divergence of similarity distributions, each side over its own queue of anchors",
        paper=COMPRESS,
        defaults="K 128,000, momentum 0.999",
        tau=0.04,
        build=build_2q,
    ),
    "reg": ObjectiveEntry(
        description="regression (MSE) of the L2-normalized teacher embedding",
        paper=COMPRESS,
        build=lambda config, dim, split, rows: Regression(student_dim=dim, teacher_dim=split.shape.dim),
    ),
    "reg-bn": ObjectiveEntry(
        description="regression (MSE) of the batch-normalized teacher embedding",
        paper=COMPRESS,
        build=build_regression_bn,
    ),
    "simreg": ObjectiveEntry(
        description="SimReg: regression (MSE) of the L2-normalized teacher embedding through a 4-layer MLP head",
        paper="Navaneet, Koohpayegani, Tejankar, Pirsiavash, BMVC 2021",
        lr=0.05,
        schedule="cosine",
        build=lambda config, dim, split, rows: SimReg(student_dim=dim, teacher_dim=split.shape.dim),
    ),
    "seed": ObjectiveEntry(
        description="SEED: cross-entropy of similarity distributions over the teacher's anchors and the image itself",
        paper="Fang, Wang, Wang, Zhang, Yang, Liu, ICLR 2021",
        defaults=f"K {DEFAULT_ANCHORS:,}",
        tau=0.01,
        student_tau=0.2,
        lr=0.03,
        schedule="cosine",
        build=build_seed,
    ),
    "supervised": ObjectiveEntry(
        description="supervised baseline: cross-entropy of the labels",
        paper=COMPRESS,
        build=lambda config, dim, split, rows: Supervised(
            student_dim=dim, classes=labeled_classes(split, rows)
        ),
    ),
    "crd": ObjectiveEntry(
        description="CRD: contrastive (NCE) loss between 128-d projections of student and teacher",
        paper="Tian, Krishnan, Isola, ICLR 2020",
        defaults="16,384 negatives, memory momentum 0.5",
        tau=0.07,
        build=build_crd,
    ),
    "cc": ObjectiveEntry(
        description="ClusterFit: cross-entropy of the k-means clusters of the teacher's embeddings",
        paper="Yan et al., CVPR 2020",
        defaults="16,000 clusters",
        build=build_cc,
    ),
}


def build_objective(
    config: DistillConfig, student_dim: int, split: Split, rows: NDArray[np.int64]
) -> Objective:
    """Build the objective of resolved settings. WrongUse for settings that do not fit the rows."""
    return entry_of(config.objective).build(config, student_dim, split, rows)


def build_objectives(
    config: DistillConfig, student_dims: Sequence[int], split: Split, rows: NDArray[np.int64]
) -> list[Objective]:
    """Build an objective for each student of a pass, given their dims. They share what training does not change."""
    first, *others = [build_objective(config, dim, split, rows) for dim in student_dims]
    for other in others:
        other.share(first)
    return [first, *others]


def entry_of(name: str) -> ObjectiveEntry:
    """Return an objective's entry. WrongUse, suggesting the closest name, for an unknown one."""
    if name not in OBJECTIVES:
        known = ", ".join(OBJECTIVES)
        raise WrongUse(f"unknown objective {name!r}: choose one of {known}{suggest(name, OBJECTIVES)}")
    return OBJECTIVES[name]


def resolved(config: DistillConfig) -> DistillConfig:
    """Return the settings with the objective's defaults filled in, as a run uses and records them.

    WrongUse for an unknown objective, or for a setting that the objective does not have.
    """
    own = entry_of(config.objective)
    if config.loss_dtype != "fp32" and config.objective not in REDUCED:
        raise WrongUse(
            f"--loss-dtype {config.loss_dtype} with the objective {config.objective}: only "
            f"{' and '.join(REDUCED)} support products below fp32; leave it out"
        )
    for name in ("tau", "student_tau"):
        given = getattr(config, name)
        if given is not None and getattr(own, name) is None:
            flag = f"--{name.replace('_', '-')}"
            raise WrongUse(
                f"{flag} {given}: the objective {config.objective} has no such temperature; leave it out"
            )
    return replace(
        config,
        tau=config.tau or own.tau,
        student_tau=config.student_tau or own.student_tau,
        lr=config.lr or own.lr,
        schedule=config.schedule or own.schedule,
    )


def anchor_count(wanted: str | None, rows: int) -> int:
    """Return the number of anchors: the default for None, every row for "all", else K. WrongUse if above the rows."""
    if not wanted:
        return default_anchors(rows)
    if wanted == "all":
        return rows
    if not wanted.isdecimal() or int(wanted) < 1:
        raise WrongUse(f"--anchors {wanted}: expected a number above 0, or all")
    if int(wanted) > rows:
        raise WrongUse(
            f"--anchors {wanted}: there are only {rows:,} rows to draw them from; give --anchors all"
        )
    return int(wanted)
