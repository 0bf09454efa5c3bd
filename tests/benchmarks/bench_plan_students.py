"""`plan` against a training step of five students: what it measures must tell the time of a step within 15 %.

A step of `distill` loads and joins images, runs the student with its optimizer, and has the loss. Plan and training
take turns, so that both see the same machine. It takes about five minutes on two cores that do nothing else.
"""

import statistics
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from pipeline.planning.inputs import packed_images
from pipeline.planning.measured_step import measure_step
from pipeline.planning.network_cost import network_costs, planned_teacher
from pipeline.runtime.device import CPU
from pipeline.settings.plan import PlanConfig
from tests.benchmarks.figure import Figure
from tests.benchmarks.photograph_training import (
    ANCHORS,
    DIM,
    STORE_ROWS,
    PhotographTraining,
    photograph_training,
)

STUDENTS = ("resnet18", "resnet50", "mobilenet_v2", "timm/efficientnet_b0", "timm/vit_small_patch16_224")
SIZE, BATCH, STEPS, ROUNDS = 128, 32, 4, 3
PRECISION = "fp32"  # bf16 takes several times as long on a processor that has to emulate it


def measure(folder: Path) -> Iterator[Figure]:
    """Compare the planned and the real seconds of a step, for each student."""
    trainings = {student: training(folder / student.replace("/", "-"), student) for student in STUDENTS}
    planned: dict[str, list[float]] = {student: [] for student in STUDENTS}
    real: dict[str, list[float]] = {student: [] for student in STUDENTS}
    for student in STUDENTS:
        trainings[student].with_cache()  # compiles the loader
    for _ in range(ROUNDS):
        for student in STUDENTS:
            planned[student].append(planned_step(folder / student.replace("/", "-") / "dataset", student))
            began = time.perf_counter()
            trainings[student].with_cache()
            real[student].append((time.perf_counter() - began) / STEPS)
    for student in STUDENTS:
        yield figure(student.rpartition("/")[2], planned[student], real[student])


def training(folder: Path, student: str) -> PhotographTraining:
    """Return a run of the student over STEPS batches an epoch."""
    folder.mkdir()
    return photograph_training(
        folder, images=BATCH * STEPS, batch=BATCH, student=student, size=SIZE, amp_dtype=PRECISION
    )


def planned_step(dataset: Path, student: str) -> float:
    """Return the seconds of a step by `plan`, which measures its parts."""
    config = PlanConfig(
        dataset=dataset,
        teacher="moco_v2_resnet50",
        student=student,
        image_size=SIZE,
        batch_size=BATCH,
        anchors=str(ANCHORS),
        amp_dtype=PRECISION,
    )
    # the store has rows for more images than there are
    images = replace(packed_images(dataset), rows={"train": STORE_ROWS})
    costs = network_costs(config, images, planned_teacher(config))
    parts, loading = measure_step(config, images, DIM, costs, CPU)
    return sum(parts.values()) + loading


def figure(name: str, planned: list[float], real: list[float]) -> Figure:
    """Return the factor by which the plan was too high or too low."""
    expected, found = statistics.median(planned), statistics.median(real)
    return Figure(
        name=f"plan-step-{name}",
        what=f"plan: seconds of a step of {name} at {SIZE} px, batch {BATCH}",
        against="a real step",
        ratio=max(expected / found, found / expected),
        unit="x off",
        at_most=1.15,
        seconds={"planned": planned, "real": real},
        bound="a few seconds' measurement of each part stands for the whole",
        details={"planned over real": expected / found, "K": ANCHORS, "D": DIM},
    )
