"""Stage two: train a student from a cache."""

from typing import Any

import torch

from cache.reader import Split, Store, open_store
from cache.rows import compact
from pipeline.errors import WrongUse
from pipeline.images.beton_check import require_same_images
from pipeline.images.dataset import Dataset, DatasetSplit, open_dataset
from pipeline.images.subset import subset
from pipeline.models.students import build_student, require_trainable
from pipeline.objectives.objective import Objective
from pipeline.objectives.registry import build_objectives
from pipeline.runtime.device import resolve_device
from pipeline.runtime.distributed import ALONE, World, init_distributed, is_main_process, use_all_cores
from pipeline.runtime.out_of_memory import explain_out_of_memory
from pipeline.runtime.precision import choose_algorithms
from pipeline.settings.training import DistillConfig
from pipeline.teachers.preprocessing_check import warn_of_preprocessing
from pipeline.training.live_teacher import CROPS_REVISION, LiveTeacher, open_live_teacher
from pipeline.training.loop import Training
from pipeline.training.monitor import TeacherSplits
from pipeline.training.recorded_run import (
    are_finished,
    dataset_identity,
    require_same_revision,
    require_writable_runs,
    resolved_for_run,
    with_precision,
)
from pipeline.training.replayed_views import open_replay, views_of, with_replayed_views
from pipeline.training.student_run import student_runs
from pipeline.training.trainable_rows import (
    describe_excluded,
    require_complete,
    trainable_rows,
    training_chunks,
    written_chunks,
)


@explain_out_of_memory("--batch-size", "--image-size", "--anchors")
def distill(*configs: DistillConfig) -> None:
    """Train a student from a cache into a run folder, or resume an interrupted run.

    Several configs, which differ in `student` and `run` only, share one pass over the images: one loader and one set of
    anchors. Each run ends with exactly the weights that it would have alone.
    """
    configs = with_precision(tuple(map(resolved_for_run, configs)))
    dataset, store = open_dataset(configs[0].dataset), open_store(configs[0].cache)
    configs = with_replayed_views(configs, store)
    config = configs[0]
    train, folders = dataset.split("train"), [each.run for each in configs]
    uses_labels = config.objective == "supervised"
    made_of: dict[str, Any] = {
        "dataset": train.identity if uses_labels else dataset_identity(train, folders),
        "cache": store.id,
        "teacher": {**store.origin, **store.teacher},
    }
    if are_finished("distill", configs, made_of):
        return
    require_writable_runs(folders)
    device = resolve_device(config.device)
    world = init_distributed(device)
    use_all_cores()
    choose_algorithms(device, deterministic=config.deterministic)
    split = open_split(store.split("train", views=views_of(config)), train, world, partial=config.partial)
    if is_main_process():
        warn_of_preprocessing(store.teacher, store.origin)
    chunks = training_chunks(split, folders, world, device) if config.partial else written_chunks(split)
    chosen = subset(trainable_rows(split, chunks), config.subset, config.seed)
    students = [build_student(each.student, image_size=each.image_size, seed=each.seed) for each in configs]
    for student in students:
        require_trainable(student, world.local_batch_size(config.batch_size))
    objectives = build_objectives(config, [student.dim for student in students], split, chosen)
    revision = objectives[0].revision
    for folder in folders:
        require_same_revision(folder, config.objective, revision)
    made_of |= {"chunks": chunks} if config.partial else {}
    made_of |= {"objective_revision": revision} if revision > 1 else {}
    made_of |= {"live_crops": CROPS_REVISION} if config.live_teacher else {}
    made_of |= objectives[0].made_of()
    rows = compact(chosen)
    del chosen  # twice as large, and this frame lives until training ends
    Training(
        command="distill",
        dataset=dataset,
        rows=rows,
        runs=student_runs(configs, students, objectives, world, device),
        teacher=split,
        monitored=open_monitored(config, store, split, dataset, world),
        replay=open_replay(config, split, objectives[0]),
        live=live_teacher(config, store, train, objectives[0], device),
        made_of=made_of,
        excluded=describe_excluded(split, chunks),
    ).run()


def open_monitored(
    config: DistillConfig, store: Store, train: Split, dataset: Dataset, world: World
) -> TeacherSplits | None:
    """Return the teacher's embeddings that --eval-every compares with, None unless the cache has all of val's."""
    if not config.eval_every or "val" not in store.splits or "val" not in dataset.splits:
        return None
    val = store.split("val", views=1)
    return (
        TeacherSplits(train=train, val=open_split(val, dataset.splits["val"], world))
        if val.complete
        else None
    )


def live_teacher(
    config: DistillConfig, store: Store, images: DatasetSplit, objective: Objective, device: torch.device
) -> LiveTeacher | None:
    """Return the teacher of --live-teacher, or None without it. WrongUse for flags that contradict each other."""
    if not config.live_teacher:
        if config.teacher or config.weights:
            raise WrongUse("--teacher and --weights belong to --live-teacher: give it too, or leave them out")
        return None
    if not objective.needs_teacher:
        raise WrongUse(f"--live-teacher: the objective {config.objective} needs no teacher; leave it out")
    return open_live_teacher(config, store, images, device)


def open_split(split: Split, dataset: DatasetSplit, world: World = ALONE, *, partial: bool = False) -> Split:
    """Return the cache's split, after checking that it is of these images, intact and, unless partial, complete.

    One rank of each machine reads the files, since machines may have copies of their own, and all wait for it.
    """
    require_same_images(split, dataset)
    if not partial:
        require_complete(split)
    with world.together():
        if world.local_rank == 0:
            split.verify()
    split.warm()
    return split
