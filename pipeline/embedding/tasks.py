"""The tasks that dask workers run: each computes one chunk of a store and writes it."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch

from cache.layout import ChunkKey, SplitShape
from cache.writer import ChunkRows, write_chunk
from pipeline.embedding.extract import (
    ExtractionSettings,
    extract,
    image_reader,
    move_to_device,
    to_chunk_rows,
)
from pipeline.errors import PipelineError
from pipeline.images.dataset import DatasetSplit, open_dataset
from pipeline.models.backbone import Backbone
from pipeline.teachers.backbone_spec import BackboneSpec


@dataclass(frozen=True, kw_only=True)
class Job:
    """What all chunks of one run have in common."""

    spec: BackboneSpec
    weights_sha256: str
    store: Path
    settings: ExtractionSettings


@dataclass(frozen=True, kw_only=True)
class Chunk:
    """One chunk of one split. images: the hash of the split's images, from the dataset's identity."""

    dataset: Path
    data: Path
    split: str
    images: str
    key: ChunkKey
    rows: range


def chunk_count(rows: Iterable[int], dim: int) -> int:
    """Return the number of chunks of a store whose splits have these numbers of rows, one view each."""
    return sum(SplitShape(rows=count, views=1, dim=dim).chunks for count in rows)


def embed_chunk(job: Job, chunk: Chunk, report: Callable[[int], None]) -> ChunkRows:
    """Compute one chunk, write it to the store and return it."""
    backbone = _load_backbone(job.spec, job.weights_sha256, job.settings.device)
    split = _open_split(chunk.dataset, chunk.data, chunk.split, chunk.images)
    rows = to_chunk_rows(extract(backbone, image_reader(split), chunk.rows, job.settings, report))
    write_chunk(job.store, chunk.split, chunk.key, rows)
    return rows


@lru_cache(maxsize=1)
def _load_backbone(spec: BackboneSpec, weights_sha256: str, device: torch.device) -> Backbone:
    backbone = spec.load()
    if backbone.weights_sha256 != weights_sha256:
        raise PipelineError(
            f"the weights of {backbone.name} changed during the run, or differ between machines: "
            f"expected sha256 {weights_sha256[:12]}, found {backbone.weights_sha256[:12]}"
        )
    move_to_device(backbone, device)
    return backbone


@lru_cache(maxsize=8)
def _open_split(dataset: Path, data: Path, split: str, images: str) -> DatasetSplit:
    opened = open_dataset(dataset, data).splits[split]
    if opened.identity["images"] != images:
        raise PipelineError(f"the dataset {dataset} changed during the run; run the command again")
    return opened
