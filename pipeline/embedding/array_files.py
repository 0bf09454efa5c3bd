"""Embeddings as array files: unit-length float32 rows with the images' names, in .npy or .parquet."""

import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from cache.durable import write_file
from pipeline.embedding.alike_rows import warn_of_alike_features
from pipeline.embedding.extract import ExtractionSettings, extract, move_to_device
from pipeline.errors import WrongUse
from pipeline.images.decode import UnreadableImage
from pipeline.images.file_names import escape, one_line
from pipeline.images.sources import Source
from pipeline.models.backbone import Backbone
from pipeline.runtime.device import resolve_device
from pipeline.runtime.outputs import require_writable_file
from pipeline.runtime.progress import Progress
from pipeline.teachers.backbone_spec import BackboneSpec

SUFFIXES = (".npy", ".parquet")
ROWS_AT_ONCE = 1024


def embed_images(
    backbone_spec: BackboneSpec,
    sources: Mapping[str, Source],
    out: Path,
    *,
    device: str = "auto",
    precision: str = "fp32",
    batch_size: int = 128,
    progress: bool = False,
) -> tuple[int, int]:
    """Embed images in this process and write a .npy or .parquet file, one row per image.

    With several splits, each name starts with its split. Returns the number of rows, and how many of them have no
    embedding. Raises WrongUse for any other suffix.
    """
    _require_suffix(out)
    for file in (out, names_file(out)) if out.suffix == ".npy" else (out,):
        require_writable_file(file)
    computes_on = resolve_device(device)
    backbone = backbone_spec.load()
    if backbone_spec.kind == "teacher":
        warn_of_alike_features(backbone)
    move_to_device(backbone, computes_on)
    threads = len(os.sched_getaffinity(0))
    settings = ExtractionSettings(
        device=computes_on, precision=precision, batch_size=batch_size, threads=threads
    )
    names = [
        f"{split}/{name}" if len(sources) > 1 else name for split in sources for name in sources[split].names
    ]
    with Progress(total=len(names), unit=" rows", disable=not progress) as bar:
        embedding = np.concatenate(
            [_unit_rows(backbone, source, settings, bar) for source in sources.values()]
        )
    export_embeddings(names, embedding, out)
    return len(names), int(np.isnan(embedding[:, 0]).sum())


def export_embeddings(names: Sequence[str], embedding: NDArray[np.float32], out: Path) -> None:
    """Write embeddings (N, D) and the names of their images.

    OUT.npy: the array, with NaN where there is no embedding; OUT.names.txt beside it has one name per line, in which a
    line break is written as \\n (see `one_line`).
    OUT.parquet: columns path (string) and embedding (list of float, or null).
    Raises WrongUse for any other suffix.
    """
    _require_suffix(out)
    content = io.BytesIO()
    if out.suffix == ".npy":
        lines = "".join(f"{one_line(name)}\n" for name in names)
        write_file(names_file(out), lines.encode(), resumes=False)
        np.save(content, embedding)
    else:
        _write_parquet([escape(name) for name in names], embedding, content)
    write_file(out, content.getvalue(), resumes=False)


def names_file(out: Path) -> Path:
    """Return the path of the names beside a .npy."""
    return out.with_suffix(".names.txt")


def _require_suffix(out: Path) -> None:
    if out.suffix not in SUFFIXES:
        raise WrongUse(f"{out} ends in {out.suffix!r}; expected {' or '.join(SUFFIXES)}")


def _unit_rows(
    backbone: Backbone, source: Source, settings: ExtractionSettings, bar: Progress
) -> NDArray[np.float32]:
    """Return unit-length rows (n, D), NaN where the image is unreadable or its feature zero or not finite."""

    def read(row: int) -> bytes:
        try:
            return source.read(row)
        except OSError as error:
            raise UnreadableImage(str(error)) from error

    before = bar.n
    rows = range(len(source.names))
    feature = extract(backbone, read, rows, settings, lambda done: bar.move_to(before + done)).feature
    norm = np.linalg.norm(feature.astype(np.float64), axis=1, keepdims=True)
    norm[(norm == 0) | ~np.isfinite(norm)] = np.nan
    return (feature / norm).astype(np.float32)


def _write_parquet(names: Sequence[str], embedding: NDArray[np.float32], content: io.BytesIO) -> None:
    schema = pa.schema([("path", pa.string()), ("embedding", pa.list_(pa.float32()))])
    with pq.ParquetWriter(content, schema) as writer:
        for start in range(0, len(names), ROWS_AT_ONCE):
            rows = [None if np.isnan(row[0]) else row for row in embedding[start : start + ROWS_AT_ONCE]]
            columns = {"path": names[start : start + ROWS_AT_ONCE], "embedding": rows}
            writer.write_table(pa.table(columns, schema=schema))
