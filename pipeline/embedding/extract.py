"""Images -> features: batches through a backbone while threads decode the next ones."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cache.layout import Status
from cache.writer import ChunkRows, normalize
from pipeline.images.dataset import DatasetSplit
from pipeline.images.decode import UnreadableImage, decode
from pipeline.images.preprocessing import Box
from pipeline.models.architectures import checked_features, guarded_call
from pipeline.models.backbone import Backbone, stack_images
from pipeline.runtime.prefetch import prefetch

BATCHES_AHEAD = 2
Input = tuple[Tensor, Box]


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


def extract(
    backbone: Backbone,
    read: Callable[[int], bytes],
    rows: Sequence[int],
    settings: ExtractionSettings,
    report: Callable[[int], None] = lambda rows: None,
) -> ExtractedFeatures:
    """Return the features of `rows`, computed in batches that start at the first row.

    The backbone must be on settings.device (see `move_to_device`). read returns an image's bytes by row, or raises
    UnreadableImage; report is called with the number of rows done. The bits depend on batch size and threads.
    """
    torch.set_num_threads(settings.threads)

    def prepare(row: int) -> Input | None:
        try:
            image = decode(read(row))
        except UnreadableImage:
            return None
        return backbone.preprocessing.transform(image), backbone.preprocessing.box(*image.size)

    inputs = prefetch(prepare, rows, settings.threads, BATCHES_AHEAD * settings.batch_size)
    features = ExtractedFeatures(
        feature=np.full((len(rows), backbone.dim), np.nan, np.float32),
        crop=np.full((len(rows), 5), np.nan, np.float32),
        readable=np.zeros(len(rows), np.bool_),
    )
    for start in range(0, len(rows), settings.batch_size):
        batch = list(islice(inputs, settings.batch_size))
        decoded = {start + place: item for place, item in enumerate(batch) if item is not None}
        if decoded:
            places = list(decoded)
            images = stack_images([image for image, _ in decoded.values()], backbone.name)
            features.feature[places] = forward(backbone, images, settings)
            features.crop[places] = [(*box, 0.0) for _, box in decoded.values()]
            features.readable[places] = True
        report(start + len(batch))
    return features


def forward(backbone: Backbone, images: Tensor, settings: ExtractionSettings) -> NDArray[np.float32]:
    """Return the features (B, D) of one batch (B, 3, H, W); both are on the CPU.

    Raises PipelineError if the backbone fails or returns another shape.
    """
    bf16 = settings.precision == "bf16"
    with torch.inference_mode(), torch.autocast(settings.device.type, torch.bfloat16, enabled=bf16):
        output = guarded_call(backbone.module, images.to(settings.device), backbone.name)
    return checked_features(output, len(images), backbone.dim, backbone.name).float().cpu().numpy()


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
