"""Three students in one pass over the images, against three runs one after another."""

import itertools
import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cache.anchors import AnchorWindow
from cache.reader import Split
from pipeline.images.dataset import Dataset, open_dataset
from pipeline.images.pack import pack
from pipeline.loading.batch import Batch
from pipeline.models.student_file import STUDENT_FILE
from pipeline.models.students import build_student
from pipeline.objectives.compress import Compress1q
from pipeline.objectives.queues import AnchorQueue
from pipeline.objectives.registry import resolved
from pipeline.objectives.streamed import SimilarityLoss
from pipeline.runtime.device import CPU
from pipeline.runtime.distributed import World, use_all_cores
from pipeline.runtime.precision import usual_precision
from pipeline.settings.commands import PackConfig
from pipeline.settings.many_students import folder_name
from pipeline.settings.training import DistillConfig
from pipeline.training.loop import Training
from pipeline.training.student_run import StudentRun
from tests.benchmarks.figure import Figure, interleaved, ratio
from tests.benchmarks.photographs import write_photographs
from tests.benchmarks.written_store import written_store

STUDENTS = ("torchvision/mobilenet_v3_small", "torchvision/shufflenet_v2_x0_5", "torchvision/mnasnet0_5")
IMAGES, BATCH, STORED, SIZE = 768, 128, 256, 64
DIM, ANCHORS, STORE_ROWS, TAU = 2048, 16_384, 20_480, 0.04


@dataclass(kw_only=True)
class Passes:
    """Runs of `distill` into new folders: set-up, one epoch, checkpoints and logs."""

    folder: Path
    dataset: Dataset
    teacher: Split
    number: Iterator[int]

    def together(self) -> Path:
        """Train all students in one pass."""
        return self.train(STUDENTS)

    def one_after_another(self) -> list[Path]:
        """Train each student in a run of its own."""
        return [self.train((student,)) for student in STUDENTS]

    def train(self, students: tuple[str, ...]) -> Path:
        out = self.folder / f"pass-{next(self.number)}"
        runs = [self.student_run(student, out / folder_name(student)) for student in students]
        for run in runs[1:]:
            run.objective.share(runs[0].objective)
        self.training(runs).run()
        return out

    def student_run(self, student: str, out: Path) -> StudentRun:
        config = resolved(
            DistillConfig(
                dataset=self.folder / "dataset",
                cache=self.folder / "store.zarr",
                run=out,
                student=student,
                image_size=SIZE,
                epochs=1,
                batch_size=BATCH,
                lr=0.01,
                amp_dtype=usual_precision(CPU),
            )
        )
        network = build_student(student, image_size=SIZE, seed=0)
        window = AnchorWindow(self.teacher.eligible(), ANCHORS, BATCH, seed=0)
        objective = Compress1q(AnchorQueue(self.teacher, window), student_dim=network.dim, tau=TAU)
        return StudentRun(config=config, student=network, objective=objective, world=World(), device=CPU)

    def training(self, runs: list[StudentRun]) -> Training:
        return Training(
            command="distill",
            dataset=self.dataset,
            rows=np.arange(IMAGES),
            runs=runs,
            made_of={},
            teacher=self.teacher,
        )

    def batches(self) -> list[Batch]:
        """Return an epoch of images joined with teacher rows, the first part that a pass shares."""
        return list(self.training([self.student_run(STUDENTS[0], self.folder / "none")]).loader.epoch(0))


def measure(folder: Path) -> Iterator[Figure]:
    """Time an epoch of 768 photographs, cropped to 64 px: three small students, 1q, K 16,384, D 2048."""
    use_all_cores()
    write_photographs(folder / "images", IMAGES, (STORED, STORED))
    pack(PackConfig(data=folder / "images", out=folder / "dataset"))
    teacher = written_store(folder / "store.zarr", rows=STORE_ROWS, dim=DIM)
    passes = Passes(
        folder=folder, dataset=open_dataset(folder / "dataset"), teacher=teacher, number=itertools.count()
    )
    require_same_students(passes.together(), passes.one_after_another())
    seconds = interleaved(
        {
            "one pass": passes.together,
            "one after another": passes.one_after_another,
            "images and join": passes.batches,
            "teacher side": compute_teacher_side(teacher, passes.batches()),
        },
        warm=0,
    )
    median = {name: statistics.median(values) for name, values in seconds.items()}
    shared = 2 * (median["images and join"] + median["teacher side"])
    yield Figure(
        name="students-together",
        what=f"three students in one pass ({', '.join(STUDENTS)}) at {SIZE} px, K {ANCHORS:,}, D {DIM}",
        against="three runs one after another",
        ratio=ratio(seconds, "one pass", "one after another"),
        unit="x the time",
        at_most=0.8,
        seconds=seconds,
        bound=(
            f"two runs save {shared:.1f} s of shared work (images and join {median['images and join']:.2f} s a run, of "
            f"which decoding overlaps with training; the teacher's side of the loss {median['teacher side']:.2f} s); "
            f"{median['one after another'] - median['one pass']:.1f} s are saved with the set-up, and the rest is each "
            "student's own; the weights equal those of separate runs"
        ),
        details={"images": IMAGES, "batch": BATCH},
    )


def compute_teacher_side(teacher: Split, batches: list[Batch]):  # type: ignore[no-untyped-def]
    """Return a function that computes the teacher's distribution over its anchors for each batch."""
    window = AnchorWindow(teacher.eligible(), ANCHORS, BATCH, seed=0)
    queue = AnchorQueue(teacher, window)

    def call() -> None:
        for step, batch in enumerate(batches):
            queue.move_to(step)
            loss = SimilarityLoss(tau=TAU, self_index=queue.slots_of(batch.rows))
            loss.teacher_side(batch.teacher, queue.anchors, queue.anchors)

    return call


def require_same_students(together: Path, alone: list[Path]) -> None:
    """Raise AssertionError unless both ways give the same students, to the last byte."""
    for student, own in zip(STUDENTS, alone, strict=True):
        pair = [folder / folder_name(student) / STUDENT_FILE for folder in (together, own)]
        assert pair[0].read_bytes() == pair[1].read_bytes(), student
