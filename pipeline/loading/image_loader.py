"""The only file that reads with FFCV: batches of images, rows, labels and the teacher's cached rows.

The join happens in FFCV's pipeline: a batch's row numbers index the mapped chunks of the cache, so no process, queue or
copy stands between an image and its teacher embedding.

FFCV would compile each loader's pipeline anew, for four seconds and more. Here what costs time is compiled once and
kept on disk (crops.py, cache/gather.py), and FFCV calls it from plain Python, a few times a batch.
"""

import ctypes
import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pipeline.loading.quick_ffcv  # noqa: F401  before FFCV

# isort: split

import numpy as np
import torch
from ffcv.fields.rgb_image import ResizedCropRGBImageDecoder
from ffcv.libffcv import ctypes_imdecode, ctypes_resize
from ffcv.loader import Loader, loader
from ffcv.loader.epoch_iterator import EpochIterator
from ffcv.pipeline.allocation_query import AllocationQuery
from ffcv.pipeline.compiler import Compiler
from ffcv.pipeline.operation import Operation
from ffcv.pipeline.pipeline_spec import PipelineSpec
from ffcv.pipeline.state import State
from ffcv.reader import Reader
from ffcv.transforms import ToTensor
from ffcv.traversal_order.base import TraversalOrder
from ffcv.types import ALLOC_TABLE_TYPE, HeaderType

from cache.reader import Split
from cache.sigbus import require_kept
from cache.unmapped_rows import require_read
from pipeline.errors import PipelineError
from pipeline.images.preprocessing import IMAGENET
from pipeline.loading.color_jitter import ColourJitter
from pipeline.loading.mapped_beton import MappedPictures, sizes, table, watched
from pipeline.loading.pixels import imagenet_table, look_up
from pipeline.loading.random_crop import (
    EPOCH_BIT,
    ROW_MASK,
    RandomCrop,
    link,
    stream,
    views_of,
    views_of_by_threads,
)
from pipeline.objectives.objective import Batch

BATCHES_AHEAD = 2

Compiler.set_enabled(False)
link(
    resize=ctypes.cast(ctypes_resize, ctypes.c_void_p).value or 0,
    decode_jpeg=ctypes.cast(ctypes_imdecode, ctypes.c_void_p).value or 0,
)


@dataclass(frozen=True, kw_only=True)
class Order:
    """Which rows come when: a pure function of (seed, epoch), dealt to `world` ranks batch by batch."""

    rows: np.ndarray
    batch: int
    seed: int = 0
    shuffle: bool = True
    drop_last: bool = True
    rank: int = 0
    world: int = 1

    @property
    def batches(self) -> int:
        """Batches that one rank sees in an epoch."""
        count = len(self.rows) / (self.batch * self.world)
        return math.floor(count) if self.drop_last else math.ceil(count)

    def of_epoch(self, epoch: int) -> np.ndarray:
        """This rank's rows in order, a new int64 array: of each global batch, the `batch` rows in turn for the rank."""
        rows = self.rows.astype(np.int64)
        if self.shuffle:
            np.random.default_rng((self.seed, epoch)).shuffle(rows)
        if self.drop_last:
            rows = rows[: self.batches * self.batch * self.world]
        if self.world > 1:
            rows = rows.reshape(-1, self.world, self.batch)[:, self.rank].reshape(-1)
        return rows


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


class MappedReader(Reader):
    """FFCV's reader with its tables left in the file."""

    def read_metadata(self) -> None:
        self.content, self.rows = watched(Path(self._fname)), int(self.num_samples)
        start = HeaderType.itemsize + self.field_descriptors.nbytes
        self.metadata = table(self.content, start, self.metadata_type, self.rows)

    def read_allocation_table(self) -> None:
        start = int(self.header["alloc_table_ptr"])
        self.sizes = sizes(table(self.content, start, ALLOC_TABLE_TYPE, self.rows))


class TellingIterator(EpochIterator):
    """FFCV's iterator, whose thread would end at an error without a word, and who waits for a batch would for ever."""

    error: Exception | None = None

    def run(self) -> None:
        try:
            super().run()
        except Exception as error:
            self.error = error
            self.output_queue.put(None)  # the end


loader.Reader, loader.OSCacheManager, loader.EpochIterator = MappedReader, MappedPictures, TellingIterator


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


class ImageLoader:
    """Batches of one .beton, joined to a cache where one is given.

    beton: the file. order: which rows, in which order. image_size: pixels. crops: one entry a view, None for the
    centre. teacher: the split of the cache whose view 0 is joined; its rows must all be there. colour: what
    happens to a view's colours, drawn from (seed, epoch, batch).
    Images come as float32 (B, 3, H, W), channels last in memory, normalised with ImageNet's mean and deviation.
    """

    def __init__(
        self,
        beton: Path,
        order: Order,
        *,
        image_size: int,
        crops: tuple[RandomCrop | None, ...] = (None,),
        seed: int = 0,
        teacher: Split | None = None,
        colour: ColourJitter | None = None,
        workers: int = 1,
        device: torch.device | str = "cpu",
    ) -> None:
        self.beton, self.order, self.device = beton, order, torch.device(device)
        self.colour, self.seed = colour, seed
        self.views, self.joined = len(crops), teacher is not None
        self.mean = torch.tensor(IMAGENET.mean, device=self.device).view(1, 3, 1, 1)
        self.std = torch.tensor(IMAGENET.std, device=self.device).view(1, 3, 1, 1)
        self.table = imagenet_table()
        self.resumable = ResumableOrder(order)
        self.draws = torch.Generator()  # of colours; seeded anew for each batch
        threads = torch.get_num_threads()
        self.loader = Loader(
            str(beton),
            batch_size=order.batch,
            num_workers=min(workers, len(os.sched_getaffinity(0))),  # more, and FFCV raises
            os_cache=True,
            order=self.resumable,
            indices=(),  # of FFCV's own orders
            drop_last=order.drop_last,
            batches_ahead=BATCHES_AHEAD,
            pipelines=pipelines(image_size, crops, seed, teacher),
        )
        torch.set_num_threads(threads)  # a Loader sets torch's threads to its own number
        self.loader.first_traversal_order = range(len(order.rows))  # FFCV keeps the rows, and asks how many

    def __len__(self) -> int:
        return self.order.batches

    def epoch(self, epoch: int, skip: int = 0) -> Iterator[Batch]:
        """The batches of an epoch from number `skip` on.

        Raises CorruptStore if a file was cut short meanwhile, PipelineError if a picture cannot be decoded.
        """
        self.resumable.skip = skip
        self.loader.next_epoch = epoch
        threads = torch.get_num_threads()
        batches = iter(self.loader)
        torch.set_num_threads(threads)
        try:
            for number, fields in enumerate(batches, start=skip):
                require_kept()
                require_read()
                self.draws.manual_seed(int(stream(self.seed, epoch, number, self.order.rank)))
                yield self.batch(fields)
            if batches.error:
                require_kept()
                raise PipelineError(
                    f"{self.beton} cannot be decoded ({batches.error!r}): delete it and run `pack` again, which makes "
                    "it anew"
                ) from batches.error
        finally:
            batches.close()

    def batch(self, fields: tuple[torch.Tensor, ...]) -> Batch:
        """FFCV's buffers are a ring that it writes again: everything kept is copied here."""
        rows, labels, *rest = fields
        teacher = rest.pop().view(torch.float16) if self.joined else None
        return Batch(
            images=tuple(self.normalise(pixels) for pixels in rest),
            rows=rows.clone(),
            labels=labels.clone().to(self.device),
            teacher=None if teacher is None else teacher.clone().to(self.device, non_blocking=True),
        )

    def normalise(self, pixels: torch.Tensor) -> torch.Tensor:
        """uint8 (B, H, W, 3) -> normalised float32 (B, 3, H, W) on the device."""
        if self.device.type == "cpu" and not self.colour:
            return look_up(pixels, self.table)
        images = pixels.to(self.device, non_blocking=True).permute(0, 3, 1, 2).float().div_(255)
        if self.colour:
            images = self.colour(images, self.draws)
        return images.sub_(self.mean).div_(self.std)


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
