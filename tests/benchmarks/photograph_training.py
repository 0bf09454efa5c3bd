"""A student trained by 1q on photographs, for the benchmarks of training: K 16,384, D 2048."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cache.anchors import AnchorWindow
from pipeline.images.pack import pack
from pipeline.loading.batch import Batch
from pipeline.loading.image_loader import ImageLoader
from pipeline.loading.order import Order
from pipeline.loading.random_crop import RandomCrop
from pipeline.models.students import build_student
from pipeline.objectives.compress import Compress1q
from pipeline.objectives.queues import AnchorQueue
from pipeline.objectives.registry import resolved
from pipeline.runtime.device import CPU
from pipeline.runtime.distributed import World, use_all_cores
from pipeline.runtime.precision import usual_precision
from pipeline.settings.commands import PackConfig
from pipeline.settings.training import DistillConfig
from pipeline.training.student_run import StudentRun
from tests.benchmarks.photographs import write_photographs
from tests.benchmarks.written_store import written_store

STORED, SIZE, DIM, ANCHORS, STORE_ROWS = 256, 224, 2048, 16_384, 20_480
RATE = 0.01


@dataclass(kw_only=True)
class PhotographTraining:
    """One student with a loader that joins a store, and the same loader without a join."""

    run: StudentRun
    joined: ImageLoader
    plain: ImageLoader
    epoch: int = 0

    def with_cache(self) -> None:
        """Train an epoch as `distill` does."""
        self.epoch += 1
        for batch in self.joined.epoch(self.epoch):
            self.run.train_step(batch, RATE)

    def student_alone(self) -> None:
        """Run an epoch of forward and backward passes, without head, loss or optimiser."""
        self.epoch += 1
        student = self.run.student
        for batch in self.plain.epoch(self.epoch):
            student.zero_grad()
            with self.run.autocast():
                features = student(batch.images[0])
            features.float().sum().backward()

    def a_batch(self) -> Batch:
        """Return one batch with its teacher rows."""
        return next(iter(self.joined.epoch(0)))


def photograph_training(
    folder: Path,
    *,
    images: int,
    batch: int,
    student: str = "resnet18",
    size: int = SIZE,
    amp_dtype: str | None = None,
) -> PhotographTraining:
    """Pack photographs, write a store and build the student, all in `folder`. size: of its input, in pixels.

    amp_dtype: None means what `distill` takes on this machine.
    """
    use_all_cores()
    photographs = write_photographs(folder / "images", images, (STORED, STORED))
    pack(PackConfig(data=photographs, out=folder / "dataset"))
    teacher = written_store(folder / "store.zarr", rows=STORE_ROWS, dim=DIM)
    order = Order(rows=np.arange(images), batch=batch)
    joined, plain = (
        ImageLoader(
            folder / "dataset/train.beton",
            order,
            image_size=size,
            crops=(RandomCrop(),),
            teacher=split,
        )
        for split in (teacher, None)
    )
    config = resolved(
        DistillConfig(
            dataset=folder / "dataset",
            cache=folder / "store.zarr",
            run=folder / "run",
            student=student,
            image_size=size,
            batch_size=batch,
            amp_dtype=amp_dtype or usual_precision(CPU),
        )
    )
    network = build_student(student, image_size=size, seed=0)
    window = AnchorWindow(teacher.eligible(), ANCHORS, batch, seed=0)
    objective = Compress1q(AnchorQueue(teacher, window), student_dim=network.dim)
    run = StudentRun(config=config, student=network, objective=objective, world=World(), device=CPU)
    run.model = run.wrap_model()
    return PhotographTraining(run=run, joined=joined, plain=plain)
