"""The objectives by name: description, paper, default settings, and how to build each from a run's settings."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cache.reader import Split
from pipeline.errors import WrongUse, suggest
from pipeline.objectives.builders import (
    build_1q,
    build_1q_reg_bn,
    build_2q,
    build_cc,
    build_crd,
    build_regression_bn,
    build_seed,
)
from pipeline.objectives.compress_reg_bn import WEIGHT as REG_BN_WEIGHT
from pipeline.objectives.objective import Objective
from pipeline.objectives.own_objective import is_own, own_builder
from pipeline.objectives.regression import Regression
from pipeline.objectives.seed import DEFAULT_ANCHORS
from pipeline.objectives.simreg import SimReg
from pipeline.objectives.supervised import Supervised, labeled_classes
from pipeline.settings.training import DistillConfig

WITH_POLICIES = ("1q", "1q-reg-bn")
REDUCED = (*WITH_POLICIES, "seed")  # their anchors are the teacher's alone, which can be held in bfloat16
LEFT_TO_THE_OBJECTIVE = ("tau", "student_tau", "epochs", "wd", "optimizer", "schedule")
COMPRESS = "Abbasi Koohpayegani, Tejankar, Pirsiavash, NeurIPS 2020"


@dataclass(frozen=True, kw_only=True)
class ObjectiveEntry:
    """An objective: what `cli.py objectives` prints, its default settings, and the function that builds it.

    build: (config, student's dim, the cache's split, rows to train on) -> Objective.
    tau, student_tau, epochs, batch_size, lr, wd, optimizer, schedule: defaults of a run; a temperature is None where
    the objective has none. scales_lr: `lr` is for `batch_size` images, and scaled for another batch. mobilenet_lr: `lr`
    of a MobileNetV2, where it differs.
    defaults: the paper's other settings, as text.
    former: the defaults of earlier versions, where they differ, in which runs of those versions are recognized.
    """

    description: str
    paper: str
    build: Callable[[DistillConfig, int, Split, NDArray[np.int64]], Objective]
    defaults: str = ""
    tau: float | None = None
    student_tau: float | None = None
    epochs: int = 130
    batch_size: int = 256
    lr: float = 0.01
    mobilenet_lr: float | None = None
    scales_lr: bool = False
    wd: float = 1e-4
    optimizer: str = "sgd"
    schedule: str = "step"
    former: Mapping[str, Any] = field(default_factory=dict)

    def learning_rate(self, student: str, batch_size: int) -> float:
        """Return the default learning rate of a student at a batch size."""
        is_mobilenet = "mobilenetv2" in student.replace("_", "").lower()
        rate = self.mobilenet_lr if self.mobilenet_lr and is_mobilenet else self.lr
        return rate * batch_size / self.batch_size if self.scales_lr else rate


OBJECTIVES = {
    "1q": ObjectiveEntry(
        description="CompRess-1q: KL divergence of similarity distributions over the teacher's anchors",
        paper=COMPRESS,
        defaults="K 128,000",
        tau=0.04,
        build=build_1q,
    ),
    "1q-reg-bn": ObjectiveEntry(
        description="CompRess-1q and regression (MSE) of the batch-normalized teacher embedding, from one head",
        paper=f"both of {COMPRESS}; their sum is ours",
        defaults=f"K 128,000, {REG_BN_WEIGHT:g} times Reg-BN",
        tau=0.04,
        build=build_1q_reg_bn,
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
        batch_size=64,
        lr=0.05,
        mobilenet_lr=0.01,
        scales_lr=True,
        wd=5e-4,
        build=build_crd,
        former={"batch_size": 256, "lr": 0.01, "wd": 1e-4},
    ),
    "cc": ObjectiveEntry(
        description="ClusterFit: cross-entropy of the k-means clusters of the teacher's embeddings",
        paper="Yan et al., CVPR 2020",
        defaults="16,000 clusters",
        epochs=100,
        lr=0.1,
        optimizer="nesterov",
        schedule="step-30-60-80",
        build=build_cc,
        former={"epochs": 130, "lr": 0.01, "optimizer": "sgd", "schedule": "step"},
    ),
}


def build_objective(
    config: DistillConfig, student_dim: int, split: Split, rows: NDArray[np.int64]
) -> Objective:
    """Build the objective of resolved settings. WrongUse for settings that do not fit the rows."""
    return entry_of(config).build(config, student_dim, split, rows)


def build_objectives(
    config: DistillConfig, student_dims: Sequence[int], split: Split, rows: NDArray[np.int64]
) -> list[Objective]:
    """Build an objective for each student of a pass, given their dims. They share what training does not change."""
    first, *others = [build_objective(config, dim, split, rows) for dim in student_dims]
    for other in others:
        other.share(first)
    return [first, *others]


def entry_of(config: DistillConfig) -> ObjectiveEntry:
    """Return the entry of a run's objective. WrongUse, suggesting the closest name, for an unknown one."""
    name = config.objective
    if is_own(name):
        build = own_builder(name, config.objective_args)
        return ObjectiveEntry(description="a user's own", paper="", build=build)
    if name not in OBJECTIVES:
        known = ", ".join([*OBJECTIVES, "package.module:function"])
        raise WrongUse(f"unknown objective {name!r}: choose one of {known}{suggest(name, OBJECTIVES)}")
    if config.objective_args:
        raise WrongUse(
            f"--objective-args with the objective {name}: they are for one of your own, package.module:function; "
            "leave them out"
        )
    return OBJECTIVES[name]


def resolved(config: DistillConfig) -> DistillConfig:
    """Return the settings with the objective's defaults filled in, as a run uses and records them.

    WrongUse for an unknown objective, or for a setting that the objective does not have.
    """
    own = entry_of(config)
    if config.loss_dtype != "fp32" and config.objective not in REDUCED:
        raise WrongUse(
            f"--loss-dtype {config.loss_dtype} with the objective {config.objective}: only "
            f"{', '.join(REDUCED)} support products below fp32; leave it out"
        )
    if config.anchor_policy != "window" and config.objective not in WITH_POLICIES:
        raise WrongUse(
            f"--anchor-policy {config.anchor_policy} with the objective {config.objective}: only "
            f"{' and '.join(WITH_POLICIES)} have it; leave it out"
        )
    if config.neighbours and config.anchor_policy != "neighbours":
        raise WrongUse("--neighbours belongs to --anchor-policy neighbours: give it too, or leave it out")
    for name in ("tau", "student_tau"):
        given = getattr(config, name)
        if given is not None and getattr(own, name) is None:
            flag = f"--{name.replace('_', '-')}"
            raise WrongUse(
                f"{flag} {given}: the objective {config.objective} has no such temperature; leave it out"
            )
    batch_size = own.batch_size if config.batch_size is None else config.batch_size
    defaults = {name: getattr(own, name) for name in LEFT_TO_THE_OBJECTIVE}
    defaults |= {"batch_size": batch_size, "lr": own.learning_rate(config.student, batch_size)}
    return replace(
        config, **{name: value for name, value in defaults.items() if getattr(config, name) is None}
    )
