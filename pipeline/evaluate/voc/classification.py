"""PASCAL VOC classification: one linear classifier per class on a frozen student's features.

Trained on train and val, tested on test by mean average precision. Features are of the centre crop, normalized to unit
length and standardized by the training images. Each classifier is a logistic regression; its weight decay is the one
in DECAYS that is best on val after training on train.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from pipeline.embedding.extract import ExtractionSettings, extract
from pipeline.evaluate.linear import LinearProbe
from pipeline.evaluate.logistic import minimize
from pipeline.evaluate.voc.average_precision import (
    IGNORED,
    POSITIVE,
    AveragePrecision,
    average_precision,
    mean,
)
from pipeline.evaluate.voc.data import SPLITS, VocSplit, read_split
from pipeline.models.backbone import Backbone
from pipeline.models.student_file import load_run_student
from pipeline.runtime.device import CPU, resolve_device
from pipeline.runtime.progress import Progress
from pipeline.settings.commands import EvalConfig

DECAYS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)


@dataclass(frozen=True)
class VocFeatures:
    """Features (n, D) float32 of images and their labels (n, classes) int64: POSITIVE, NEGATIVE or IGNORED."""

    feature: NDArray[np.float32]
    label: NDArray[np.int64]

    def __add__(self, other: "VocFeatures") -> "VocFeatures":
        feature, label = np.vstack([self.feature, other.feature]), np.vstack([self.label, other.label])
        return VocFeatures(feature, label)


def evaluate_voc(run: Path, folder: Path, config: EvalConfig) -> Iterator[tuple[str, float]]:
    """Yield ("voc", eleven-point mAP) and ("voc_area", mAP by area) of a run's student, as fractions.

    Raises WrongUse when the folder does not have VOC's layout, PipelineError for a damaged file in it.
    """
    splits = [read_split(folder, name) for name in SPLITS]
    classes = (splits[0] + splits[1]).classes()
    labels = [split.labels(classes) for split in splits]
    device = resolve_device(config.device)
    backbone = load_run_student(run)
    backbone.module.to(device)
    features = [extract_features(backbone, split, device, config.batch_size) for split in splits]
    yield from evaluate(*map(VocFeatures, features, labels), device=device)


def extract_features(
    backbone: Backbone, split: VocSplit, device: torch.device, batch_size: int
) -> NDArray[np.float32]:
    """Return the features (n, D) of the images' centre crops. Raises PipelineError if an image cannot be read."""
    settings = ExtractionSettings(
        device=device, precision="fp32", batch_size=batch_size, threads=torch.get_num_threads()
    )
    rows = range(len(split.images))
    with Progress(total=len(rows), desc=f"embed {split.name}", unit=" images") as bar:
        found = extract(backbone, split.read, rows, settings, bar.move_to)
    if not found.readable.all():
        split.image(int(np.argmin(found.readable)))  # raises, naming the image and the reason
    return found.feature


def evaluate(
    train: VocFeatures, val: VocFeatures, test: VocFeatures, *, device: torch.device = CPU
) -> Iterator[tuple[str, float]]:
    """Yield ("voc", eleven-point mAP) and ("voc_area", mAP by area) on test, as fractions."""
    decay = best_decay(train, val, device)
    score = scores(fit(train + val, decay, device), test, device)
    result = mean(precisions(score, test.label))
    yield "voc", result.eleven_point
    yield "voc_area", result.area


def best_decay(train: VocFeatures, val: VocFeatures, device: torch.device) -> NDArray[np.float64]:
    """Return each class's weight decay (classes,) with the largest area on val; in a tie, the strongest."""
    areas = []
    for decay in reversed(DECAYS):
        decays = np.full(train.label.shape[1], decay)
        found = precisions(scores(fit(train, decays, device), val, device), val.label)
        areas.append([one.area for one in found])
    return np.array(DECAYS[::-1])[np.argmax(areas, axis=0)]


def fit(data: VocFeatures, decay: NDArray[np.float64], device: torch.device) -> LinearProbe:
    """Fit one logistic regression per class: features (B, D) -> logits (B, classes).

    Each minimizes the mean cross-entropy over the images that are not IGNORED, plus half its decay (classes,) times
    its squared weights without the bias. The loss is convex and the result deterministic.

    Raises PipelineError when a feature is not finite.
    """
    feature, label = torch.from_numpy(data.feature), torch.from_numpy(data.label).to(device)
    variance, middle = torch.var_mean(F.normalize(feature, dim=1), dim=0)
    probe, feature = LinearProbe(middle, variance, label.shape[1]).to(device), feature.to(device)
    weight = (label != IGNORED).float()
    weight /= weight.sum(dim=0)
    target, strength = (label == POSITIVE).float(), torch.from_numpy(decay).float().to(device)

    def loss() -> Tensor:
        entropy = F.binary_cross_entropy_with_logits(probe(feature), target, weight, reduction="sum")
        return entropy + 0.5 * (strength * probe.linear.weight.square().sum(dim=1)).sum()

    minimize(probe.linear, loss)
    return probe


def scores(probe: nn.Module, data: VocFeatures, device: torch.device) -> NDArray[np.float32]:
    """Return the logits (n, classes)."""
    with torch.inference_mode():
        return probe(torch.from_numpy(data.feature).to(device)).cpu().numpy()


def precisions(score: NDArray, label: NDArray[np.int64]) -> list[AveragePrecision]:
    """Return each class's average precision. label (n, classes) must have a POSITIVE in every column."""
    positives = np.sum(label == POSITIVE, axis=0)
    return [average_precision(*column) for column in zip(score.T, label.T, positives.tolist(), strict=True)]
