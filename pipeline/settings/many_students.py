"""One command for several students: the settings of each, which are trained together in one pass over the images."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.errors import WrongUse


def configs_of(config: type, values: Mapping[str, Any]) -> tuple[Any, ...]:
    """The settings that a command's values are: one config, or one for each of several students.

    values: by field; `student` may be a tuple of names. One student has the run folder itself, of several each has
    RUN/STUDENT. Raises WrongUse for a student that is given twice and for a folder that is one student's already.
    """
    students = values.get("student")
    if not isinstance(students, tuple):
        return (config(**values),)
    if len(students) == 1:
        return (config(**{**values, "student": students[0]}),)
    folders = run_folders(values["run"], students)
    return tuple(
        config(**{**values, "student": name, "run": folder})
        for name, folder in zip(students, folders, strict=True)
    )


def run_folders(run: Path, students: tuple[str, ...]) -> list[Path]:
    """The run folder of each of several students. WrongUse as `configs_of` says."""
    folders = [run / folder_name(student) for student in students]
    for number, (student, folder) in enumerate(zip(students, folders, strict=True)):
        if folder in folders[:number]:
            raise WrongUse(
                f"--student {student}: {folder} is to be the run folder of two students; give each once, or train "
                "them by commands of their own"
            )
    if (run / "config.json").exists():
        raise WrongUse(
            f"{run} is the run of one student, and several need a folder to have theirs in: name another"
        )
    return folders


def folder_name(student: str) -> str:
    """A student's name as that of a folder: timm/vit_tiny -> timm-vit_tiny, package.module:build -> ...-build."""
    return re.sub(r"[^\w.+-]+", "-", student)
