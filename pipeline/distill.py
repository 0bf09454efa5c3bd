"""Stage two: a student, an objective and a cache into the training loop."""

from cache.errors import IdentityMismatch
from cache.layout import identity_difference
from cache.reader import Split, open_store
from pipeline.config import DistillConfig
from pipeline.dataset import DatasetSplit, open_dataset
from pipeline.distributed import join, leave, resolve_device
from pipeline.objectives.registry import build_objective
from pipeline.students import build_student
from pipeline.subset import subset
from pipeline.training import Training


def distill(config: DistillConfig) -> None:
    """Train a student from a cache into a run folder, going on where an interrupted run stopped."""
    device = resolve_device(config.device)
    world = join(device)
    dataset, store = open_dataset(config.dataset), open_store(config.cache)
    split = joined(store.split("train"), dataset.splits["train"])
    rows = subset(split.eligible(), config.subset, config.seed)
    student = build_student(config.student, image_size=config.image_size, seed=config.seed)
    training = Training(
        command="distill",
        config=config,
        dataset=dataset,
        rows=rows,
        student=student,
        objective=build_objective(config, student.dim, split, rows),
        teacher=split,
        made_of={"dataset": dataset.splits["train"].identity, "cache": store.id},
        world=world,
        device=device,
    )
    try:
        training.run(config.run)
    finally:
        leave()


def joined(split: Split, dataset: DatasetSplit) -> Split:
    """The cache's split, once it is known to be whole, sound and of this very dataset; StoreError otherwise."""
    differences = identity_difference(dataset.identity, split.dataset)
    if differences:
        raise IdentityMismatch(f"{split.path} was made of another dataset: {'; '.join(differences)}")
    split.require_complete()
    split.verify()
    return split
