"""The licence of a student's teacher, and what it may mean for the student."""

from collections.abc import Mapping
from typing import Any

from pipeline.teachers.registry import TEACHERS

NOT_RECORDED = "not recorded"
NONE = "none"
# the registry's names -> identifiers in the front matter of model cards
IDENTIFIERS = {
    "MIT": "mit",
    "Apache-2.0": "apache-2.0",
    "BSD-3-Clause": "bsd-3-clause",
    "CC BY-NC 4.0": "cc-by-nc-4.0",
}
UNSETTLED = (
    "Whether a student that imitates a teacher's output is a work made from the teacher's weights is not settled, and "
    "this card is not legal advice."
)


def teacher_name(record: Mapping[str, Any]) -> str:
    """Return the --teacher of a run's cache, "none" for a run without one, or "not recorded" for older runs."""
    if "cache" not in record["made_of"]:
        return NONE
    teacher = record["made_of"].get("teacher", {})
    return str(teacher.get("name") or record["config"].get("teacher") or NOT_RECORDED)


def teacher_licence(record: Mapping[str, Any]) -> str:
    """Return the licence of the teacher's weights from the registry."""
    name = teacher_name(record)
    if name == NONE:
        return NONE
    return TEACHERS[name].licence if name in TEACHERS else NOT_RECORDED


def licence_identifier(licence: str) -> str:
    """Return the licence for a model card's front matter: the teacher's, as the cautious choice, or "unknown"."""
    return IDENTIFIERS.get(licence, "unknown")


def licence_terms(teacher: str, licence: str) -> str:
    """Explain what the teacher's licence may mean for using or sharing the student."""
    if teacher == NONE or licence == "none needed":
        return (
            "No teacher's weights went into this student: whoever trained it chooses its licence. The front matter "
            "says `unknown` until then."
        )
    if licence not in IDENTIFIERS:
        told = "is not recorded" if licence == NOT_RECORDED else f'is given as "{licence}"'
        named = "" if teacher == NOT_RECORDED else f" (teacher: `{teacher}`)"
        return (
            f"The licence of the teacher's weights {told}{named}. Look it up where the weights were "
            f"published before you use or pass on the student. {UNSETTLED}"
        )
    told = f"The weights of the teacher `{teacher}` are under {licence}"
    if "NC" in licence:
        return (
            f"{told}, which allows no commercial use and asks that their authors are named. {UNSETTLED} Until that "
            "is settled, the cautious course is to treat the student the same way: no commercial use, and credit to "
            "the teacher's authors."
        )
    return (
        f"{told}, which allows commercial use and asks that its notice is kept. {UNSETTLED} To be safe, keep the "
        "teacher's notice with the student."
    )
