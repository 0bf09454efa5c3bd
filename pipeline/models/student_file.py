"""student.safetensors: a run's trained student, opened as a backbone."""

import json
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from pipeline.errors import PipelineError, WrongUse
from pipeline.images.preprocessing import IMAGENET
from pipeline.models.backbone import Backbone, Recipe, freeze
from pipeline.models.checkpoints import load_safetensors, load_strictly, save_safetensors
from pipeline.models.resampled_positions import RESAMPLED, resample_positions
from pipeline.models.state_dict_layout import load_problems
from pipeline.models.students import Student, build_student
from pipeline.runtime.code_identity import is_same_python

STUDENT_FILE = "student.safetensors"  # in a run folder


def student_recipe(path: Path, image_size: int | None = None) -> Recipe:
    """Read a student from the safetensors file of its run or its export.

    Its preprocessing is that of evaluation, at the training size or at `image_size`; half precision becomes single.
    """
    state, metadata = load_safetensors(path)
    try:
        name, trained_at = metadata["student"], int(metadata["image_size"])
        mean, std = tuple(json.loads(metadata["mean"])), tuple(json.loads(metadata["std"]))
        feature = metadata["feature"]
    except (KeyError, ValueError, TypeError) as error:
        raise PipelineError(f"{path} lacks the metadata of a student: {error!r}") from error
    size = image_size or trained_at
    student = build_student(name, image_size=size, seed=0)
    module, code = student.network, student.code if "code" in metadata else ""
    _warn_of_other_code(path, name, metadata.get("code"), code)
    if size != trained_at and load_problems(module.state_dict(), state):
        resampled = resample_positions(name, module, state, trained_at)
        if resampled is not None:
            state, feature = resampled, feature + RESAMPLED
    load_strictly(module, state, str(path))
    preprocessing = replace(IMAGENET, mean=mean, std=std).at(size)
    return Recipe(module=module, architecture=name, feature=feature, preprocessing=preprocessing, code=code)


def _warn_of_other_code(path: Path, name: str, trained: str | None, code: str) -> None:
    if is_same_python(trained) and trained != code:
        print(
            f"warning: the code of {name} is not the code that {path} was trained with; its features differ unless the "
            "change does not matter",
            file=sys.stderr,
        )


def load_run_student(run: Path, *, image_size: int | None = None) -> Backbone:
    """Open the student of a run folder, or of a .safetensors or .onnx file written by `export`.

    image_size: another input size, in pixels. Raises WrongUse if `run` does not exist or has no student yet.
    """
    if not run.is_dir() and run.suffix not in (".safetensors", ".onnx"):
        raise WrongUse(
            f"the run folder {run} does not exist; give a run folder, or a file written by `export`"
        )
    if run.suffix == ".onnx" and not run.is_dir():
        from pipeline.models.onnx_student import onnx_recipe  # here, as its library is slow to import

        recipe = onnx_recipe(run, image_size)
        return freeze(recipe, recipe.architecture)
    file = run / STUDENT_FILE if run.is_dir() else run
    if file != run and not file.exists():
        raise WrongUse(
            f"the run {run} has no student yet, as it has no checkpoint: repeat its command, or give another run"
        )
    recipe = student_recipe(file, image_size)
    return freeze(recipe, recipe.architecture)


def save_student(run: Path, student: Student, metadata: Mapping[str, str]) -> None:
    """Write RUN/student.safetensors: the student without its head, under its architecture's own names.

    The student's name, image size, width, feature, mean and std are added to the metadata.
    """
    own = {
        "student": student.name,
        "image_size": str(student.image_size),
        "dim": str(student.dim),
        "feature": student.feature,
        "mean": json.dumps(IMAGENET.mean),
        "std": json.dumps(IMAGENET.std),
        **({"code": student.code} if student.code else {}),
    }
    save_safetensors(run / STUDENT_FILE, student.network.state_dict(), {**metadata, **own})
