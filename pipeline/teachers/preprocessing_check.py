"""Whether a store's teacher, if it is a registered one, was fed with what it was trained with."""

import sys
from collections.abc import Mapping
from typing import Any

from cache.identity import identity_difference
from pipeline.teachers.registry import TEACHERS

# A published weights file's name, with which the registry's words on where it is begin, and the teacher it is of.
OWNERS = {entry.weights.partition(" ")[0]: name for name, entry in TEACHERS.items() if entry.weights}


def warn_of_preprocessing(teacher: Mapping[str, Any], origin: Mapping[str, str]) -> None:
    """Say on stderr what differs from the known preprocessing, if anything does; teacher: a store's identity."""
    known = known_teacher(origin)
    differences = preprocessing_differences(teacher, known)
    if differences:
        told = " of the file " + origin["file"] if "file" in origin else ""
        print(
            f"warning: the teacher {known}{told} was trained with another preprocessing than these embeddings are "
            f"made with ({'; '.join(differences)}); they will serve worse than its own: make them with "
            f"`cache-teacher --teacher {known}`",
            file=sys.stderr,
        )


def known_teacher(origin: Mapping[str, str]) -> str:
    """The registered teacher that a store was made by, empty if none: that of its weights file, else that of its name.

    The file decides, because one architecture's files often fit another's name, and run without complaint.
    """
    name = origin.get("name", "")
    return OWNERS.get(origin.get("file", "")) or (name if name in TEACHERS else "")


def preprocessing_differences(teacher: Mapping[str, Any], known: str) -> list[str]:
    """What a store's teacher was fed with that the known one was not trained with, field by field.

    Another size is no fault: the known preprocessing is compared at the store's. A person's own function cannot be
    compared, and differs in nothing.
    """
    found = teacher.get("preprocessing", {})
    if not known or "crop" not in found:
        return []
    own = TEACHERS[known].preprocessing
    at_size = own if found["crop"] == own.crop else own.at(found["crop"])
    return identity_difference(at_size.identity(), found)
