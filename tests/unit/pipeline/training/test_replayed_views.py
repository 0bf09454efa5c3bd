"""Replay: the student's crop is the one that the teacher saw, epoch by epoch, and a resumed run goes on with it."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from cache.errors import CorruptStore, IdentityMismatch, IncompleteStore, InUse
from cache.layout import ChunkKey
from cache.lock import sole_writer
from cache.reader import open_store
from cache.writer import absent_chunks
from pipeline.embedding.cache_teacher import cache_teacher
from pipeline.embedding.verify_repair import repair_cache, verify_cache
from pipeline.errors import WrongUse
from pipeline.images.dataset import open_dataset
from pipeline.images.pack import pack
from pipeline.images.preprocessing import IMAGENET
from pipeline.loading.batch import Batch
from pipeline.loading.image_loader import ImageLoader
from pipeline.loading.order import Order
from pipeline.loading.random_crop import RandomCrop, random_crop, stream, uniform
from pipeline.loading.replay import Replay
from pipeline.results.run_record import read_config
from pipeline.runtime.device import CPU
from pipeline.settings.cache_commands import CacheTeacherConfig, RepairConfig, VerifyConfig
from pipeline.settings.commands import PackConfig
from pipeline.settings.training import DistillConfig
from pipeline.training.distill import distill
from pipeline.training.live_teacher import open_live_teacher
from tests.support.tiny_store import contents
from tests.support.training_runs import assert_same_run, distill_in_two, losses, settings

TEACHER = "tests.support.tiny_teacher:with_mapping"
SCALE = (0.3, 1.0)
VIEWS = 3


def teach(dataset: Path, out: Path, scheduler: str, **changes: Any) -> Path:
    plain = CacheTeacherConfig(
        dataset=dataset, cache=out, teacher=TEACHER, scheduler=scheduler, device="cpu", crop_scale=SCALE
    )
    cache_teacher(replace(plain, **changes))
    return out


@pytest.fixture(scope="module")
def waves(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset of 40 smooth pictures of 60 x 90 px, of which the .beton holds a third of the size."""
    root = tmp_path_factory.mktemp("waves")
    y, x = np.mgrid[:60, :90]
    for row in range(40):
        (root / "pictures" / "train").mkdir(parents=True, exist_ok=True)
        pixels = 127 + 100 * np.stack(
            [np.sin((x + 3 * row) / (9 + channel) + y / 12) for channel in range(3)], -1
        )
        Image.fromarray(pixels.astype(np.uint8)).save(root / "pictures" / "train" / f"{row:02}.png")
    out = root / "dataset"
    pack(PackConfig(data=root / "pictures", out=out, write_mode="raw", max_resolution=30, workers=1))
    return out


@pytest.fixture(scope="module")
def viewed(waves: Path, scheduler: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of `waves` with random views."""
    return teach(waves, tmp_path_factory.mktemp("viewed") / "c.zarr", scheduler, views=VIEWS)


@pytest.fixture(scope="module")
def taught(packed: Path, scheduler: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of `packed` with random views."""
    return teach(packed, tmp_path_factory.mktemp("taught") / "c.zarr", scheduler, views=VIEWS)


def batches(dataset: Path, cache: Path, epoch: int, views: int = VIEWS) -> Iterator[Batch]:
    split, images = open_store(cache).split("train"), open_dataset(dataset).splits["train"]
    order = Order(rows=np.arange(images.rows), batch=20, seed=3)
    replay = Replay(split, views)
    return ImageLoader(images.beton, order, image_size=16, seed=3, teacher=split, replay=replay).epoch(epoch)


@pytest.mark.parametrize("epoch", [0, 1, 2, 4])
def test_the_students_crop_is_the_one_that_is_stored(waves: Path, viewed: Path, epoch: int) -> None:
    split, images = open_store(viewed).split("train"), open_dataset(waves).splits["train"]
    view, seen = 1 + epoch % VIEWS, 0
    for batch in batches(waves, viewed, epoch):
        for image, row in zip(batch.images[0], batch.rows.tolist(), strict=True):
            # drawn on the original, as for a student with seed 0 in epoch view - 1
            state = np.uint64(stream(0, view - 1, row, 0))
            top, left, h, w = random_crop(state, 60, 90, np.array(SCALE), np.array(RandomCrop().ratio))
            is_flipped = uniform(state, 0) < 0.5
            stored = split.crop_of(view)[row]
            np.testing.assert_allclose(stored, [top / 60, left / 90, h / 60, w / 90, is_flipped], atol=1e-6)
            # the .beton has a third of the size, and edges are rounded to its pixels
            with Image.open(images.data / "train" / images.names[row]) as original:
                pixels = np.asarray(original.resize((30, 20), Image.Resampling.BOX), np.float32)
            rows, columns = (top / 3, (top + h) / 3), (left / 3, (left + w) / 3)
            (first, last), (start, stop) = (tuple(map(round, edges)) for edges in (rows, columns))
            expected = cv2.resize(pixels[first:last, start:stop], (16, 16), interpolation=cv2.INTER_AREA)
            expected = expected[:, ::-1] if is_flipped else expected
            levels = 255 * (image.permute(1, 2, 0).numpy() * IMAGENET.std + IMAGENET.mean)
            # the picture's own reduction differs by a few levels; a crop of another row or without its flip by 100
            assert np.abs(levels - expected).max() < 8
            seen += 1
    assert seen == 40


@pytest.mark.parametrize("epoch", [0, 1, 5])
def test_an_epoch_joins_the_embeddings_and_norms_of_its_view(packed: Path, taught: Path, epoch: int) -> None:
    split, view = open_store(taught).split("train"), 1 + epoch % VIEWS
    for batch in batches(packed, taught, epoch):
        rows = batch.rows.numpy()
        assert batch.teacher is not None
        assert batch.teacher_norm is not None
        np.testing.assert_array_equal(batch.teacher.numpy(), split.gather(rows, view))
        np.testing.assert_array_equal(batch.teacher_norm.numpy(), split.norm[view, rows])


@pytest.mark.parametrize("view", range(1, VIEWS + 1))
def test_a_view_is_what_a_live_teacher_sees_of_seed_0(packed: Path, taught: Path, view: int) -> None:
    split, images = open_store(taught).split("train"), open_dataset(packed).split("train")
    config = settings(packed, taught, Path("run"), seed=0, crop_scale=SCALE, live_teacher=True)
    live, rows = open_live_teacher(config, open_store(taught), images, CPU), torch.arange(0, 160, 7)
    found = F.normalize(live.embed(live.crops.of(rows, view - 1)), dim=1)
    cached = torch.from_numpy(split.gather(rows.numpy(), view)).float()
    # the cache's pixels are the original's, the live ones those of a JPEG of quality 90
    assert F.cosine_similarity(found, cached).min() > 0.99
    others = torch.from_numpy(split.gather(rows.numpy(), 1 + view % VIEWS)).float()
    assert (found - cached).norm(dim=1).mean() < (found - others).norm(dim=1).mean() / 4


def test_as_many_views_as_epochs_are_a_live_teacher(
    packed: Path, taught: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With seed 0 both students see the same crops, and so do their teachers."""
    monkeypatch.setattr("pipeline.training.loop.LOG_EVERY", 1)
    common = {"seed": 0, "objective": "reg", "epochs": VIEWS, "crop_scale": SCALE}
    distill(settings(packed, taught, tmp_path / "live", live_teacher=True, **common))
    distill(settings(packed, taught, tmp_path / "replayed", replay=True, **common))
    distill(settings(packed, taught, tmp_path / "center", **common))
    live, replayed, center = (
        np.array(losses(tmp_path / run))[:, 1] for run in ("live", "replayed", "center")
    )
    # the cache's pixels are the original's, the live ones those of a JPEG of quality 90
    assert np.abs(replayed - live).max() < np.abs(center - live).max() / 10


def test_fewer_views_take_turns_among_themselves(packed: Path, taught: Path) -> None:
    split = open_store(taught).split("train")
    for epoch, view in enumerate([1, 2, 1]):
        batch = next(batches(packed, taught, epoch, views=2))
        np.testing.assert_array_equal(batch.teacher, split.gather(batch.rows.numpy(), view))


def test_views_are_added_to_a_store_that_has_none(
    packed: Path, taught: Path, scheduler: str, tmp_path: Path
) -> None:
    grown = teach(packed, tmp_path / "grown.zarr", scheduler)
    center = contents(grown)
    for views in (1, VIEWS, 2, 0):
        teach(packed, grown, scheduler, views=views)
    assert contents(grown) == contents(taught)
    changed = {name for name, data in contents(grown).items() if center.get(name, data) != data}
    assert all(name.endswith("zarr.json") for name in changed)
    assert open_store(grown).split("val").shape.views == 1
    with pytest.raises(IdentityMismatch, match="crop_scale: expected"):
        teach(packed, grown, scheduler, views=VIEWS, crop_scale=(0.5, 1.0))


def test_a_damaged_view_is_found_and_repaired(
    packed: Path, taught: Path, scheduler: str, tmp_path: Path
) -> None:
    broken = teach(packed, tmp_path / "broken.zarr", scheduler, views=VIEWS)
    whole = contents(broken)
    chunk = broken / "train/embedding/c/2/0/0"
    chunk.write_bytes(chunk.read_bytes()[::-1])
    with pytest.raises(CorruptStore, match="has 1 fault"):
        verify_cache(VerifyConfig(cache=broken))
    repair_cache(RepairConfig(cache=broken, dataset=packed, scheduler=scheduler, device="cpu", rows=600))
    assert contents(broken) == whole
    verify_cache(VerifyConfig(cache=broken, dataset=packed, rows=600, device="cpu"))


def test_a_wrong_row_of_a_view_is_found(
    packed: Path, scheduler: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = teach(packed, tmp_path / "wrong.zarr", scheduler, views=1)
    for column, file in (
        ("embedding", "0/0"),
        ("norm", "0"),
        ("status", "0"),
        ("crop", "0/0"),
        ("checksum", "0/0"),
    ):
        folder = wrong / "train" / column / "c"
        (folder / "1" / file).write_bytes((folder / "0" / file).read_bytes())
    with pytest.raises(CorruptStore):
        verify_cache(VerifyConfig(cache=wrong, dataset=packed, rows=600, device="cpu"))
    assert "(view 1, rows 0 to 159)" in capsys.readouterr().out


@pytest.mark.parametrize("objective", ["1q", "2q", "reg-bn", "crd"])
def test_a_run_that_was_interrupted_ends_with_the_same_weights(
    packed: Path, taught: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, objective: str
) -> None:
    config = settings(packed, taught, tmp_path / "whole", objective=objective, replay=True, negatives=20)
    distill(config)
    assert {name: read_config(config.run)["config"][name] for name in ("replay_views", "crop_scale")} == {
        "replay_views": VIEWS,
        "crop_scale": list(SCALE),
    }
    in_two = replace(config, run=tmp_path / "two")
    distill_in_two(in_two, monkeypatch)
    assert_same_run(config.run, in_two.run)


def test_a_begun_run_keeps_its_views_when_the_cache_gets_more(
    packed: Path, scheduler: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cache = teach(packed, tmp_path / "c.zarr", scheduler, views=1)
    config = settings(packed, cache, tmp_path / "run", replay=True, epochs=1)
    distill(config)
    teach(packed, cache, scheduler, views=2)
    capsys.readouterr()
    distill(config)
    assert capsys.readouterr().out == f"{config.run} is finished: 4 steps\n"


def test_center_and_first_views_are_trained_on_while_others_are_missing(
    packed: Path, taught: Path, scheduler: str, tmp_path: Path
) -> None:
    cache = teach(packed, tmp_path / "c.zarr", scheduler, views=VIEWS)
    (cache / f"train/embedding/c/{VIEWS}/0/0").unlink()
    assert absent_chunks(cache, "train") == [ChunkKey(VIEWS, 0)]
    distill(settings(packed, cache, tmp_path / "center", epochs=1))
    distill(settings(packed, cache, tmp_path / "two", epochs=1, replay=True, replay_views=2))
    assert read_config(tmp_path / "two")["config"]["replay_views"] == 2


def test_views_that_are_not_computed_are_told_with_the_command_that_adds_them(
    packed: Path, scheduler: str, tmp_path: Path
) -> None:
    cache = teach(packed, tmp_path / "c.zarr", scheduler, views=2)
    (cache / "train/embedding/c/2/0/0").unlink()
    config = settings(packed, cache, tmp_path / "run", replay=True)
    with pytest.raises(
        IncompleteStore, match=r"2 of 3 chunks.*cache-teacher --views 2.*, 0 of 160 rows, with --partial"
    ):
        distill(config)
    teach(packed, cache, scheduler, views=2, crop_scale=None)  # that of the cache
    distill(config)


def test_views_are_not_added_while_another_process_writes_or_without_a_device(
    packed: Path, scheduler: str, tmp_path: Path
) -> None:
    cache = teach(packed, tmp_path / "c.zarr", scheduler)
    before = contents(cache)
    with sole_writer(cache), pytest.raises(InUse):
        teach(packed, cache, scheduler, views=3)
    with pytest.raises(WrongUse, match="--device cuda"):
        cache_teacher(
            CacheTeacherConfig(dataset=packed, cache=cache, teacher=TEACHER, views=3, device="cuda")
        )
    with pytest.raises(WrongUse, match="--views: random views are of the split train"):
        teach(packed, cache, scheduler, views=3, split=("val",))
    assert contents(cache) == before


def test_what_contradicts_replay_is_refused(packed: Path, cached: Path, taught: Path, tmp_path: Path) -> None:
    def refused(message: str, cache: Path = taught, **changes: Any) -> None:
        config: DistillConfig = settings(packed, cache, tmp_path / "run", **changes)
        with pytest.raises(WrongUse, match=message):
            distill(config)
        assert not config.run.exists()

    refused("has no random views; add some with", cache=cached, replay=True)
    refused("--replay-views 4: .* has 3 random views of each image", replay=True, replay_views=4)
    refused("--replay-views belongs to --replay", replay_views=2)
    refused("--replay and --live-teacher exclude each other", replay=True, live_teacher=True)
    refused("have areas from 0.3 to 1.0; leave it out", replay=True, crop_scale=(0.5, 1.0))
    refused("the objective supervised needs no teacher", replay=True, objective="supervised")
    of_two = "tests.support.own_objectives:of_two_crops"
    refused(f"the objective {of_two} is given 2 crops of each image", replay=True, objective=of_two)


def test_a_preprocessing_of_the_users_own_cannot_be_cropped(
    packed: Path, scheduler: str, tmp_path: Path
) -> None:
    with pytest.raises(WrongUse, match="has its own preprocessing function, which cannot be given a crop"):
        teach(
            packed,
            tmp_path / "c.zarr",
            scheduler,
            views=1,
            teacher="tests.support.tiny_teacher:with_callable",
        )
    assert not (tmp_path / "c.zarr").exists()
