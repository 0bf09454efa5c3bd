"""`pack --relabel`: new labels and names for the rows of a dataset, whose images and order stay.

The dataset keeps its former identities, so that caches and runs that were made from it stay valid.
"""

from collections import Counter, defaultdict, deque
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.images.beton_labels import write_labels
from pipeline.images.file_names import escape, unescape
from pipeline.images.image_names import ImageNames
from pipeline.images.source_notes import counted
from pipeline.images.sources import FolderSource, Source
from pipeline.images.split_table import content_hashes, read_made_of, replace_names_and_labels
from pipeline.images.table_files import read_columns

MOVES_SHOWN = 5
NO_LABEL = "no label"


def in_recorded_order(
    table: Path, source: Source, hashes: NDArray[np.uint8]
) -> tuple[Source, NDArray[np.uint8]] | None:
    """Return a source with its rows in the order of a dataset's table, and their hashes (N, 32).

    An image is recognised by its bytes; among equal ones, by its name. Returns None unless both hold the same images.
    Rows of anything but folders must be in the same order.
    """
    order = matching_rows(table, source.names, [each.tobytes() for each in hashes])
    if order is None or (not isinstance(source, FolderSource) and order != list(range(len(order)))):
        return None
    if isinstance(source, FolderSource):
        source = replace(
            source, names=ImageNames(source.names[row] for row in order), labels=source.labels[order]
        )
    return source, hashes[order]


def matching_rows(table: Path, names: Sequence[str], hashes: Sequence[bytes]) -> list[int] | None:
    """Return for each row of a table the row with the same bytes, None unless every row has one of its own."""
    try:
        if read_made_of(table) is None:
            return None
        columns = read_columns(table, ["path", "sha256"])
    except (OSError, pa.ArrowException):
        return None
    recorded = [sha.tobytes() for sha in content_hashes(columns)]
    if Counter(recorded) != Counter(hashes):
        return None
    row_of_name = {name: row for row, name in enumerate(names)}
    order = [row_of_name.get(unescape(path), -1) for path in columns["path"].to_pylist()]
    order = [row if row >= 0 and hashes[row] == sha else -1 for row, sha in zip(order, recorded, strict=True)]
    left: defaultdict[bytes, deque[int]] = defaultdict(deque)
    for row in sorted(set(range(len(names))) - set(order)):
        left[hashes[row]].append(row)
    return [row if row >= 0 else left[sha].popleft() for row, sha in zip(order, recorded, strict=True)]


def relabel_split(
    out: Path, split: str, source: Source, recorded: dict[str, Any], identity: dict[str, Any]
) -> None:
    """Write a split's new labels and names into its .beton and its table, and print what changed.

    source: the images in the order of the dataset's rows. recorded: the split's entry in dataset.json; identity: the
    new one. A .beton of another size than recorded is left for `pack_split` to write.
    """
    table, beton = out / f"{split}.parquet", out / f"{split}.beton"
    print(f"{split}: {what_changed(table, source)}")
    if beton.exists() and beton.stat().st_size == recorded["bytes"]["beton"]:
        write_labels(beton, source.labels)
    else:
        beton.unlink(missing_ok=True)
    replace_names_and_labels(table, source, identity)


def what_changed(table: Path, source: Source) -> str:
    """Return how many labels and names differ from those of a table, as text."""
    columns, made_of = read_columns(table, ["path", "label"]), read_made_of(table)
    assert made_of is not None, table
    classes = made_of["identity"]["classes"]
    before, after = _words(columns["label"].to_numpy(), classes), _words(source.labels, source.classes)
    moves = Counter((old, new) for old, new in zip(before, after, strict=True) if old != new)
    renamed = sum(
        old != escape(new) for old, new in zip(columns["path"].to_pylist(), source.names, strict=True)
    )
    shown = [f"{count:,} from {old} to {new}" for (old, new), count in moves.most_common(MOVES_SHOWN)]
    more = len(moves) - len(shown)
    shown += [f"{more:,} other changes"] if more else []
    changed = f"{moves.total():,} of {counted(len(after), 'label')} changed"
    return "; ".join(
        [f"{changed} ({', '.join(shown)})" if shown else changed, f"{counted(renamed, 'file')} renamed"]
    )


def _words(labels: NDArray[np.int64], classes: Sequence[str]) -> list[str]:
    return [classes[label] if label >= 0 else NO_LABEL for label in labels.tolist()]
