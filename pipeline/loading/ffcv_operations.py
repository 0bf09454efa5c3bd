"""FFCV's operations on a batch: read rows and labels, decode crops, gather the teacher's rows from the cache.

FFCV would compile the pipeline of each loader anew, for four seconds or more. Here the expensive loops are compiled
once and cached on disk (random_crop.py, cache/gather.py); FFCV calls them from plain Python, a few times per batch.
"""

import ctypes
from collections.abc import Callable
from dataclasses import replace

import pipeline.ffcv_patches  # noqa: F401  before FFCV

# isort: split

import numpy as np
from ffcv.fields.rgb_image import ResizedCropRGBImageDecoder
from ffcv.libffcv import ctypes_imdecode, ctypes_resize
from ffcv.loader import Loader
from ffcv.pipeline.allocation_query import AllocationQuery
from ffcv.pipeline.compiler import Compiler
from ffcv.pipeline.operation import Operation
from ffcv.pipeline.pipeline_spec import PipelineSpec
from ffcv.pipeline.state import State
from ffcv.transforms import ToTensor
from ffcv.traversal_order.base import TraversalOrder

from cache.reader import Split
from pipeline.loading.order import Order
from pipeline.loading.random_crop import (
    CENTER,
    EPOCH_BIT,
    RANDOM,
    ROW_MASK,
    STORED,
    RandomCrop,
    link,
    views_of,
    views_of_by_threads,
)
from pipeline.loading.replay import Replay

Compiler.set_enabled(False)
link(
    resize=ctypes.cast(ctypes_resize, ctypes.c_void_p).value or 0,
    decode_jpeg=ctypes.cast(ctypes_imdecode, ctypes.c_void_p).value or 0,
)


class ResumableOrder(TraversalOrder):
    """An `Order` as FFCV's traversal order, starting at batch `skip`."""

    def __init__(self, order: Order) -> None:
        self.order = order
        self.skip = 0

    def __call__(self, loader: Loader) -> "ResumableOrder":
        """FFCV expects a class here, and calls it with its loader."""
        return self

    def sample_order(self, epoch: int) -> np.ndarray:
        samples = self.order.of_epoch(epoch)[self.skip * self.order.batch :]
        samples |= epoch << EPOCH_BIT  # in place, to save a second array of all rows
        return samples


class CropDecoder(ResizedCropRGBImageDecoder):
    """Decode, crop, resize and flip an image: randomly, seeded by (seed, epoch, row, view), or the centre crop.

    With a Replay, as in its view of the epoch. FFCV's base class provides the state and the buffers.
    """

    # abstract in the base class, where it does not receive the row, which our crops need
    get_crop_generator = None

    def __init__(self, size: int, crop: RandomCrop | Replay | None, seed: int, view: int) -> None:
        super().__init__((size, size))
        self.crop, self.seed, self.view = crop, seed, view

    def generate_code(self) -> Callable:
        loop = views_of_by_threads if Compiler.num_threads > 1 else views_of
        key = (self.seed, self.view)
        replay = self.crop if isinstance(self.crop, Replay) else None
        plan = self.crop if isinstance(self.crop, RandomCrop) else RandomCrop()
        kind = STORED if replay else RANDOM if self.crop else CENTER
        crop = (kind, np.array(plan.scale), np.array(plan.ratio), plan.flip)

        def decode(samples, memory, metadata, storage):  # type: ignore[no-untyped-def]
            destination, scratch = memory
            stored = replay.crops[samples & ROW_MASK] if replay else np.empty((len(samples), 5), np.float32)
            loop(samples, metadata, storage, key, crop, stored, scratch, destination)
            return destination[: len(samples)]

        return decode


class NumberDecoder(Operation):
    """Decode the integer that the .beton holds for each sample: its row, or its label."""

    def declare_state_and_memory(self, previous_state: State) -> tuple[State, AllocationQuery]:
        dtype = np.dtype("<i8")
        return replace(previous_state, jit_mode=True, shape=(), dtype=dtype), AllocationQuery((), dtype)

    def generate_code(self) -> Callable:
        def decode(samples, destination, metadata, storage):  # type: ignore[no-untyped-def]
            destination[: len(samples)] = metadata[samples & ROW_MASK]
            return destination[: len(samples)]

        return decode


class TeacherRows(Operation):
    """Replace row numbers by their cached embeddings, float16 as uint16 bits; follows the decoder of rows.

    Of the center view, or of a Replay's in the epoch.
    """

    def __init__(self, split: Split, replay: Replay | None) -> None:
        super().__init__()
        self.split, self.replay = split, replay

    def declare_state_and_memory(self, previous_state: State) -> tuple[State, AllocationQuery]:
        shape, dtype = (self.split.shape.dim,), np.dtype("<u2")
        return replace(previous_state, jit_mode=True, shape=shape, dtype=dtype), AllocationQuery(shape, dtype)

    def generate_code(self) -> Callable:
        def gather(rows, destination):  # type: ignore[no-untyped-def]
            self.split.take(rows, self.replay.view if self.replay else 0, destination)
            return destination[: len(rows)]

        return gather


def pipelines(
    image_size: int,
    crops: tuple[RandomCrop | Replay | None, ...],
    seed: int,
    teacher: Split | None,
    replay: Replay | None,
) -> dict[str, PipelineSpec | None]:
    """Return FFCV's pipelines of a batch: row, label, one image per view, and the teacher's rows last."""
    specs: dict[str, PipelineSpec | None] = {
        "row": PipelineSpec("row", NumberDecoder(), [ToTensor()]),
        "label": PipelineSpec("label", NumberDecoder(), [ToTensor()]),
        "image": None,
    }
    for view, crop in enumerate(crops):
        decoder = CropDecoder(image_size, crop, seed, view)
        specs[f"view {view}"] = PipelineSpec("image", decoder, [ToTensor()])
    if teacher is not None:
        specs["teacher"] = PipelineSpec("row", NumberDecoder(), [TeacherRows(teacher, replay), ToTensor()])
    return specs
