"""Several students in one command: one config each, trained together in one pass over the images."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.errors import WrongUse


def configs_of(config: type, values: Mapping[str, Any]) -> tuple[Any, ...]:
    """Build a command's config from its values, or one config for each of several students.

    values: by field; `student` may be a tuple of names. A single student uses the run folder itself, several use
    RUN/STUDENT each. Raises WrongUse for a student given twice, and for a run folder that already holds one run.
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
    """Return the run folder of each of several students. Raises WrongUse like `configs_of`."""
    folders = [run / folder_name(student) for student in students]
    for number, (student, folder) in enumerate(zip(students, folders, strict=True)):
        if folder in folders[:number]:
            raise WrongUse(
                f"--student {student}: two students would use the run folder {folder}; give each student once, or "
                "train them with separate commands"
            )
    if (run / "config.json").exists():
        raise WrongUse(
            f"{run} is the run of a single student; several students need a folder without a run: choose another"
        )
    return folders


def folder_name(student: str) -> str:
    """Return a student's name as a folder name: timm/vit_tiny -> timm-vit_tiny, module:build -> module-build."""
    return re.sub(r"[^\w.+-]+", "-", student)
