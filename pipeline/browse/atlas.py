"""One table of a gallery, as Embedding Atlas (arXiv 2505.06386) and anything else that reads parquet opens it."""

import shlex
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from cache.durable import whole_file
from pipeline.browse.findings import Findings
from pipeline.browse.gallery import Gallery
from pipeline.browse.thumbnails import Thumbnails
from pipeline.errors import PipelineError
from pipeline.neighbours import nearest_others
from pipeline.runtime.outputs import require_writable_file
from pipeline.runtime.progress import Progress

NEIGHBOURS = 15  # as many as Embedding Atlas computes itself
QUERIES_AT_ONCE = 1_000
ROWS_AT_ONCE = 1_000
NEIGHBOUR_TYPE = pa.struct([("ids", pa.list_(pa.int64())), ("distances", pa.list_(pa.float32()))])
IMAGE_TYPE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def write_atlas(findings: Findings, out: Path) -> None:
    """Find clusters and the first side's map and write them to `out`, one row per image, whole or not at all.

    Columns: row, name, label (null for none), cluster, x, y (of the first side's map), neighbors, image (a JPEG
    thumbnail, null for an image that cannot be read), and for each further side `neighbors NAME`. Neighbours are
    {ids, distances}: the places of images in this table, counted from 0, and 1 - cosine. Raises WrongUse for a file
    that cannot be written.
    """
    require_writable_file(out)
    findings.find_clusters()
    findings.draw_map(0)
    points, gallery = findings.maps[0], findings.gallery
    clusters, cluster_of = findings.clusters, findings.cluster_of
    assert clusters is not None
    assert cluster_of is not None
    assert points is not None
    columns: dict[str, Any] = {
        "row": pa.array(gallery.rows),
        "name": pa.array([printable(gallery.name(index)) for index in range(len(gallery.rows))]),
        "label": pa.array([gallery.label(index) or None for index in range(len(gallery.rows))], pa.string()),
        "cluster": pa.array([cluster_name(number, clusters[number].name) for number in cluster_of.tolist()]),
        "x": pa.array(points[:, 0]),
        "y": pa.array(points[:, 1]),
    }
    for side, embedding in zip(gallery.sides, gallery.embeddings, strict=True):
        name = "neighbors" if "neighbors" not in columns else f"neighbors {side.name}"
        columns[name] = neighbour_column(embedding, name)
    table = pa.table(columns)
    write_table(table, gallery, out)
    print(
        f"wrote {out}, {len(table):,} rows; open it with\n"
        f"embedding-atlas {shlex.quote(str(out))} --x x --y y --neighbors neighbors --image image"
    )


def cluster_name(number: int, most_frequent: str) -> str:
    """Return a cluster's name: its number, from 1, with its most frequent class if the images have labels."""
    return f"{number + 1} {most_frequent}".rstrip()


def printable(name: str) -> str:
    """Return a path as text; bytes that are not UTF-8 become escapes, since parquet's strings must be."""
    return name.encode("utf-8", "backslashreplace").decode()


def neighbour_column(embedding: NDArray[np.float32], name: str) -> pa.ChunkedArray:
    """Return the nearest other rows of each row of an embedding (n, D), as Embedding Atlas reads them."""
    k, parts = min(NEIGHBOURS, len(embedding) - 1), []
    with Progress(total=len(embedding), desc=name, unit="image") as bar:
        for start in range(0, len(embedding), QUERIES_AT_ONCE):
            rows = np.arange(start, min(start + QUERIES_AT_ONCE, len(embedding)))
            near = nearest_others(embedding, k, part=rows)
            cosines = np.einsum("mkd,md->mk", embedding[near], embedding[rows])
            offsets = pa.array(np.arange(len(rows) + 1, dtype=np.int32) * k)
            ids = pa.ListArray.from_arrays(offsets, pa.array(near.ravel()))
            distances = pa.ListArray.from_arrays(offsets, pa.array(np.maximum(1 - cosines, 0).ravel()))
            parts.append(pa.StructArray.from_arrays([ids, distances], fields=list(NEIGHBOUR_TYPE)))
            bar.update(len(rows))
    return pa.chunked_array(parts, NEIGHBOUR_TYPE)


def write_table(table: pa.Table, gallery: Gallery, out: Path) -> None:
    """Write a table with one more column, the thumbnails, which are made part by part; null for an unreadable image."""
    thumbnails, unreadable = Thumbnails(gallery), 0
    schema = table.schema.append(pa.field("image", IMAGE_TYPE))
    with (
        whole_file(out.resolve(), resumes=False) as temporary,
        pq.ParquetWriter(temporary, schema) as writer,
        Progress(total=len(table), desc="thumbnails", unit="image") as bar,
    ):
        for start in range(0, len(table), ROWS_AT_ONCE):
            part = table.slice(start, ROWS_AT_ONCE)
            images: list[dict[str, Any] | None] = []
            for index in range(start, start + len(part)):
                try:
                    image = thumbnails.thumbnail(index)
                    images.append({"bytes": image, "path": printable(gallery.name(index))})
                except PipelineError:
                    unreadable += 1
                    images.append(None)
            writer.write_table(part.append_column(schema.field("image"), [pa.array(images, IMAGE_TYPE)]))
            bar.update(len(part))
    if unreadable:
        what = (
            "1 image cannot be read: it is"
            if unreadable == 1
            else f"{unreadable:,} images cannot be read: they are"
        )
        print(f"warning: {what} null", file=sys.stderr)
