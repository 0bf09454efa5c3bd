"""What a worker does: images -> features, batch after batch, decoded in threads ahead of the model."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cache.layout import Status
from cache.writer import ChunkRows, normalise
from pipeline.images.dataset import DatasetSplit
from pipeline.images.decode import UnreadableImage, decode
from pipeline.images.preprocessing import Box, Transform
from pipeline.models.backbone import Backbone

BATCHES_AHEAD = 2
Input = tuple[Tensor, Box]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How features are computed. threads: of torch, and of decoding."""

    device: str
    precision: str
    batch_size: int
    threads: int


@dataclass(frozen=True, kw_only=True)
class Features:
    """feature (n, D) float32 not normalised, crop (n, 5) float32; NaN where readable (n,) is False."""

    feature: NDArray[np.float32]
    crop: NDArray[np.float32]
    readable: NDArray[np.bool_]


def extract(
    backbone: Backbone,
    read: Callable[[int], bytes],
    rows: Sequence[int],
    settings: Settings,
    report: Callable[[int], None] = lambda rows: None,
) -> Features:
    """Features of rows, in batches that begin at the first of them; the module is on settings.device.

    read gives a row's bytes, or raises UnreadableImage; report hears how many rows are done. The bits depend
    on batch size and threads.
    """
    torch.set_num_threads(settings.threads)
    features = Features(
        feature=np.full((len(rows), backbone.dim), np.nan, np.float32),
        crop=np.full((len(rows), 5), np.nan, np.float32),
        readable=np.zeros(len(rows), np.bool_),
    )
    for start, batch in _batches(backbone.preprocessing, read, rows, settings):
        good = [start + place for place, one in enumerate(batch) if one is not None]
        inputs = [one for one in batch if one is not None]
        if inputs:
            features.feature[good] = forward(
                backbone, torch.stack([tensor for tensor, _ in inputs]), settings
            )
            features.crop[good] = [(*box, 0.0) for _, box in inputs]
            features.readable[good] = True
        report(start + len(batch))
    return features


def forward(backbone: Backbone, images: Tensor, settings: Settings) -> NDArray[np.float32]:
    """One batch (B, 3, H, W) on the CPU -> features (B, D) on the CPU."""
    bf16 = settings.precision == "bf16"
    with torch.inference_mode(), torch.autocast(settings.device, torch.bfloat16, enabled=bf16):
        return backbone.module(images.to(settings.device)).float().cpu().numpy()


def as_rows(features: Features) -> ChunkRows:
    """Features as a store keeps them: unit embeddings, norms, crops and statuses."""
    embedding, norm, status = normalise(features.feature)
    status[~features.readable] = Status.UNREADABLE
    return ChunkRows(embedding=embedding, norm=norm, crop=features.crop, status=status)


def _batches(
    preprocessing: Transform, read: Callable[[int], bytes], rows: Sequence[int], settings: Settings
) -> Iterator[tuple[int, list[Input | None]]]:
    """(place of the batch's first row, inputs), with the next batches being decoded meanwhile."""

    def prepare(row: int) -> Input | None:
        try:
            image = decode(read(row))
        except UnreadableImage:
            return None
        return preprocessing.transform(image), preprocessing.box(*image.size)

    ahead: deque[tuple[int, Iterator[Input | None]]] = deque()
    with ThreadPoolExecutor(settings.threads) as pool:
        for start in range(0, len(rows), settings.batch_size):
            ahead.append((start, pool.map(prepare, rows[start : start + settings.batch_size])))
            if len(ahead) > BATCHES_AHEAD:
                first, inputs = ahead.popleft()
                yield first, list(inputs)
        for first, inputs in ahead:
            yield first, list(inputs)


def reader(split: DatasetSplit) -> Callable[[int], bytes]:
    """A split's images by row, for `extract`; one that could not be decoded when it was packed is not tried."""
    source, readable = split.source, split.readable

    def read(row: int) -> bytes:
        if not readable[row]:
            raise UnreadableImage("it could not be decoded when it was packed")
        return source.read(row)

    return read


def move(backbone: Backbone, device: str) -> None:
    """Put a backbone where it is to run, its convolutions with channels last: a ResNet-50 takes 0.67 of the time.

    But not a network of a person's own, which may count on the usual order (`view` fails in the other).
    """
    backbone.module.to(device)
    if ":" not in backbone.name:
        backbone.module.to(memory_format=torch.channels_last)
