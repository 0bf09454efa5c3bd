"""Self-supervised pretraining: the training loop with SimCLR, two views and no teacher."""

import numpy as np

from cache.rows import compact
from pipeline.images.dataset import open_dataset
from pipeline.images.subset import subset
from pipeline.loading.color_jitter import ColorJitter
from pipeline.models.students import build_student, require_trainable
from pipeline.objectives.simclr import SimCLR
from pipeline.runtime.device import resolve_device
from pipeline.runtime.distributed import init_distributed, use_all_cores
from pipeline.runtime.out_of_memory import explain_out_of_memory
from pipeline.runtime.precision import choose_algorithms
from pipeline.settings.training import PretrainConfig
from pipeline.training.loop import Training
from pipeline.training.recorded_run import (
    are_finished,
    dataset_identity,
    require_writable_runs,
    with_precision,
)
from pipeline.training.student_run import student_runs


@explain_out_of_memory("--batch-size", "--image-size")
def pretrain(*configs: PretrainConfig) -> None:
    """Pretrain a network with SimCLR into a run folder, or resume an interrupted run.

    Several configs, which differ in `student` and `run` only, share one pass over the images.
    """
    configs = with_precision(configs)
    config = configs[0]
    dataset = open_dataset(config.dataset)
    split = dataset.split("train")
    made_of = {"dataset": dataset_identity(split, [each.run for each in configs])}
    if are_finished("pretrain", configs, made_of):
        return
    require_writable_runs([each.run for each in configs])
    device = resolve_device(config.device)
    world = init_distributed(device)
    use_all_cores()
    choose_algorithms(device, deterministic=config.deterministic)
    unreadable = int((~split.readable).sum())
    students = [build_student(each.student, image_size=each.image_size, seed=each.seed) for each in configs]
    for student in students:
        require_trainable(student, SimCLR.views * world.local_batch_size(config.batch_size))
    objectives = [SimCLR(student.dim, tau=config.tau) for student in students]
    Training(
        command="pretrain",
        dataset=dataset,
        rows=compact(subset(np.flatnonzero(split.readable), config.subset, config.seed)),
        runs=student_runs(configs, students, objectives, world, device),
        color_jitter=ColorJitter(strength=config.jitter, grayscale=config.grayscale),
        made_of=made_of,
        excluded=f"{unreadable:,} unreadable" if unreadable else "",
    ).run()
