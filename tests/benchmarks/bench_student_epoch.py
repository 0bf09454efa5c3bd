"""What the cache, the join and the loss add to an epoch of the student alone."""

import statistics
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch

from tests.benchmarks.figure import Figure, interleaved, ratio
from tests.benchmarks.photograph_training import ANCHORS, DIM, SIZE, photograph_training

IMAGES, BATCH = 128, 64


def measure(folder: Path) -> Iterator[Figure]:
    """Time epochs of 128 photographs at 224 px: distilled by 1q from the cache, and the ResNet-18 alone."""
    training = photograph_training(folder, images=IMAGES, batch=BATCH)
    batch = training.a_batch()
    embedding = torch.randn(BATCH, DIM, requires_grad=True)

    def loss_alone() -> None:
        for _ in range(IMAGES // BATCH):
            # a new tensor: for the same one the loss reuses the teacher's side
            again = replace(batch, teacher=batch.teacher.clone())
            training.run.objective((embedding,), again, training.run.step).backward()

    seconds = interleaved(
        {
            "with the cache": training.with_cache,
            "student alone": training.student_alone,
            "loss alone": loss_alone,
        }
    )
    median = {name: statistics.median(values) for name, values in seconds.items()}
    added = median["with the cache"] - median["student alone"]
    precision = training.run.config.amp_dtype
    # four products: both sides' logits, both sides' sums of anchors
    operations = 4 * 2 * IMAGES * DIM * ANCHORS
    yield Figure(
        name="student-epoch",
        what=f"epoch of a ResNet-18 at {SIZE} px, {precision}, with join and 1q, K {ANCHORS:,}, D {DIM}",
        against="its forward and backward pass alone on the same loader",
        ratio=ratio(seconds, "with the cache", "student alone"),
        unit="x the time",
        at_most=1.15,
        seconds=seconds,
        bound=(
            f"{IMAGES / median['student alone']:.0f} images/s alone; of the {added:.2f} s added, the loss's "
            f"four fp32 products with the anchors take {median['loss alone']:.2f} s, at "
            f"{operations / median['loss alone'] / 1e9:.0f} GFLOP/s; the rest is the head and the optimiser"
        ),
        details={"images": IMAGES, "batch": BATCH, "GFLOP of the loss": operations / 1e9},
    )
