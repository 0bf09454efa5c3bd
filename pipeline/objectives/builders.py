"""How each objective is built from a run's settings, the student's dim, the cache's split and the training rows."""

import numpy as np
import torch
from numpy.typing import NDArray

from cache.anchors import AnchorWindow, default_anchors
from cache.neighbours import read_neighbours
from cache.reader import Split
from pipeline.errors import WrongUse
from pipeline.objectives.centroids import Centroids
from pipeline.objectives.clusterfit import ClusterFit
from pipeline.objectives.compress import Compress1q, Compress2q
from pipeline.objectives.compress_reg_bn import Compress1qRegBN
from pipeline.objectives.crd import CRD
from pipeline.objectives.neighbour_anchors import NeighbourAnchors
from pipeline.objectives.objective import Objective
from pipeline.objectives.queues import AnchorQueue
from pipeline.objectives.regression import RegressionBN
from pipeline.objectives.seed import DEFAULT_ANCHORS, Seed
from pipeline.settings.training import DistillConfig

FEWER_ANCHORS = 16_000  # by default, where they are centroids or have neighbours beside them
PRODUCT_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def _temperature(value: float | None) -> float:
    assert value is not None  # `resolved` replaced None by the objective's default
    return value


def build_1q(config: DistillConfig, student_dim: int, split: Split, rows: NDArray[np.int64]) -> Objective:
    """Build CompRess-1q with anchors from the training rows, by --anchor-policy."""
    return _build_1q(Compress1q, config, student_dim, split, rows)


def build_1q_reg_bn(
    config: DistillConfig, student_dim: int, split: Split, rows: NDArray[np.int64]
) -> Objective:
    """Build CompRess-1q with Reg-BN's loss. WrongUse for batches of one image."""
    _require_two_images(config)
    return _build_1q(Compress1qRegBN, config, student_dim, split, rows)


def _build_1q(
    kind: type[Compress1q], config: DistillConfig, student_dim: int, split: Split, rows: NDArray[np.int64]
) -> Objective:
    wanted, dtype = config.anchors, PRODUCT_DTYPES[config.loss_dtype]
    if not wanted and config.anchor_policy != "window":
        wanted = str(
            max(1, min(FEWER_ANCHORS, len(rows) // 4 if config.anchor_policy == "kmeans" else len(rows)))
        )
    count = anchor_count(wanted, len(rows))
    anchors: AnchorQueue | Centroids
    if config.anchor_policy == "kmeans":
        if 4 * count > len(rows):
            raise WrongUse(
                f"--anchors {wanted} with --anchor-policy kmeans: expected at most {len(rows) // 4:,}, a quarter of "
                "the training rows, since each centroid stands for several images; give fewer"
            )
        anchors = Centroids(split, rows, count, config.seed, centered=dtype == torch.bfloat16)
    else:
        window = AnchorWindow(rows, count, config.batch_size, config.seed)
        anchors = AnchorQueue(split, window, centered=dtype == torch.bfloat16)
    return kind(
        anchors,
        student_dim=student_dim,
        tau=_temperature(config.tau),
        neighbours=neighbour_anchors(config, split, rows, count)
        if config.anchor_policy == "neighbours"
        else None,
        product_dtype=dtype,
        tf32=config.amp_dtype != "fp32",
    )


def neighbour_anchors(
    config: DistillConfig, split: Split, rows: NDArray[np.int64], anchors: int
) -> NeighbourAnchors:
    """Return the anchors that each image has beside those of all, from the graph in the cache.

    WrongUse if the graph is of other images than the training rows, or too wide for the anchors.
    """
    graph = read_neighbours(split)
    if len(rows) != len(split.eligible()):
        raise WrongUse(
            "--anchor-policy neighbours needs all images of the cache, among which neighbours were searched; leave "
            "--subset and --partial out"
        )
    width = config.neighbours or graph.shape[1]
    if width > graph.shape[1]:
        raise WrongUse(
            f"--neighbours {width}: the graph of {split.path} has {graph.shape[1]}; make a wider one with "
            f"`python cli.py cache neighbours {split.path} --k {width}`"
        )
    if anchors <= width + 1 or len(rows) <= width + 1:
        raise WrongUse(
            f"--anchors {anchors} with {width} neighbours: expected more than {width + 1}, or an image may have no "
            "anchor that is not a neighbour; give more --anchors or fewer --neighbours"
        )
    return NeighbourAnchors(split, np.ascontiguousarray(graph[:, :width]), len(rows))


def build_2q(config: DistillConfig, student_dim: int, split: Split, rows: NDArray[np.int64]) -> Objective:
    """Build CompRess-2q."""
    return Compress2q(
        split,
        student_dim=student_dim,
        anchors=anchor_count(config.anchors, len(rows)),
        head_dim=config.head_dim,
        momentum=config.momentum,
        tau=_temperature(config.tau),
        tf32=config.amp_dtype != "fp32",
        live=config.live_teacher or config.replay,
    )


def build_regression_bn(
    config: DistillConfig, student_dim: int, split: Split, rows: NDArray[np.int64]
) -> Objective:
    """Build the BatchNorm regression baseline of CompRess. WrongUse for batches of one image."""
    _require_two_images(config)
    return RegressionBN(split, student_dim=student_dim)


def _require_two_images(config: DistillConfig) -> None:
    if config.batch_size < 2:
        raise WrongUse(
            f"{config.objective} needs at least 2 images per batch, for BatchNorm; give a larger --batch-size"
        )


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
        tf32=config.amp_dtype != "fp32",
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
