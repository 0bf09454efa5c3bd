"""Stage two: a student, an objective and a cache into the training loop."""

from cache.reader import Split, Store, open_store
from cache.rows import compact
from pipeline.errors import WrongUse
from pipeline.images.beton_check import require_same_images
from pipeline.images.dataset import DatasetSplit, open_dataset
from pipeline.images.subset import subset
from pipeline.models.students import build_student
from pipeline.objectives.objective import Objective
from pipeline.objectives.registry import build_objectives, resolved
from pipeline.runtime.distributed import join, resolve_device, use_every_core
from pipeline.runtime.out_of_memory import explain_out_of_memory
from pipeline.settings.commands import DistillConfig
from pipeline.teachers.preprocessing_check import warn_of_preprocessing
from pipeline.training.live_teacher import LiveTeacher, open_live_teacher
from pipeline.training.loop import Training
from pipeline.training.student_run import StudentRun
from pipeline.training.trainable_rows import chunks_of_run, chunks_there, left_out, require_whole, usable_rows


@explain_out_of_memory("--batch-size", "--image-size", "--anchors")
def distill(*configs: DistillConfig) -> None:
    """Train a student from a cache into a run folder, going on where an interrupted run stopped.

    Several configs, which differ in `student` and `run` alone, share one pass over the images: one loader, one join,
    one set of anchors. Each run ends with the bits that it has alone.
    """
    configs = tuple(map(resolved, configs))
    config = configs[0]
    device = resolve_device(config.device)
    world = join(device)
    use_every_core()
    dataset, store = open_dataset(config.dataset), open_store(config.cache)
    split = joined(store.split("train"), dataset.split("train"), partial=config.partial)
    if world.is_first:
        warn_of_preprocessing(store.teacher, store.origin)
    folders = [each.run for each in configs]
    chunks = chunks_of_run(split, folders, world, device) if config.partial else chunks_there(split)
    chosen = subset(usable_rows(split, chunks), config.subset, config.seed)
    students = [build_student(each.student, image_size=each.image_size, seed=each.seed) for each in configs]
    objectives = build_objectives(config, [student.dim for student in students], split, chosen)
    rows = compact(chosen)
    del chosen  # twice as large, and this function stays until the training ends
    Training(
        command="distill",
        dataset=dataset,
        rows=rows,
        runs=[
            StudentRun(config=each, student=student, objective=objective, world=world, device=device)
            for each, student, objective in zip(configs, students, objectives, strict=True)
        ],
        teacher=split,
        live=live_teacher(config, store, objectives[0], device),
        made_of={
            "dataset": dataset.splits["train"].identity,
            "cache": store.id,
            "teacher": {**store.origin, **store.teacher},
            **({"chunks": chunks} if config.partial else {}),
        },
        left_out=left_out(split, chunks),
        world=world,
        device=device,
    ).run()


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


def joined(split: Split, dataset: DatasetSplit, *, partial: bool = False) -> Split:
    """The cache's split, once it is known to be of these very images, sound and, unless partial, whole."""
    require_same_images(split, dataset)
    if not partial:
        require_whole(split)
    split.verify()
    split.warm()
    return split
