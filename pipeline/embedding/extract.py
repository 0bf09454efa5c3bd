"""Images -> features: batches through a backbone while threads decode the next ones."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import chain, islice, pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cache.layout import Status
from cache.writer import ChunkRows, normalize
from pipeline.embedding.chunk_pipeline import ChunkPipeline
from pipeline.embedding.inputs import inputs_for
from pipeline.embedding.random_views import Crop, RandomView
from pipeline.images.dataset import DatasetSplit
from pipeline.images.decode import UnreadableImage, decode
from pipeline.loading.staging import start_fetch
from pipeline.models.architectures import checked_features, guarded_call
from pipeline.models.backbone import Backbone
from pipeline.runtime.prefetch import prefetch

BATCHES_AHEAD = 2
Input = tuple[Tensor, Crop]


@dataclass(frozen=True, kw_only=True)
class ExtractionSettings:
    """How features are computed. threads: used by PyTorch, and as many again by the decoder."""

    device: torch.device
    precision: str
    batch_size: int
    threads: int


@dataclass(frozen=True, kw_only=True)
class ExtractedFeatures:
    """feature (n, D) float32, not normalized, and crop (n, 5) float32; NaN where readable (n,) is False."""

    feature: NDArray[np.float32]
    crop: NDArray[np.float32]
    readable: NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class StartedBatch:
    """A batch under way.

    crops: by place among all rows, for the readable ones. fetch: wait for their features (n, D) and return them;
    None if there are none. done: number of rows up to the end of this batch.
    """

    crops: dict[int, Crop]
    fetch: Callable[[], NDArray[np.float32]] | None
    done: int


def extract(
    backbone: Backbone,
    read: Callable[[int], bytes],
    rows: Sequence[int],
    settings: ExtractionSettings,
    report: Callable[[int], None] = lambda rows: None,
    pipeline: ChunkPipeline | None = None,
    view: RandomView | None = None,
) -> ExtractedFeatures:
    """Return the features of `rows`, computed in batches that start at the first row; of centre crops without a view.

    The backbone must be on settings.device (see `move_to_device`). read returns an image's bytes by row, or raises
    UnreadableImage; report is called with the number of rows done. pipeline: shares threads with other calls under
    way (see `pipeline_for`); without one, this call has its own. The bits depend on batch size and threads.
    """
    torch.set_num_threads(settings.threads)
    preprocessing = view.preprocessing if view else backbone.preprocessing
    inputs = inputs_for(preprocessing, backbone.name, settings.device, settings.batch_size)

    def prepare(row: int) -> Input | None:
        try:
            image = decode(read(row))
        except UnreadableImage:
            return None
        if view:
            image, crop = view.cut(row, image)
            return inputs.prepare(image), crop
        return inputs.prepare(image), (*preprocessing.box(*image.size), 0.0)

    def start(images: Sequence[Tensor]) -> Callable[[], NDArray[np.float32]]:
        return start_forward(backbone, inputs.batch(images), settings)

    def started(prepared: Iterator[Input | None]) -> Iterator[StartedBatch]:
        for first in range(0, len(rows), settings.batch_size):
            batch = list(islice(prepared, settings.batch_size))
            decoded = {first + place: item for place, item in enumerate(batch) if item is not None}
            crops = {place: crop for place, (_, crop) in decoded.items()}
            images = [image for image, _ in decoded.values()]
            fetch = (pipeline.run(start, images) if pipeline else start(images)) if images else None
            yield StartedBatch(crops=crops, fetch=fetch, done=first + len(batch))

    ahead = images_ahead(settings)
    prefetched = (
        pipeline.prefetch(prepare, rows) if pipeline else prefetch(prepare, rows, settings.threads, ahead)
    )
    with closing(prefetched) as prepared:
        return collect(one_behind(started(prepared)), len(rows), backbone.dim, report)


def collect(
    batches: Iterable[StartedBatch], rows: int, dim: int, report: Callable[[int], None]
) -> ExtractedFeatures:
    """Wait for the features of each batch in turn, and return those of all `rows` rows."""
    features = ExtractedFeatures(
        feature=np.full((rows, dim), np.nan, np.float32),
        crop=np.full((rows, 5), np.nan, np.float32),
        readable=np.zeros(rows, np.bool_),
    )
    for batch in batches:
        if batch.fetch:
            places = list(batch.crops)
            features.feature[places] = batch.fetch()
            features.crop[places] = list(batch.crops.values())
            features.readable[places] = True
        report(batch.done)
    return features


def images_ahead(settings: ExtractionSettings) -> int:
    """Return the number of images that may be prepared or in progress before their batch starts."""
    return BATCHES_AHEAD * settings.batch_size


def pipeline_for(settings: ExtractionSettings) -> ChunkPipeline:
    """Return the pipeline for chunks that are extracted with these settings, by one thread each."""
    return ChunkPipeline(settings.device, threads=settings.threads, ahead=images_ahead(settings))


def one_behind(batches: Iterable[StartedBatch]) -> Iterator[StartedBatch]:
    """Yield each batch after the next one has started, so that a GPU has work while this process waits for it."""
    return (batch for batch, _ in pairwise(chain(batches, (None,))) if batch)


def forward(backbone: Backbone, images: Tensor, settings: ExtractionSettings) -> NDArray[np.float32]:
    """Return the features (B, D) of one batch (B, 3, H, W), as `start_forward`, after waiting for them."""
    return start_forward(backbone, images, settings)()


def start_forward(
    backbone: Backbone, images: Tensor, settings: ExtractionSettings
) -> Callable[[], NDArray[np.float32]]:
    """Start the forward pass of one batch (B, 3, H, W), and return the function that waits for the features (B, D).

    Raises PipelineError if the backbone fails or returns another shape.
    """
    bf16 = settings.precision == "bf16"
    with torch.inference_mode(), torch.autocast(settings.device.type, torch.bfloat16, enabled=bf16):
        output = guarded_call(backbone.module, images.to(settings.device), backbone.name)
    return start_fetch(checked_features(output, len(images), backbone.dim, backbone.name).float())


def to_chunk_rows(features: ExtractedFeatures) -> ChunkRows:
    """Convert features to what a store holds: unit-length embeddings, norms, crops and statuses."""
    embedding, norm, status = normalize(features.feature)
    status[~features.readable] = Status.UNREADABLE
    return ChunkRows(embedding=embedding, norm=norm, crop=features.crop, status=status)


def image_reader(split: DatasetSplit) -> Callable[[int], bytes]:
    """Return the function that reads a split's images for `extract`.

    It raises UnreadableImage for an image that `pack` could not decode, without trying again.
    """
    source, readable = split.source, split.readable

    def read(row: int) -> bytes:
        if not readable[row]:
            raise UnreadableImage("pack could not decode it")
        return source.read(row)

    return read


def move_to_device(backbone: Backbone, device: torch.device) -> None:
    """Move a backbone to the device, in channels-last memory format: a ResNet-50 then takes 0.67 of the time.

    A user's own model keeps its format: a `view` in its forward pass would fail on channels-last tensors.
    """
    backbone.module.to(device)
    if ":" not in backbone.name:
        backbone.module.to(memory_format=torch.channels_last)
