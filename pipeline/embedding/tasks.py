"""One task of stage one: compute one chunk of a store and write it."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from cache.layout import ChunkKey
from cache.writer import ChunkRows, write_chunk
from pipeline.embedding.extract import Settings, as_rows, extract, move, reader
from pipeline.errors import PipelineError
from pipeline.images.dataset import DatasetSplit, open_dataset
from pipeline.models.backbone import Backbone
from pipeline.teachers.backbone_spec import BackboneSpec


@dataclass(frozen=True, kw_only=True)
class Job:
    """What every chunk of one extraction shares."""

    spec: BackboneSpec
    weights_sha256: str
    store: Path
    settings: Settings


@dataclass(frozen=True, kw_only=True)
class Chunk:
    """One task: a chunk of one split; images is the hash of the split's dataset identity."""

    dataset: Path
    data: Path
    split: str
    images: str
    key: ChunkKey
    rows: range


def embed_chunk(job: Job, chunk: Chunk, report: Callable[[int], None]) -> ChunkRows:
    """Compute one chunk and write it into the store; what was written comes back."""
    backbone = _load_backbone(job.spec, job.weights_sha256, job.settings.device)
    split = _open_split(chunk.dataset, chunk.data, chunk.split, chunk.images)
    features = extract(backbone, reader(split), chunk.rows, job.settings, report)
    rows = as_rows(features)
    write_chunk(job.store, chunk.split, chunk.key, rows)
    return rows


@lru_cache(maxsize=1)
def _load_backbone(spec: BackboneSpec, weights_sha256: str, device: str) -> Backbone:
    backbone = spec.load()
    if backbone.weights_sha256 != weights_sha256:
        raise PipelineError(
            f"the weights of {backbone.name} changed meanwhile, or differ between machines: "
            f"expected sha256 {weights_sha256[:12]}, found {backbone.weights_sha256[:12]}"
        )
    move(backbone, device)
    return backbone


@lru_cache(maxsize=8)
def _open_split(dataset: Path, data: Path, split: str, images: str) -> DatasetSplit:
    opened = open_dataset(dataset, data).splits[split]
    if opened.identity["images"] != images:
        raise PipelineError(f"the dataset {dataset} changed meanwhile; run the command again")
    return opened
