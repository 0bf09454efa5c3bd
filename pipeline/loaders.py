"""The only file that reads with FFCV: batches of images, rows, labels and the teacher's cached rows.

The join happens inside FFCV's compiled pipeline: a batch's row numbers index the mapped chunks of the cache, so
no process, queue or copy stands between an image and its teacher embedding.
"""

import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from ffcv.fields.rgb_image import IMAGE_MODES, ResizedCropRGBImageDecoder
from ffcv.libffcv import imdecode, resize_crop
from ffcv.loader import Loader
from ffcv.pipeline.allocation_query import AllocationQuery
from ffcv.pipeline.compiler import Compiler
from ffcv.pipeline.operation import Operation
from ffcv.pipeline.pipeline_spec import PipelineSpec
from ffcv.pipeline.state import State
from ffcv.transforms import ToTensor
from ffcv.traversal_order.base import TraversalOrder

from cache.gather import gather_rows
from cache.reader import Split
from pipeline.colour import ColourJitter
from pipeline.crops import RandomCrop, centre_crop, random_crop, stream, uniform
from pipeline.objectives.objective import Batch
from pipeline.preprocessing import IMAGENET

BATCHES_AHEAD = 2
# An FFCV sample number carries the epoch above this bit, so that a decoder is a pure function of its arguments.
EPOCH_BIT = 40
ROW_MASK = (1 << EPOCH_BIT) - 1


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
        """This rank's rows in order: of each global batch, the run of `batch` rows that falls to the rank."""
        rows = self.rows
        if self.shuffle:
            rows = np.random.default_rng((self.seed, epoch)).permutation(rows)
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
        rows = self.order.of_epoch(epoch)[self.skip * self.order.batch :]
        return rows.astype(np.int64) | (epoch << EPOCH_BIT)


class CropDecoder(ResizedCropRGBImageDecoder):
    """Decodes an image, cuts and resizes it, and flips it: randomly from (seed, epoch, row, view), or the centre.

    FFCV's abstract base gives the state and the buffers; only the draws and the flip are ours.
    """

    get_crop_generator = None  # the base wants one; ours needs the row, which FFCV does not pass

    def __init__(self, size: int, crop: RandomCrop | None, seed: int, view: int) -> None:
        super().__init__((size, size))
        self.crop, self.seed, self.view = crop, seed, view

    def generate_code(self) -> Callable:
        read = self.memory_read
        batch_range = Compiler.get_iterator()
        decode_jpeg, resize = Compiler.compile(imdecode), Compiler.compile(resize_crop)
        jpg = IMAGE_MODES["jpg"]
        seed, view = self.seed, self.view
        is_random = self.crop is not None
        crop = self.crop or RandomCrop()
        scale, ratio, flip = np.array(crop.scale), np.array(crop.ratio), crop.flip

        def decode(samples, memory, metadata, storage):  # type: ignore[no-untyped-def]
            destination, scratch = memory
            for i in batch_range(len(samples)):
                row, epoch = samples[i] & ROW_MASK, samples[i] >> EPOCH_BIT
                field = metadata[row]
                data = read(field["data_ptr"], storage)
                height, width = np.int64(field["height"]), np.int64(field["width"])
                if field["mode"] == jpg:
                    pixels = scratch[i][: 3 * height * width].reshape(height, width, 3)
                    decode_jpeg(data, pixels, height, width, height, width, 0, 0, 1, 1, False, False)
                else:
                    pixels = data.reshape(height, width, 3)
                state = stream(seed, epoch, row, view)
                if is_random:
                    top, left, h, w = random_crop(state, height, width, scale, ratio)
                else:
                    top, left, h, w = centre_crop(height, width, 1.0)
                resize(pixels, top, top + h, left, left + w, destination[i])
                if is_random and uniform(state, 0) < flip:
                    destination[i] = destination[i][:, ::-1].copy()
            return destination[: len(samples)]

        decode.is_parallel = True  # type: ignore[attr-defined]
        return decode


class NumberDecoder(Operation):
    """The integer that the .beton holds for each sample: its row, or its label."""

    def declare_state_and_memory(self, previous_state: State) -> tuple[State, AllocationQuery]:
        dtype = np.dtype("<i8")
        return replace(previous_state, jit_mode=True, shape=(), dtype=dtype), AllocationQuery((), dtype)

    def generate_code(self) -> Callable:
        def decode(samples, destination, metadata, storage):  # type: ignore[no-untyped-def]
            for i in range(len(samples)):
                destination[i] = metadata[samples[i] & ROW_MASK]
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
        addresses, chunk_rows = self.split.addresses[self.view], self.split.shape.chunk_rows

        def gather(rows, destination):  # type: ignore[no-untyped-def]
            gather_rows(addresses, rows, chunk_rows, destination)
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
        self.order, self.device = order, torch.device(device)
        self.colour, self.seed = colour, seed
        self.views, self.joined = len(crops), teacher is not None
        self.mean = torch.tensor(IMAGENET.mean, device=self.device).view(1, 3, 1, 1)
        self.std = torch.tensor(IMAGENET.std, device=self.device).view(1, 3, 1, 1)
        self.resumable = ResumableOrder(order)
        self.draws = torch.Generator()  # of colours; seeded anew for each batch
        threads = torch.get_num_threads()
        self.loader = Loader(
            str(beton),
            batch_size=order.batch,
            num_workers=min(workers, len(os.sched_getaffinity(0))),  # more, and FFCV raises
            os_cache=True,
            order=self.resumable,
            drop_last=order.drop_last,
            batches_ahead=BATCHES_AHEAD,
            pipelines=pipelines(image_size, crops, seed, teacher),
        )
        torch.set_num_threads(threads)  # a Loader sets torch's threads to its own number

    def __len__(self) -> int:
        return self.order.batches

    def epoch(self, epoch: int, skip: int = 0) -> Iterator[Batch]:
        """The batches of an epoch from number `skip` on."""
        self.resumable.skip = skip
        self.loader.next_epoch = epoch
        threads = torch.get_num_threads()
        batches = iter(self.loader)
        torch.set_num_threads(threads)
        try:
            for number, fields in enumerate(batches, start=skip):
                self.draws.manual_seed(int(stream(self.seed, epoch, number, self.order.rank)))
                yield self.batch(fields)
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
