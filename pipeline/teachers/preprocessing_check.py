"""Warnings about registered teachers run with another preprocessing than they were trained with."""

import sys
from collections.abc import Mapping
from typing import Any

from cache.identity import identity_difference
from pipeline.teachers.registry import TEACHERS

# name of a published weights file, the first word of the registry's `weights` -> teacher
TEACHER_OF_FILE = {entry.weights.partition(" ")[0]: name for name, entry in TEACHERS.items() if entry.weights}


def warn_of_preprocessing(teacher: Mapping[str, Any], origin: Mapping[str, str]) -> None:
    """Print a warning to stderr if a store's preprocessing is not its teacher's. teacher: the store's identity."""
    known = known_teacher(origin)
    differences = preprocessing_differences(teacher, known)
    if differences:
        file = f" ({origin['file']})" if "file" in origin else ""
        print(
            f"warning: these embeddings use another preprocessing than the teacher {known}{file} was trained with "
            f"({'; '.join(differences)}), which makes them worse; use `cache-teacher --teacher {known}`",
            file=sys.stderr,
        )


def known_teacher(origin: Mapping[str, str]) -> str:
    """Return the registered teacher that wrote a store, by its weights file or else its name, or "" if there is none.

    The file takes precedence, because files of one architecture often load under another teacher's name.
    """
    name = origin.get("name", "")
    return TEACHER_OF_FILE.get(origin.get("file", "")) or (name if name in TEACHERS else "")


def preprocessing_differences(teacher: Mapping[str, Any], known: str) -> list[str]:
    """Return how a store's preprocessing differs from the known teacher's, field by field.

    Image sizes may differ. A user's own function cannot be compared, so it has no differences.
    """
    found = teacher.get("preprocessing", {})
    if not known or "crop" not in found:
        return []
    own = TEACHERS[known].preprocessing
    at_size = own if found["crop"] == own.crop else own.at(found["crop"])
    return identity_difference(at_size.identity(), found)
