"""student.safetensors: the student of a run folder, written by training and opened as a backbone."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from pipeline.errors import PipelineError, WrongUse
from pipeline.images.preprocessing import IMAGENET
from pipeline.models.backbone import Backbone, Recipe, freeze
from pipeline.models.checkpoints import (
    load_safetensors,
    load_strictly,
    save_safetensors,
)
from pipeline.models.students import Student, build_student


def student_recipe(path: Path, image_size: int | None = None) -> Recipe:
    """A network that this project trained, from the safetensors file of its run or its export.

    Its input is that of its evaluation, at the size it was trained at or another; half precision becomes single.
    """
    state, metadata = load_safetensors(path)
    try:
        name, trained_at = metadata["student"], int(metadata["image_size"])
        mean, std = tuple(json.loads(metadata["mean"])), tuple(json.loads(metadata["std"]))
        feature = metadata["feature"]
    except (KeyError, ValueError, TypeError) as error:
        raise PipelineError(f"{path} does not say which student it holds: {error!r}") from error
    size = image_size or trained_at
    module = build_student(name, image_size=size, seed=0).network
    load_strictly(module, state, str(path))
    preprocessing = replace(IMAGENET, mean=mean, std=std).at(size)
    return Recipe(module=module, architecture=name, feature=feature, preprocessing=preprocessing)


def load_run_student(run: Path, *, image_size: int | None = None) -> Backbone:
    """The student of a run folder, or of a .safetensors that `export` wrote, as it is evaluated.

    image_size: another than its own, in px. Raises WrongUse where there is neither.
    """
    if not run.is_dir() and run.suffix != ".safetensors":
        raise WrongUse(f"the run folder {run} does not exist; give one, or a .safetensors of `export`")
    recipe = student_recipe(run / "student.safetensors" if run.is_dir() else run, image_size)
    return freeze(recipe, recipe.architecture)


def save_student(run: Path, student: Student, metadata: Mapping[str, str]) -> None:
    """Write RUN/student.safetensors: the student without head, under its architecture's own names.

    Beside the caller's metadata it says the student's name, image size, width, feature, mean and std.
    """
    own = {
        "student": student.name,
        "image_size": str(student.image_size),
        "dim": str(student.dim),
        "feature": student.feature,
        "mean": json.dumps(IMAGENET.mean),
        "std": json.dumps(IMAGENET.std),
    }
    save_safetensors(run / "student.safetensors", student.network.state_dict(), {**metadata, **own})
