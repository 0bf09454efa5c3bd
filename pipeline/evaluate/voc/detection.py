"""PASCAL VOC detection: Faster R-CNN with a student as backbone, fine-tuned end to end; mAP at IoU 0.5.

All layers of the student are kept, as in the paper: AlexNet's fc6 and fc7 are the detector's head.
Trained on train and val without difficult objects, tested on test by the rules of VOC 2007. BatchNorm is fine-tuned
too, since frozen statistics do not suit self-supervised backbones (He et al., MoCo, CVPR 2020, section 4.2). SGD with
momentum 0.9; learning rate 0.02 for 16 images, warm-up, then a cosine; flips are the only augmentation.
"""

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.models.detection import FasterRCNN
from torchvision.transforms.functional import to_tensor

from cache.identity import identity_id
from pipeline.errors import PipelineError
from pipeline.evaluate.voc.average_precision import AveragePrecision, average_precision, match, mean
from pipeline.evaluate.voc.batches import IMAGES_AHEAD, batches
from pipeline.evaluate.voc.data import VocSplit, read_split
from pipeline.evaluate.voc.detector import DetectorShape, build_detector, has_own_head
from pipeline.loading.random_crop import stream
from pipeline.models.checkpoints import load_resume, save_resume
from pipeline.models.optimizer import learning_rate
from pipeline.models.student_file import load_run_student
from pipeline.runtime.device import resolve_device
from pipeline.runtime.prefetch import prefetch
from pipeline.runtime.progress import Progress
from pipeline.settings.commands import EvalConfig

LEARNING_RATE_IMAGES = 16
MOMENTUM = 0.9
WEIGHT_DECAY = 1e-4
WARMUP_STEPS = 500
REGIONS_STREAM = 1 << 21


@dataclass(frozen=True, kw_only=True)
class FineTuning:
    """Settings of the fine-tuning. lr: for batches of 16 images. precision: fp32 or bf16."""

    epochs: int
    batch_size: int
    lr: float = 0.02
    seed: int = 0
    precision: str = "fp32"
    shape: DetectorShape = DetectorShape()  # noqa: RUF009  (frozen)


@dataclass(frozen=True, kw_only=True)
class Detections:
    """All detections on a split: box (n, 4) px, score (n,), label (n,) counted from 1, image (n,)."""

    box: NDArray[np.float64]
    score: NDArray[np.float64]
    label: NDArray[np.int64]
    image: NDArray[np.int64]


def evaluate_detection(run: Path, folder: Path, config: EvalConfig) -> Iterator[tuple[str, float]]:
    """Yield ("voc_detection", eleven-point mAP) and ("voc_detection_area", mAP by area), as fractions.

    A checkpoint of the detector is saved in RUN/voc-detection after each epoch, from which training resumes.

    Raises:
        WrongUse: the folder does not have VOC's layout.
        PipelineError: a file in it is damaged, the student has no feature maps, or the loss is not finite.
    """
    settings = FineTuning(
        epochs=config.detection_epochs,
        batch_size=config.detection_batch_size,
        lr=config.detection_lr,
        seed=config.seed,
        precision=config.amp_dtype,
        shape=DetectorShape(image_size=config.detection_size),
    )
    train, test = read_split(folder, "train") + read_split(folder, "val"), read_split(folder, "test")
    yield from evaluate(run, train, test, settings, resolve_device(config.device))


def evaluate(
    run: Path, train: VocSplit, test: VocSplit, settings: FineTuning, device: torch.device
) -> Iterator[tuple[str, float]]:
    """Fine-tune on train and yield the metrics of evaluate_detection on test."""
    classes = train.classes()
    test.labels(classes)  # raises for a class without a test image
    backbone = load_run_student(run)
    made_of = {"weights": backbone.weights_sha256, "images": train.sha256(), **asdict(settings)}
    if has_own_head(backbone.module):
        made_of["head"] = "the student's"  # older checkpoints have a new head in its place
    detector = build_detector(backbone, len(classes), settings.shape, settings.seed).to(device)
    fine_tune(detector, train, settings, device, run / "voc-detection" / f"{identity_id(made_of)[:12]}.pt")
    found = detect(detector, test, settings.precision, device)
    result = mean([class_precision(found, test, name, label) for label, name in enumerate(classes, start=1)])
    yield "voc_detection", result.eleven_point
    yield "voc_detection_area", result.area


def fine_tune(
    detector: FasterRCNN, train: VocSplit, settings: FineTuning, device: torch.device, checkpoint: Path
) -> None:
    """Train the detector in place, from the checkpoint if there is one.

    The learning rate and all random draws are functions of the step, so resuming is exact.
    """
    optimizer = torch.optim.SGD(
        detector.parameters(), settings.lr, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY
    )
    for epoch in range(load_progress(detector, optimizer, checkpoint), settings.epochs):
        loss = train_epoch(detector, optimizer, train, settings, epoch, device)
        if not torch.isfinite(loss):
            raise PipelineError(
                f"the detector's loss is {loss.item()} after epoch {epoch + 1}: evaluate again with a "
                "smaller --detection-lr, or in fp32"
            )
        save_resume(
            checkpoint,
            {"epochs": epoch + 1, "detector": detector.state_dict(), "optimizer": optimizer.state_dict()},
        )


def train_epoch(
    detector: FasterRCNN,
    optimizer: torch.optim.Optimizer,
    train: VocSplit,
    settings: FineTuning,
    epoch: int,
    device: torch.device,
) -> Tensor:
    """Train for one epoch and return the last step's loss: once a weight is not finite, it stays so."""
    steps = math.ceil(len(train.images) / settings.batch_size)
    title = f"detection, epoch {epoch + 1} of {settings.epochs}"
    examples = batches(train, settings.batch_size, settings.seed, epoch)
    loss = torch.tensor(math.nan)
    detector.train()
    for step, (images, targets) in enumerate(
        Progress(examples, desc=title, total=steps, unit="step"), start=epoch * steps
    ):
        optimizer.param_groups[0]["lr"] = step_learning_rate(step, steps * settings.epochs, settings)
        torch.manual_seed(int(stream(settings.seed, step, 0, REGIONS_STREAM)))
        images = [image.to(device) for image in images]
        targets = [{key: value.to(device) for key, value in target.items()} for target in targets]
        with torch.autocast(device.type, torch.bfloat16, enabled=settings.precision == "bf16"):
            loss = torch.stack(list(detector(images, targets).values())).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return loss.detach()


def load_progress(detector: FasterRCNN, optimizer: torch.optim.Optimizer, checkpoint: Path) -> int:
    """Load the checkpoint if there is one. Returns the number of epochs done."""
    if not checkpoint.exists():
        return 0
    state = load_resume(checkpoint)
    detector.load_state_dict(state["detector"])
    optimizer.load_state_dict(state["optimizer"])
    return state["epochs"]


def step_learning_rate(step: int, steps: int, settings: FineTuning) -> float:
    """Return the learning rate of a step: linear warm-up to lr, scaled by the batch size, then a cosine."""
    peak = settings.lr * settings.batch_size / LEARNING_RATE_IMAGES
    warmup = min(WARMUP_STEPS, steps // 10)
    return learning_rate(step, peak=peak, steps=steps, warmup=warmup, schedule="cosine")


def detect(detector: FasterRCNN, split: VocSplit, precision: str, device: torch.device) -> Detections:
    """Run the detector on every image. Boxes are in pixels of the original image."""
    detector.eval()
    parts: list[tuple[NDArray, ...]] = []
    rows = range(len(split.images))
    images = prefetch(lambda row: to_tensor(split.image(row)), rows, torch.get_num_threads(), IMAGES_AHEAD)
    with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
        for row, image in enumerate(Progress(images, desc="detect", total=len(rows))):
            (found,) = detector([image.to(device)])
            boxes, scores, labels = (
                found[key].float().cpu().numpy() for key in ("boxes", "scores", "labels")
            )
            parts.append((boxes, scores, labels.astype(np.int64), np.full(len(labels), row)))
    box, score, label, image = (np.concatenate(column) for column in zip(*parts, strict=True))
    return Detections(box=box.astype(np.float64), score=score.astype(np.float64), label=label, image=image)


def class_precision(found: Detections, split: VocSplit, name: str, label: int) -> AveragePrecision:
    """Return the average precision of the class `name`, whose number among the detections is `label`."""
    own, truth = found.label == label, split.truth(name)
    verdict = match(found.box[own], found.score[own], found.image[own], truth)
    positives = sum(int(np.sum(~objects.difficult)) for objects in truth)
    return average_precision(found.score[own], verdict, positives)
