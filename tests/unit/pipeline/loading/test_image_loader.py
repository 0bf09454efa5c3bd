"""The loader: every row once, joined to its own teacher row, with the same crops for any number of workers."""

import shutil
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from torch._subclasses.fake_tensor import FakeTensorMode

from cache.reader import Split, open_store
from pipeline.errors import PipelineError
from pipeline.ffcv_patches import MappedReader
from pipeline.images.dataset import DatasetSplit, open_dataset
from pipeline.images.pack import pack
from pipeline.images.preprocessing import IMAGENET
from pipeline.loading.batch import Batch
from pipeline.loading.color_jitter import ColorJitter
from pipeline.loading.image_loader import ImageLoader, decoding_threads, imagenet_table, look_up
from pipeline.loading.order import Order
from pipeline.loading.random_crop import RandomCrop, random_crop, stream, uniform
from pipeline.loading.staging import PinnedStaging
from pipeline.settings.commands import PackConfig
from tests.support.fake_cuda import as_pinned
from tests.support.late_streams import LateCopies


@pytest.fixture(scope="module")
def split(packed: Path) -> DatasetSplit:
    return open_dataset(packed).splits["train"]


@pytest.fixture(scope="module")
def teacher(cached: Path) -> Split:
    return open_store(cached).split("train")


@pytest.fixture(scope="module")
def loader(split: DatasetSplit, teacher: Split) -> ImageLoader:
    return open_loader(split, teacher, workers=1)


def open_loader(
    split: DatasetSplit, teacher: Split, workers: int | None = None, device: str = "cpu"
) -> ImageLoader:
    order = Order(rows=np.arange(split.rows), batch=32, seed=3)
    return ImageLoader(
        split.beton,
        order,
        image_size=24,
        crops=(RandomCrop(), RandomCrop()),
        seed=3,
        teacher=teacher,
        color_jitter=ColorJitter(),
        workers=workers,
        device=torch.device(device),
    )


def same(a: Batch, b: Batch) -> bool:
    pairs = zip(
        (*a.images, a.rows, a.labels, a.teacher), (*b.images, b.rows, b.labels, b.teacher), strict=True
    )
    return all(torch.equal(x, y) for x, y in pairs)


def test_every_row_comes_once_with_its_own_label_and_teacher_row(
    loader: ImageLoader, split: DatasetSplit, teacher: Split
) -> None:
    batches = list(loader.epoch(0))
    rows = torch.cat([batch.rows for batch in batches]).numpy()
    assert sorted(rows) == list(range(split.rows))
    for batch in batches:
        assert np.array_equal(batch.labels, split.labels[batch.rows])
        assert np.array_equal(batch.teacher, teacher.gather(batch.rows.numpy()))
        assert [view.shape for view in batch.images] == [(32, 3, 24, 24)] * 2


def test_images_that_cannot_be_decoded_end_the_epoch_with_an_error(
    split: DatasetSplit, teacher: Split, tmp_path: Path
) -> None:
    beton = tmp_path / "train.beton"
    shutil.copy(split.beton, beton)
    tables = MappedReader(str(beton))
    start = tables.metadata.ctypes.data - tables.content.ctypes.data
    with beton.open("r+b") as file:
        file.seek(start)
        file.write(bytes(tables.metadata.nbytes))
    with pytest.raises(PipelineError, match=f"{beton} cannot be decoded"):
        list(open_loader(replace(split, folder=tmp_path), teacher, workers=1).epoch(0))


def test_an_epoch_is_repeatable_and_resumes_at_any_batch(loader: ImageLoader) -> None:
    first, again, later = list(loader.epoch(1)), list(loader.epoch(1)), list(loader.epoch(1, skip=3))
    assert all(same(a, b) for a, b in zip(first, again, strict=True))
    assert all(same(a, b) for a, b in zip(first[3:], later, strict=True))
    assert not torch.equal(first[0].rows, next(iter(loader.epoch(2))).rows)


def test_views_differ_and_epochs_crop_the_same_row_differently(loader: ImageLoader) -> None:
    def of_row(epoch: int) -> torch.Tensor:
        for batch in loader.epoch(epoch):
            at = torch.nonzero(batch.rows == 5)
            if len(at):
                return torch.stack([view[at[0, 0]] for view in batch.images])
        raise AssertionError("row 5 did not come")

    (a, b), (c, _) = of_row(0), of_row(1)
    assert not torch.equal(a, b)
    assert not torch.equal(a, c)


def test_two_workers_give_the_same_pixels_as_one(
    loader: ImageLoader, split: DatasetSplit, teacher: Split
) -> None:
    two = open_loader(split, teacher, workers=2)
    assert all(same(a, b) for a, b in zip(loader.epoch(0), two.epoch(0), strict=True))


@pytest.mark.parametrize(
    ("workers", "device", "expected"),
    [(None, "cpu", 1), (None, "cuda", 8), (3, "cuda", 3), (3, "cpu", 3), (99, "cuda", 32)],
)
def test_ranks_on_cuda_share_the_cores_for_decoding(
    workers: int | None, device: str, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(32)))
    monkeypatch.setattr("numba.config.NUMBA_NUM_THREADS", 32)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert decoding_threads(workers, torch.device(device)) == expected


def test_there_is_a_decoding_thread_with_fewer_cores_than_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {0})
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert decoding_threads(None, torch.device("cuda")) == 1


def test_a_device_that_copies_late_gets_the_same_batches(
    loader: ImageLoader, split: DatasetSplit, teacher: Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    copies, late = LateCopies(), open_loader(split, teacher)
    copies.install(monkeypatch)
    with copies:
        late.staging = PinnedStaging(torch.device("cpu"), 32)
        monkeypatch.setattr(late, "normalize", lambda pixels: pixels)
        found = list(late.epoch(0))
        copies.user.finish(len(copies.user.work))
    monkeypatch.setattr(loader, "normalize", torch.clone)
    assert all(same(a, b) for a, b in zip(found, loader.epoch(0), strict=True))


def test_a_batch_on_cuda_is_whole_and_channels_last(
    split: DatasetSplit, teacher: Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    LateCopies().install(monkeypatch)
    monkeypatch.setattr("pipeline.loading.image_loader.imagenet_table", lambda: None)  # of the CPU
    monkeypatch.setattr(torch.Tensor, "pin_memory", as_pinned)
    with FakeTensorMode():
        numbers, pixels = torch.empty(32, dtype=torch.int64), torch.empty(32, 24, 24, 3, dtype=torch.uint8)
        embeddings = torch.empty(32, teacher.shape.dim, dtype=torch.uint16)
        loader = open_loader(split, teacher, device="cuda")
        batch = loader.batch((numbers, numbers, pixels, pixels, embeddings))
        tensors = (*batch.images, batch.rows, batch.labels, batch.teacher)
        found = [(tensor.device.type, tensor.dtype, tuple(tensor.shape)) for tensor in tensors]
        views = [("cuda", torch.float32, (32, 3, 24, 24))] * 2
        integers = [("cuda", torch.int64, (32,))] * 2
        assert found == [*views, *integers, ("cuda", torch.float16, (32, teacher.shape.dim))]
        assert all(view.is_contiguous(memory_format=torch.channels_last) for view in batch.images)


def test_the_center_view_is_the_image_itself(split: DatasetSplit) -> None:
    order = Order(rows=np.array([7, 3]), batch=2, shuffle=False, drop_last=False)
    (batch,) = ImageLoader(split.beton, order, image_size=32).epoch(0)
    for number, row in enumerate(batch.rows):
        pixels = np.asarray(Image.open(split.data / "train" / split.names[row]), np.float32) / 255
        expected = (pixels - IMAGENET.mean) / IMAGENET.std
        # tolerance: float32 arithmetic on values up to 2.7
        np.testing.assert_allclose(batch.images[0][number].permute(1, 2, 0), expected, atol=1e-5)


@pytest.mark.parametrize(("mode", "worst", "mean"), [("raw", 1, 1), ("jpg", 40, 8)])
def test_a_random_view_is_the_drawn_box_of_the_image(
    tmp_path: Path, mode: str, worst: int, mean: int
) -> None:
    y, x = np.mgrid[:60, :90]
    waves = [np.sin(x / (7 + channel) + y / 9) for channel in range(3)]
    (tmp_path / "pictures").mkdir()
    for row in range(6):
        pixels = 127 + 100 * np.roll(np.stack(waves, -1), 10 * row, 1)
        Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / f"pictures/{row}.png")
    pack(PackConfig(data=tmp_path / "pictures", out=tmp_path / "dataset", write_mode=mode, workers=1))
    split = open_dataset(tmp_path / "dataset").splits["train"]
    order = Order(rows=np.arange(6), batch=6, seed=2)
    (batch,) = ImageLoader(split.beton, order, image_size=24, crops=(RandomCrop(),), seed=2).epoch(5)
    scale, ratio = np.array(RandomCrop().scale), np.array(RandomCrop().ratio)
    for image, row in zip(batch.images[0], batch.rows.tolist(), strict=True):
        pixels = np.asarray(Image.open(split.data / split.names[row]))
        state = np.uint64(stream(2, 5, row, 0))
        top, left, h, w = random_crop(state, 60, 90, scale, ratio)
        cut = pixels[top : top + h, left : left + w]
        expected = cv2.resize(cut, (24, 24), interpolation=cv2.INTER_AREA)
        if uniform(state, 0) < 0.5:
            expected = expected[:, ::-1]
        levels = 255 * (image.permute(1, 2, 0).numpy() * IMAGENET.std + IMAGENET.mean)
        # rounding to a level, or the loss of JPEG at quality 90, mostly in color (21 levels seen); a wrong box: 60
        error = np.abs(levels - expected)
        assert error.max() < worst
        assert error.mean() < mean


@pytest.mark.parametrize("shape", [(2, 5, 7, 3), (1, 16, 16, 3)])
def test_normalization_is_bit_for_bit_what_torch_computes(shape: tuple[int, ...]) -> None:
    pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 256, shape, np.uint8))
    mean, std = (torch.tensor(numbers).view(1, 3, 1, 1) for numbers in (IMAGENET.mean, IMAGENET.std))
    expected = pixels.permute(0, 3, 1, 2).float().div_(255).sub_(mean).div_(std)
    found = look_up(pixels, imagenet_table())
    assert torch.equal(found, expected)
    assert found.is_contiguous(memory_format=torch.channels_last)


def test_every_byte_of_every_channel_is_normalized() -> None:
    pixels = torch.arange(256, dtype=torch.uint8)[None, :, None, None].expand(1, 256, 1, 3)
    found = look_up(pixels, imagenet_table())[0, :, :, 0].double().numpy()
    mean, std = (np.array(numbers)[:, None] for numbers in (IMAGENET.mean, IMAGENET.std))
    # tolerance: three roundings of float32
    np.testing.assert_allclose(found, (np.arange(256) / 255 - mean) / std, rtol=1e-5, atol=1e-6)
