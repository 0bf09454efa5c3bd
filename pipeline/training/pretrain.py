"""Self-supervised from scratch: the training loop with SimCLR, two views and no teacher."""

import numpy as np

from cache.rows import compact
from pipeline.images.dataset import open_dataset
from pipeline.images.subset import subset
from pipeline.loading.color_jitter import ColorJitter
from pipeline.models.students import build_student
from pipeline.objectives.simclr import SimCLR
from pipeline.runtime.distributed import join, resolve_device, use_every_core
from pipeline.runtime.out_of_memory import explain_out_of_memory
from pipeline.settings.commands import PretrainConfig
from pipeline.training.loop import Training
from pipeline.training.student_run import StudentRun


@explain_out_of_memory("--batch-size", "--image-size")
def pretrain(*configs: PretrainConfig) -> None:
    """Train a network by SimCLR into a run folder, going on where an interrupted run stopped.

    Several configs, which differ in `student` and `run` alone, share one pass over the images.
    """
    config = configs[0]
    device = resolve_device(config.device)
    world = join(device)
    use_every_core()
    dataset = open_dataset(config.dataset)
    split = dataset.split("train")
    unreadable = int((~split.readable).sum())
    students = [build_student(each.student, image_size=each.image_size, seed=each.seed) for each in configs]
    Training(
        command="pretrain",
        dataset=dataset,
        rows=compact(subset(np.flatnonzero(split.readable), config.subset, config.seed)),
        runs=[
            StudentRun(
                config=each,
                student=student,
                objective=SimCLR(student.dim, tau=each.tau),
                world=world,
                device=device,
            )
            for each, student in zip(configs, students, strict=True)
        ],
        colour=ColorJitter(strength=config.jitter, grayscale=config.grayscale),
        made_of={"dataset": split.identity},
        left_out=f"{unreadable:,} unreadable" if unreadable else "",
        world=world,
        device=device,
    ).run()
