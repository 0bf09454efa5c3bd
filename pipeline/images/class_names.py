"""Names of the classes of a dataset whose labels are columns of numbers or words."""

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from pipeline.errors import WrongUse
from pipeline.images.table_columns import numbered

MOST_UNNAMED = 100_000  # a larger label is probably not a class but some other number


def class_names(data: Path, parts: Sequence[tuple[pa.ChunkedArray, tuple[str, ...]]]) -> tuple[str, ...]:
    """Return the class names: labels that are words, those that the parts name, classes.txt, or the label numbers.

    parts: for each file its labels, as `class_values`, and the names that it gives to their numbers, () for none.
    Raises WrongUse for labels that are words in one file and numbers in another, and for numbers without a name.
    """
    labelled = [labels for labels, _ in parts if labels.null_count < len(labels)]
    words = [labels for labels in labelled if pa.types.is_large_string(labels.type)]
    if words:
        if len(words) < len(labelled):
            raise WrongUse(f"the labels in {data} are words in some files and numbers in others")
        return tuple(
            sorted({word for part in words for word in part.unique().to_pylist() if word is not None})
        )
    labels = numbered([labels for labels, _ in parts], ())
    highest, lowest = int(labels.max()), int(labels.min())
    if lowest < -1:
        raise WrongUse(f"{data}: a label is {lowest}; expected 0 or more, or -1 for none")
    known = {names for _, names in parts} - {()}
    if len(known) > 1:
        raise WrongUse(f"the files in {data} name different classes")
    listed = data / "classes.txt"
    if not known and listed.exists():
        known = {_listed(listed)}
    if not known and highest > MOST_UNNAMED:
        raise WrongUse(
            f"{data}: a label is {highest}, but more than {MOST_UNNAMED:,} classes need names; "
            "list them in classes.txt, one per line"
        )
    classes = known.pop() if known else tuple(str(label) for label in range(highest + 1))
    if highest >= len(classes):
        raise WrongUse(f"{data} names {len(classes)} classes, but a label is {highest}")
    return classes


def _listed(path: Path) -> tuple[str, ...]:
    try:
        # not splitlines, which also breaks a name at characters such as U+2028
        return tuple(line.strip() for line in path.read_text("utf-8").split("\n") if line.strip())
    except ValueError as error:
        raise WrongUse(f"{path} is not text in UTF-8: {error}") from error
