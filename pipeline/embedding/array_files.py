"""Embeddings for other programs: float32 unit vectors with the images' names, as .npy or .parquet."""

import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from tqdm import tqdm

from cache.durable import write_file
from pipeline.embedding.extract import Settings, extract, move
from pipeline.errors import WrongUse
from pipeline.images.decode import UnreadableImage
from pipeline.images.sources import Source, escape
from pipeline.models.backbone import Backbone
from pipeline.runtime.distributed import resolve_device
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
    """Embed images in this process into a .npy or .parquet file, a row an image.

    Gives how many rows, and how many have no embedding. With several splits, a name begins with its split.
    """
    _require_suffix(out)
    device = resolve_device(device)
    backbone = backbone_spec.load()
    move(backbone, device)
    threads = len(os.sched_getaffinity(0))
    settings = Settings(device=device, precision=precision, batch_size=batch_size, threads=threads)
    names = [
        f"{split}/{name}" if len(sources) > 1 else name for split in sources for name in sources[split].names
    ]
    with tqdm(total=len(names), unit=" rows", disable=not progress, dynamic_ncols=True) as bar:
        embedding = np.concatenate(
            [_unit_rows(backbone, source, settings, bar) for source in sources.values()]
        )
    export_embeddings(names, embedding, out)
    return len(names), int(np.isnan(embedding[:, 0]).sum())


def export_embeddings(names: Sequence[str], embedding: NDArray[np.float32], out: Path) -> None:
    """Write embeddings (N, D) with the names of their images.

    OUT.npy: the array, NaN where there is no embedding, and OUT.names.txt beside it, a name a line.
    OUT.parquet: columns path (string) and embedding (list of float, null where there is none).
    """
    _require_suffix(out)
    escaped = [escape(name) for name in names]
    content = io.BytesIO()
    if out.suffix == ".npy":
        write_file(out.with_suffix(".names.txt"), "".join(f"{name}\n" for name in escaped).encode())
        np.save(content, embedding)
    else:
        _write_parquet(escaped, embedding, content)
    write_file(out, content.getvalue())


def _require_suffix(out: Path) -> None:
    if out.suffix not in SUFFIXES:
        raise WrongUse(f"{out} ends in {out.suffix!r}; expected {' or '.join(SUFFIXES)}")


def _unit_rows(backbone: Backbone, source: Source, settings: Settings, bar: tqdm) -> NDArray[np.float32]:
    """(n, D) float32 unit rows; NaN where the image is unreadable or its feature zero or non-finite."""

    def read(row: int) -> bytes:
        try:
            return source.read(row)
        except OSError as error:
            raise UnreadableImage(str(error)) from error

    before = bar.n
    rows = range(len(source.names))
    feature = extract(backbone, read, rows, settings, lambda done: bar.update(before + done - bar.n)).feature
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
