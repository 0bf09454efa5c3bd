"""Self-supervised from scratch: the training loop with SimCLR, two views and no teacher."""

import numpy as np

from pipeline.colour import ColourJitter
from pipeline.config import PretrainConfig
from pipeline.dataset import open_dataset
from pipeline.distributed import join, leave, resolve_device
from pipeline.memory import memory_in_words
from pipeline.objectives.simclr import SimCLR
from pipeline.students import build_student
from pipeline.subset import subset
from pipeline.training import Training


@memory_in_words("--batch-size", "--image-size")
def pretrain(config: PretrainConfig) -> None:
    """Train a network by SimCLR into a run folder, going on where an interrupted run stopped."""
    device = resolve_device(config.device)
    world = join(device)
    dataset = open_dataset(config.dataset)
    split = dataset.split("train")
    unreadable = int((~split.readable).sum())
    student = build_student(config.student, image_size=config.image_size, seed=config.seed)
    training = Training(
        command="pretrain",
        config=config,
        dataset=dataset,
        rows=subset(np.flatnonzero(split.readable), config.subset, config.seed),
        student=student,
        objective=SimCLR(student.dim, tau=config.tau),
        colour=ColourJitter(strength=config.jitter, grayscale=config.grayscale),
        made_of={"dataset": split.identity},
        left_out=f"{unreadable:,} unreadable" if unreadable else "",
        world=world,
        device=device,
    )
    try:
        training.run(config.run)
    finally:
        leave()
