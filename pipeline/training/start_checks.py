"""What a run needs later on, checked before its folder is written."""

from copy import deepcopy

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.errors import PipelineError, WrongUse, first_line
from pipeline.images.dataset import Dataset
from pipeline.images.labelled import label_problem
from pipeline.settings.training import DistillConfig, PretrainConfig
from pipeline.training.student_run import StudentRun
from pipeline.training.tracker import require_tracker


def require_monitored(dataset: Dataset, rows: NDArray[np.integer], *, has_teacher: bool) -> None:
    """Raise WrongUse unless --eval-every finds what it compares.

    That is labelled images of the same classes in val and these rows of train, or the teacher's embeddings of val.
    """
    problem = label_problem(dataset, rows)
    if problem and not has_teacher:
        raise WrongUse(
            f"--eval-every needs labelled images in train and val, but {problem}; pack both from the same class "
            "folders, or cache the teacher's embeddings of val too, or leave --eval-every out"
        )


def require_trainable_head(run: StudentRun) -> None:
    """Raise WrongUse if an objective's head cannot train on this rank's share of a batch: batch norm needs two images.

    `require_trainable` in models/students.py tries the student itself.
    """
    batch, world = run.config.batch_size, run.world
    if world.local_batch_size(batch) * run.objective.views > 1:
        return
    try:
        with torch.no_grad():
            deepcopy(run.network[1]).train()(torch.zeros(1, run.student.dim, device=run.device))
    except ValueError as error:
        ranks = f" on {world.size} ranks" if world.size > 1 else ""
        raise WrongUse(
            f"--batch-size {batch}{ranks} is one image per step and rank, on which the head of "
            f"{run.objective.describe()} cannot be trained ({first_line(error)}); give a larger --batch-size, or "
            "fewer ranks"
        ) from error


def require_tools(config: DistillConfig | PretrainConfig, device: torch.device) -> None:
    """Raise unless what --compile and --tracker need is there."""
    if config.compile:
        require_compiler(device)
    if config.tracker:
        require_tracker(config.tracker)


def require_compiler(device: torch.device) -> None:
    """Raise PipelineError unless torch.compile works on this machine, tried on a small function."""
    try:
        torch.compile(lambda values: values.relu() + 1)(torch.ones(2, device=device))
    except Exception as error:  # PyTorch raises many types, and private ones
        raise PipelineError(
            f"--compile: torch.compile does not work here ({first_line(error)}); install what it needs, such as a C++ "
            "compiler, or leave --compile out"
        ) from error
