"""What FFCV runs for each batch: rows and labels read, crops decoded, the teacher's rows gathered from the cache.

FFCV would compile each loader's pipeline anew, for four seconds and more. Here what costs time is compiled once and
kept on disk (random_crop.py, cache/gather.py), and FFCV calls it from plain Python, a few times a batch.
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
from pipeline.loading.random_crop import EPOCH_BIT, ROW_MASK, RandomCrop, link, views_of, views_of_by_threads

Compiler.set_enabled(False)
link(
    resize=ctypes.cast(ctypes_resize, ctypes.c_void_p).value or 0,
    decode_jpeg=ctypes.cast(ctypes_imdecode, ctypes.c_void_p).value or 0,
)


class ResumableOrder(TraversalOrder):
    """Hands an `Order` to FFCV, from batch `skip` on. FFCV calls it with its loader, hence `__call__`."""

    def __init__(self, order: Order) -> None:
        self.order = order
        self.skip = 0

    def __call__(self, loader: Loader) -> "ResumableOrder":
        return self

    def sample_order(self, epoch: int) -> np.ndarray:
        samples = self.order.of_epoch(epoch)[self.skip * self.order.batch :]
        samples |= epoch << EPOCH_BIT  # in place: a second array of all rows would only be kept by the heap
        return samples


class CropDecoder(ResizedCropRGBImageDecoder):
    """Decodes an image, cuts and resizes it, and flips it: randomly from (seed, epoch, row, view), or the centre.

    FFCV's abstract base gives the state and the buffers; only the draws and the flip are ours.
    """

    get_crop_generator = None  # the base wants one; ours needs the row, which FFCV does not pass

    def __init__(self, size: int, crop: RandomCrop | None, seed: int, view: int) -> None:
        super().__init__((size, size))
        self.crop, self.seed, self.view = crop, seed, view

    def generate_code(self) -> Callable:
        loop = views_of_by_threads if Compiler.num_threads > 1 else views_of
        key = (self.seed, self.view)
        plan = self.crop or RandomCrop()
        crop = (self.crop is not None, np.array(plan.scale), np.array(plan.ratio), plan.flip)

        def decode(samples, memory, metadata, storage):  # type: ignore[no-untyped-def]
            destination, scratch = memory
            loop(samples, metadata, storage, key, crop, scratch, destination)
            return destination[: len(samples)]

        return decode


class NumberDecoder(Operation):
    """The integer that the .beton holds for each sample: its row, or its label."""

    def declare_state_and_memory(self, previous_state: State) -> tuple[State, AllocationQuery]:
        dtype = np.dtype("<i8")
        return replace(previous_state, jit_mode=True, shape=(), dtype=dtype), AllocationQuery((), dtype)

    def generate_code(self) -> Callable:
        def decode(samples, destination, metadata, storage):  # type: ignore[no-untyped-def]
            destination[: len(samples)] = metadata[samples & ROW_MASK]
            return destination[: len(samples)]

        return decode


class TeacherRows(Operation):
    """Follows the row decoder: replaces row numbers by the cache's embeddings, float16 carried as uint16."""

    def __init__(self, split: Split, view: int = 0) -> None:
        super().__init__()
        self.split, self.view = split, view

    def declare_state_and_memory(self, previous_state: State) -> tuple[State, AllocationQuery]:
        shape, dtype = (self.split.shape.dim,), np.dtype("<u2")
        return replace(previous_state, jit_mode=True, shape=shape, dtype=dtype), AllocationQuery(shape, dtype)

    def generate_code(self) -> Callable:
        def gather(rows, destination):  # type: ignore[no-untyped-def]
            self.split.take(rows, self.view, destination)
            return destination[: len(rows)]

        return gather


def pipelines(
    image_size: int, crops: tuple[RandomCrop | None, ...], seed: int, teacher: Split | None
) -> dict[str, PipelineSpec | None]:
    """FFCV's description of a batch: row, label, one image a view, and the teacher's rows last."""
    specs: dict[str, PipelineSpec | None] = {
        "row": PipelineSpec("row", NumberDecoder(), [ToTensor()]),
        "label": PipelineSpec("label", NumberDecoder(), [ToTensor()]),
        "image": None,
    }
    for view, crop in enumerate(crops):
        decoder = CropDecoder(image_size, crop, seed, view)
        specs[f"view {view}"] = PipelineSpec("image", decoder, [ToTensor()])
    if teacher is not None:
        specs["teacher"] = PipelineSpec("row", NumberDecoder(), [TeacherRows(teacher), ToTensor()])
    return specs
