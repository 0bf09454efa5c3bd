"""What the cache saves of an epoch with a live teacher; and lightly-train for comparison."""

import os
import statistics
import subprocess
import sys
import venv
from collections.abc import Iterator
from pathlib import Path

from pipeline.images.beton_format import Beton, open_beton
from pipeline.images.dataset import open_dataset
from pipeline.loading.random_crop import RandomCrop
from pipeline.loading.teacher_crops import TeacherCrops
from pipeline.runtime.device import CPU
from pipeline.teachers.registry import load_teacher
from pipeline.training.live_teacher import LiveTeacher
from tests.benchmarks.figure import Figure, interleaved, ratio
from tests.benchmarks.photograph_training import RATE, SIZE, PhotographTraining, photograph_training

IMAGES, BATCH = 128, 32
PEER = "lightly-train==0.18.0"
PEER_PYTHON = "LIGHTLY_PYTHON"  # variable with the Python of an environment that has it; else one is created
PEER_EPOCHS = (1, 4)


def measure(folder: Path) -> Iterator[Figure]:
    """Time epochs of 128 photographs at 224 px: a ResNet-18 from a ResNet-50 in fp32 with random weights."""
    training = photograph_training(folder, images=IMAGES, batch=BATCH, amp_dtype="bf16")
    backbone = load_teacher("tests.benchmarks.bench_live_teacher:resnet50")
    crops = TeacherCrops(opened_beton(folder), RandomCrop(), 0, backbone.preprocessing)
    live = LiveTeacher(backbone, crops, precision="fp32", device=CPU)
    images = training.a_batch().images[0]
    seconds = interleaved(
        {
            "with the cache": training.with_cache,
            "live teacher": lambda: with_teacher(training, live),
            "student alone": training.student_alone,
            "teacher alone": lambda: [live.embed(images) for _ in range(IMAGES // BATCH)],
        }
    )
    median = {name: statistics.median(values) for name, values in seconds.items()}
    expected = (median["teacher alone"] + median["student alone"]) / median["student alone"]
    found = ratio(seconds, "live teacher", "with the cache")
    rates = {name: IMAGES / value for name, value in median.items()}
    yield Figure(
        name="live-teacher",
        what=f"what the cache saves of an epoch: {found:.2f} x, ResNet-18 at {SIZE} px from a live ResNet-50",
        against=f"(teacher + student) / student, the most that a cache can save: {expected:.2f} x",
        ratio=found / expected,
        unit="of it",
        at_least=0.9,
        seconds=seconds,
        bound=(
            f"{rates['with the cache']:.1f} images/s with the cache, {rates['live teacher']:.1f} live, "
            f"{rates['teacher alone']:.1f} for the teacher alone: the rest of an epoch is the student's own"
        ),
        details={"images/s": rates},
    )
    yield against_lightly(folder, rates["with the cache"])


def with_teacher(training: PhotographTraining, live: LiveTeacher) -> None:
    """Train an epoch as `distill --live-teacher` does."""
    training.epoch += 1
    for batch in live.add_embeddings(training.plain.epoch(training.epoch), training.epoch):
        training.run.train_step(batch, RATE)


def opened_beton(folder: Path) -> Beton:
    """Return the .beton of the photographs."""
    images = open_dataset(folder / "dataset").split("train")
    return open_beton(images.beton, images.labels)


def resnet50():  # type: ignore[no-untyped-def]
    """Return an untrained ResNet-50, which takes as long as a trained one."""
    from torch import nn
    from torchvision.models import resnet50

    network = resnet50()
    network.fc = nn.Identity()
    return network


def against_lightly(folder: Path, rate: float) -> Figure:
    """Time the same student in lightly-train, with a tiny teacher; reported without a bar."""
    python = os.environ.get(PEER_PYTHON) or new_environment(folder / "lightly")
    script = Path(__file__).with_name("lightly_epoch.py")
    out, epochs = folder / "lightly-run", [str(epochs) for epochs in PEER_EPOCHS]
    command = [python, str(script), str(folder / "images"), str(out), str(BATCH), *epochs]
    said = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    epoch_seconds = float(said.splitlines()[-1])
    return Figure(
        name="live-teacher-lightly",
        what=f"images/s of the same ResNet-18 at {SIZE} px, bf16, from the cache of a ResNet-50",
        against=f"{PEER}, distillationv1, from a live ViT of test size",
        ratio=rate * epoch_seconds / IMAGES,
        unit="x its speed",
        bound="its default crops and loader with two workers; its tiny teacher costs almost nothing, a useful one more",
        seconds={"an epoch": [epoch_seconds]},
        details={"images/s": {"with the cache": rate, PEER: IMAGES / epoch_seconds}},
    )


def new_environment(folder: Path) -> str:
    """Install lightly-train into a new environment and return its interpreter."""
    print(f"installing {PEER} into {folder}, which takes minutes and gigabytes", file=sys.stderr)
    venv.create(folder, with_pip=True)
    python = str(folder / "bin/python")
    subprocess.run([python, "-m", "pip", "install", "-q", PEER], check=True)
    return python
