"""Packing one split: its table and its .beton, in one pass over the images; what is there and unchanged is kept."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc

from cache.durable import whole_file
from pipeline.errors import PipelineError
from pipeline.images.beton_writer import write_beton
from pipeline.images.examine import ExaminedImages
from pipeline.images.source_notes import counted, describe_labels, listed
from pipeline.images.sources import Source
from pipeline.images.split_identity import current_identity, identity_of
from pipeline.images.split_table import read_made_of, write_table
from pipeline.images.table_files import read_columns

REASONS_SHOWN = 3


def pack_split(
    out: Path,
    split: str,
    source: Source,
    settings: dict[str, Any],
    workers: int,
    identity: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Write SPLIT.parquet and SPLIT.beton, unless they are there with these images and settings.

    identity: that of the images; None if they were not compared yet. Returns the split's entry in dataset.json.
    Raises PipelineError when no image can be read.
    """
    table, beton = out / f"{split}.parquet", out / f"{split}.beton"
    made_of = read_made_of(table)
    if (
        made_of is None
        or made_of["settings"] != settings
        or made_of["identity"] != (identity or current_identity(split, source, workers))
    ):
        beton.unlink(missing_ok=True)
        table.unlink(missing_ok=True)
        made_of = None
    if made_of is None or not beton.exists():
        with whole_file(beton, resumes=False) as temporary:
            found = write_beton(temporary, source, workers=workers, title=f"{split}: packing", **settings)
            packed = {"identity": _identity(split, source, found), "settings": settings}
            if made_of is None:
                write_table(table, source, found, packed)
            elif packed != made_of or not _has_same_readable(table, found):
                raise PipelineError(
                    f"{split}: other images can be read now than when {table} was written; restore them and run the "
                    "same command again, or pack into a new folder"
                )
        made_of = packed
    return {
        "rows": len(source.names),
        "classes": list(source.classes),
        "identity": made_of["identity"],
        "unreadable": _report(table, split, source),
        "place": source.place,
        "bytes": {"beton": beton.stat().st_size, "parquet": table.stat().st_size},
    }


def _has_same_readable(table: Path, found: ExaminedImages) -> bool:
    """Whether the images that a split's table calls readable are the ones that were decoded now."""
    return bool((read_columns(table, ["readable"])["readable"].to_numpy() == found.table["readable"]).all())


def _identity(split: str, source: Source, found: ExaminedImages) -> dict[str, Any]:
    """Return the identity of images, and warn of nearly black ones. PipelineError if none of them can be read."""
    if len(found.reasons) == len(source.names):
        raise PipelineError(
            f"{split}: none of {len(source.names)} images can be read; {source.names[0]}: {found.reasons[0]}"
        )
    if dark := [source.names[int(row)] for row in np.flatnonzero(found.table["nearly_black"])]:
        print(
            f"warning: {split}: {counted(len(dark), '16-bit image')} with at most 12 bits in use, nearly black as "
            f"decoded, {listed(dark)}: multiply the values by 16 if they are 12-bit images",
            file=sys.stderr,
        )
    return identity_of(split, source, found.table["sha256"])


def _report(table: Path, split: str, source: Source) -> int:
    """Print how many images there are, labelled and unreadable, and the first reasons. Returns how many unreadable."""
    columns = read_columns(table, ["path", "reason"])
    bad = columns.filter(pc.is_valid(columns["reason"]))
    print(f"{split}: {describe_labels(source)}, {len(bad):,} unreadable")
    for row in bad.slice(0, REASONS_SHOWN).to_pylist():
        print(f"  {row['path']}: {row['reason']}")
    if len(bad) > REASONS_SHOWN:
        print(f"  ... all of them with the reason: {table}")
    return len(bad)
