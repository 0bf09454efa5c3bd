"""Stage two: a student, an objective and a cache into the training loop."""

from cache.errors import IdentityMismatch
from cache.layout import identity_difference
from cache.reader import Split, Store, open_store
from pipeline.config import DistillConfig
from pipeline.dataset import DatasetSplit, open_dataset
from pipeline.distributed import join, leave, resolve_device
from pipeline.errors import WrongUse
from pipeline.live import LiveTeacher, open_live_teacher
from pipeline.objectives.objective import Objective
from pipeline.objectives.registry import build_objective, resolved
from pipeline.students import build_student
from pipeline.subset import subset
from pipeline.training import Training


def distill(config: DistillConfig) -> None:
    """Train a student from a cache into a run folder, going on where an interrupted run stopped."""
    config = resolved(config)
    device = resolve_device(config.device)
    world = join(device)
    dataset, store = open_dataset(config.dataset), open_store(config.cache)
    split = joined(store.split("train"), dataset.splits["train"])
    rows = subset(split.eligible(), config.subset, config.seed)
    student = build_student(config.student, image_size=config.image_size, seed=config.seed)
    objective = build_objective(config, student.dim, split, rows)
    training = Training(
        command="distill",
        config=config,
        dataset=dataset,
        rows=rows,
        student=student,
        objective=objective,
        teacher=split,
        live=live_teacher(config, store, objective, device),
        made_of={
            "dataset": dataset.splits["train"].identity,
            "cache": store.id,
            "teacher": {**store.origin, **store.teacher},
        },
        world=world,
        device=device,
    )
    try:
        training.run(config.run)
    finally:
        leave()


def live_teacher(
    config: DistillConfig, store: Store, objective: Objective, device: str
) -> LiveTeacher | None:
    """The teacher to be run on each crop, or None if its cache is to serve. WrongUse for flags that do not fit."""
    if not config.live_teacher:
        if config.teacher or config.weights:
            raise WrongUse("--teacher and --weights belong to --live-teacher; give that too, or neither")
        return None
    if not objective.needs_teacher:
        raise WrongUse(f"--live-teacher: {config.objective} asks no teacher about a crop; leave it out")
    return open_live_teacher(config, store, device)


def joined(split: Split, dataset: DatasetSplit) -> Split:
    """The cache's split, once it is known to be whole, sound and of this very dataset; StoreError otherwise."""
    differences = identity_difference(dataset.identity, split.dataset)
    if differences:
        raise IdentityMismatch(f"{split.path} was made of another dataset: {'; '.join(differences)}")
    split.require_complete()
    split.verify()
    return split
