"""The tasks that dask workers run: each computes one chunk of a store and writes it."""

import threading
import uuid
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import torch
from distributed import get_worker, secede

from cache.layout import ChunkKey, SplitShape
from cache.writer import ChunkRows, write_chunk
from pipeline.embedding.chunk_pipeline import ChunkPipeline
from pipeline.embedding.extract import (
    ExtractionSettings,
    extract,
    image_reader,
    move_to_device,
    pipeline_for,
    to_chunk_rows,
)
from pipeline.embedding.random_views import WHOLE_SCALE, random_view_of
from pipeline.errors import PipelineError
from pipeline.images.dataset import DatasetSplit, open_dataset
from pipeline.models.backbone import Backbone
from pipeline.teachers.backbone_spec import BackboneSpec

_loading = threading.Lock()  # two chunks of one process start at once, and need the same backbone


@dataclass(frozen=True, kw_only=True)
class Job:
    """What all chunks of one run have in common.

    device: by name, which each worker resolves for itself. threads: of each worker; None means its share of the cores
    of its machine. crop_scale: of random views.
    """

    spec: BackboneSpec
    weights_sha256: str
    store: Path
    device: str
    precision: str
    batch_size: int
    threads: int | None = None
    crop_scale: tuple[float, float] = WHOLE_SCALE
    id: str = field(default_factory=lambda: uuid.uuid4().hex)

    def settings(self, device: torch.device, threads: int) -> ExtractionSettings:
        """Return the settings of a worker that computes on this device with so many threads."""
        return ExtractionSettings(
            device=device, precision=self.precision, batch_size=self.batch_size, threads=threads
        )


@dataclass(frozen=True, kw_only=True)
class Chunk:
    """One chunk of one split. images: the hash of the split's images, from the dataset's identity."""

    dataset: Path
    data: Path
    split: str
    images: str
    key: ChunkKey
    rows: range

    @property
    def place(self) -> tuple[str, int, int]:
        """Split, view and number of the chunk: which of all chunks it is."""
        return self.split, self.key.view, self.key.index


def chunk_count(rows: Iterable[int], dim: int) -> int:
    """Return the number of chunks of a store whose splits have these numbers of rows, one view each."""
    return sum(SplitShape(rows=count, views=1, dim=dim).chunks for count in rows)


def compute(job: Job, settings: ExtractionSettings, chunk: Chunk, topic: str) -> dict[int, int]:
    """Compute and write one chunk, in a worker. Returns the number of rows per status.

    The worker's number of threads does not matter: the client decides how many chunks are under way.
    """
    secede()
    log_event = get_worker().log_event
    rows = embed_chunk(job, settings, chunk, lambda done: log_event(topic, (chunk.place, done)))
    return dict(Counter(rows.status.tolist()))


def embed_chunk(
    job: Job, settings: ExtractionSettings, chunk: Chunk, report: Callable[[int], None]
) -> ChunkRows:
    """Compute one chunk, write it to the store and return it."""
    with _loading:
        backbone = _load_backbone(job.spec, job.weights_sha256, settings.device)
        split = _open_split(chunk.dataset, chunk.data, chunk.split, chunk.images)
        pipeline = _open_pipeline(job.id, settings)
    view = random_view_of(backbone, chunk.key.view, job.crop_scale)
    features = extract(backbone, image_reader(split), chunk.rows, settings, report, pipeline, view)
    rows = to_chunk_rows(features)
    pipeline.write(write_chunk, job.store, chunk.split, chunk.key, rows)
    return rows


@lru_cache(maxsize=1)
def _open_pipeline(job: str, settings: ExtractionSettings) -> ChunkPipeline:
    return pipeline_for(settings)


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
