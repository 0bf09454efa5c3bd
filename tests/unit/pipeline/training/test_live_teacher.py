"""The live teacher: it sees the student's crops as stage one would cut them, and a run with it resumes exactly."""

import json
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision
from distributed import LocalCluster
from PIL import Image, ImageOps
from torch import Tensor

from cache.errors import IdentityMismatch
from cache.reader import Store, open_store
from pipeline.embedding.cache_teacher import cache_teacher
from pipeline.errors import PipelineError, WrongUse
from pipeline.images.beton_format import open_beton
from pipeline.images.dataset import open_dataset
from pipeline.images.preprocessing import IMAGENET
from pipeline.loading.batch import Batch
from pipeline.loading.image_loader import ImageLoader
from pipeline.loading.order import Order
from pipeline.loading.random_crop import RandomCrop, random_view
from pipeline.models.checkpoints import load_resume, save_safetensors
from pipeline.objectives.regression import RegressionBN
from pipeline.results.run_record import read_config
from pipeline.runtime.device import CPU
from pipeline.settings.cache_commands import CacheTeacherConfig
from pipeline.settings.training import DistillConfig
from pipeline.teachers.registry import load_teacher
from pipeline.training.distill import distill
from pipeline.training.live_teacher import LiveTeacher, open_live_teacher
from tests.support.tiny_teacher import convolutional
from tests.support.training_runs import (
    assert_same_run,
    distill_in_two,
    distill_until_crash,
    losses,
    settings,
)

TEACHER = "tests.support.tiny_teacher:with_mapping"


@pytest.fixture(scope="module")
def taught(packed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of `packed` by a teacher of 16 px with a mean and std of its own."""
    path = tmp_path_factory.mktemp("taught") / "teacher.zarr"
    with LocalCluster(n_workers=1, threads_per_worker=1, processes=False, dashboard_address=":0") as cluster:
        address = cluster.scheduler_address
        cache_teacher(
            CacheTeacherConfig(dataset=packed, cache=path, teacher=TEACHER, scheduler=address, device="cpu")
        )
    return path


def live(packed: Path, taught: Path, run: Path, **changes: Any) -> DistillConfig:
    return settings(packed, taught, run, live_teacher=True, **changes)


def opened(config: DistillConfig, store: Store | None = None) -> LiveTeacher:
    images = open_dataset(config.dataset).split("train")
    return open_live_teacher(config, store or open_store(config.cache), images, CPU)


def student_batches(
    config: DistillConfig, epoch: int, image_size: int = 16, batch: int = 40
) -> Iterator[Batch]:
    """Yield what the loader of a run yields, its images at another size."""
    images = open_dataset(config.dataset).split("train")
    order = Order(rows=np.flatnonzero(images.readable), batch=batch, seed=config.seed)
    crops = (RandomCrop(scale=config.crop_scale),)
    yield from ImageLoader(images.beton, order, image_size=image_size, crops=crops, seed=config.seed).epoch(
        epoch
    )


@pytest.mark.parametrize(("seed", "epoch"), [(0, 0), (3, 2)])
def test_it_sees_the_crop_of_the_student_at_its_own_size(
    packed: Path, taught: Path, seed: int, epoch: int
) -> None:
    config = live(packed, taught, Path("run"), seed=seed)
    teacher, nearest = opened(config), []
    for batch in student_batches(config, epoch):
        crops = teacher.crops.of(batch.rows, epoch)
        assert crops.shape == (40, 3, 16, 16)
        own = teacher.crops.settings
        seen = 255 * (crops.permute(0, 2, 3, 1).numpy() * own.std + own.mean)
        shown = 255 * (batch.images[0].permute(0, 2, 3, 1).numpy() * IMAGENET.std + IMAGENET.mean)
        # every image against every crop: FFCV and PIL resize differently, but the crops differ more
        difference = np.abs(shown[:, None] - seen[None]).mean((2, 3, 4))
        assert np.diagonal(difference).mean() < 8
        nearest.extend(difference.argmin(1) == np.arange(len(difference)))
    assert np.mean(nearest) > 0.95


@pytest.mark.parametrize("kind", ["bilinear", "bicubic"])
def test_its_crops_are_cut_by_pil(packed: Path, taught: Path, kind: str) -> None:
    config = live(packed, taught, Path("run"))
    images, teacher = open_dataset(packed).split("train"), opened(config)
    own = teacher.crops.settings = replace(teacher.crops.settings, interpolation=kind)
    beton = open_beton(images.beton, images.labels)
    scale, ratio = np.array(config.crop_scale), np.array(RandomCrop().ratio)
    flips = []
    for row in range(12):
        image = beton.image(row)
        top, left, height, width, is_flipped = random_view(
            config.seed, 5, row, 0, image.height, image.width, scale, ratio, 0.5
        )
        cut = image.crop((left, top, left + width, top + height))
        cut = cut.resize((own.crop, own.crop), Image.Resampling[kind.upper()])
        cut = ImageOps.mirror(cut) if is_flipped else cut
        expected = (torch.tensor(np.array(cut)) / 255 - torch.tensor(own.mean)) / torch.tensor(own.std)
        torch.testing.assert_close(teacher.crops.crop(row, 5), expected.permute(2, 0, 1), atol=1e-5, rtol=0)
        flips.append(is_flipped)
    assert 0 < sum(flips) < 12


def test_an_image_that_cannot_be_decoded_is_an_error(packed: Path, taught: Path) -> None:
    teacher = opened(live(packed, taught, Path("run")))
    sizes = teacher.crops.beton.sizes.copy()
    sizes[7] = 5
    teacher.crops.beton = replace(teacher.crops.beton, sizes=sizes)
    with pytest.raises(PipelineError, match=r"row 7 of .*train.beton cannot be decoded .*run `pack` again"):
        teacher.crops.of(torch.tensor([6, 7]), 0)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_it_has_the_precision_of_the_cache_and_stays_frozen(
    packed: Path, taught: Path, precision: str
) -> None:
    backbone = load_teacher(TEACHER)
    before = {name: tensor.clone() for name, tensor in backbone.module.state_dict().items()}
    store = open_store(taught)
    teacher = opened(
        live(packed, taught, Path("run")), replace(store, teacher={**store.teacher, "precision": precision})
    )
    images = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", torch.bfloat16):  # the student's precision does not matter
        embedding = teacher.embed(images)
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        expected = convolutional()(images).float()
    # channels last or not: float32 rounding, a hundredth of bfloat16's
    torch.testing.assert_close(embedding, expected, atol=1e-5, rtol=1e-5)
    assert not embedding.requires_grad
    assert all(torch.equal(tensor, before[name]) for name, tensor in teacher.module.state_dict().items())


def test_a_2q_run_that_crashed_resumes_exactly(
    packed: Path, taught: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """The queue holds embeddings of crops, which are in no cache: the checkpoint has to hold them."""
    monkeypatch.setattr("pipeline.training.loop.LOG_EVERY", 1)
    whole = live(packed, taught, tmp_path / "whole", objective="2q")
    distill(whole)
    assert f"with {TEACHER} live on each crop" in capsys.readouterr().out.splitlines()[0]
    distill_in_two(replace(whole, run=tmp_path / "broken"), monkeypatch)
    assert_same_run(whole.run, tmp_path / "broken")
    saved = load_resume(whole.run / "resume.pt")["objective"]
    cached = torch.from_numpy(open_store(taught).split("train").gather(saved["bank.rows"].numpy()))
    # the crops are random, the cached ones centered
    assert F.cosine_similarity(saved["bank.teacher"].float(), cached.float()).mean() < 0.999


class Recorder(LiveTeacher):
    """Records what each batch becomes."""

    def joined(self, batch: Batch, crops: Sequence[Future[Tensor]]) -> Batch:
        result = super().joined(batch, crops)
        recorded.append((batch, result))
        return result


recorded: list[tuple[Batch, Batch]] = []


def test_the_loader_reads_no_cache_and_the_objective_gets_the_live_embeddings(
    packed: Path, taught: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded.clear()
    monkeypatch.setattr("pipeline.training.live_teacher.LiveTeacher", Recorder)
    config = live(packed, taught, tmp_path / "run", epochs=1)
    distill(config)
    teacher = opened(config)
    assert read_config(config.run)["made_of"]["live_crops"] == 2
    assert len(recorded) == 4
    for given, result in recorded:
        assert given.teacher is None
        assert result.teacher is not None
        assert result.teacher_norm is not None
        crops = torch.stack([teacher.crops.crop(row, 0) for row in given.rows.tolist()])
        expected = convolutional()(crops)
        torch.testing.assert_close(result.teacher, F.normalize(expected, dim=1), atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(result.teacher_norm, expected.norm(dim=1), atol=1e-5, rtol=1e-5)
        assert given.images[0] is result.images[0]


def test_crops_that_were_cut_ahead_are_dropped_when_a_run_ends(packed: Path, taught: Path) -> None:
    config = live(packed, taught, Path("run"))
    teacher, rows_of, started = opened(config), [], []
    start = teacher.crops.start

    def recorded(rows: Tensor, epoch: int) -> list[Future[Tensor]]:
        rows_of.append(rows.tolist())
        started.append(start(rows, epoch))
        return started[-1]

    teacher.crops.start = recorded
    teacher.crops.threads = ThreadPoolExecutor(1)
    held = threading.Event()
    batches = teacher.add_embeddings(student_batches(config, 0), 0)
    # those of the second batch are held, whenever the thread comes to them
    teacher.crops.crop = lambda row, epoch: torch.zeros(3, 16, 16) if row in rows_of[0] else held.wait()
    try:
        next(batches)
        batches.close()
        assert all(crop.done() for crop in started[0])
        assert sum(crop.cancelled() for crop in started[1]) >= len(started[1]) - 1
    finally:
        held.set()


def test_reg_bn_uses_the_live_teachers_norms(taught: Path) -> None:
    objective = RegressionBN(open_store(taught).split("train"), student_dim=4)
    draws = torch.Generator().manual_seed(0)
    teacher, student = torch.rand(16, 8, generator=draws), torch.rand(16, 8, generator=draws)
    rows = torch.arange(16)
    unit, norm = F.normalize(teacher, dim=1), teacher.norm(dim=1)
    batch = Batch(images=(), rows=rows, labels=rows, teacher=unit, teacher_norm=norm)
    # 2 - 2 x the mean correlation, up to BatchNorm's epsilon of 1e-5 with variances of 0.08
    pairs = [torch.corrcoef(torch.stack([student[:, d], teacher[:, d]]))[0, 1] for d in range(8)]
    expected = 2 - 2 * torch.stack(pairs).mean()
    torch.testing.assert_close(objective((student,), batch, 0), expected, atol=1e-3, rtol=0)


def test_another_teacher_is_refused_field_by_field(packed: Path, taught: Path, tmp_path: Path) -> None:
    state = {name: tensor + 1 for name, tensor in convolutional().state_dict().items()}
    save_safetensors(tmp_path / "other.safetensors", state, {})
    config = live(packed, taught, tmp_path / "run")
    with pytest.raises(
        IdentityMismatch, match=r"weights: expected \"\w+\", found \"\w+\"\): give the --teacher"
    ):
        distill(replace(config, weights=tmp_path / "other.safetensors"))
    with pytest.raises(IdentityMismatch, match=r"preprocessing.resize: expected 16, found 32"):
        distill(replace(config, teacher="pixels"))
    assert not (tmp_path / "run").exists()


def test_the_cache_names_its_teacher_where_it_can(packed: Path, taught: Path, tmp_path: Path) -> None:
    config = live(packed, taught, tmp_path / "run")
    store = open_store(taught)
    assert opened(config).name == TEACHER
    assert opened(config, replace(store, origin={})).name == TEACHER
    known = {**load_teacher("pixels", image_size=8).identity(), "precision": "bf16"}
    pixels = replace(store, teacher=known, origin={"name": "pixels"})
    found = opened(config, pixels)
    assert (found.name, found.crops.settings.crop, found.precision) == ("pixels", 8, "bf16")
    unnamed = replace(pixels, origin={})
    assert opened(replace(config, teacher="pixels"), unnamed).name == "pixels"
    with pytest.raises(WrongUse, match=r"architecture, pixels: give --teacher NAME, and --weights FILE"):
        opened(config, unnamed)


def test_a_library_model_is_named_by_its_architecture_and_needs_its_weights(
    packed: Path, taught: Path, tmp_path: Path
) -> None:
    network = torchvision.models.get_model("shufflenet_v2_x0_5", weights=None)
    save_safetensors(tmp_path / "w.safetensors", network.state_dict(), {})
    name, file = "torchvision/shufflenet_v2_x0_5", tmp_path / "w.safetensors"
    teacher = load_teacher(name, file, image_size=32).identity()
    store = replace(open_store(taught), teacher={**teacher, "precision": "fp32"}, origin={})
    config = live(packed, taught, tmp_path / "run", weights=file)
    assert opened(config, store).name == name
    with pytest.raises(WrongUse, match=f"architecture, {name}: give --teacher"):
        opened(replace(config, weights=None), store)


def test_a_teacher_with_a_function_for_preprocessing_cannot_be_live(packed: Path, cached: Path) -> None:
    store = open_store(cached)
    own = load_teacher("tests.support.tiny_teacher:with_callable")
    with pytest.raises(WrongUse, match="its own preprocessing function, which cannot take a student's crops"):
        opened(live(packed, cached, Path("run")), replace(store, teacher=own.identity()))


@pytest.mark.parametrize("changes", [{"teacher": "demo"}, {"weights": Path("moco.pth")}])
def test_a_teacher_without_live_teacher_is_wrong_use(
    packed: Path, cached: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    with pytest.raises(WrongUse, match="belong to --live-teacher"):
        distill(settings(packed, cached, tmp_path / "run", **changes))
    assert not (tmp_path / "run").exists()


def test_a_run_recorded_without_the_settings_of_live_teachers_resumes_exactly(
    packed: Path, cached: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.training.loop.LOG_EVERY", 1)
    whole = settings(packed, cached, tmp_path / "whole")
    distill(whole)
    broken = replace(whole, run=tmp_path / "broken")
    distill_until_crash(broken, monkeypatch)
    assert load_resume(broken.run / "resume.pt")["step"] == 9
    path = broken.run / "config.json"
    record = json.loads(path.read_text())
    for name in ("live_teacher", "teacher", "weights"):
        del record["config"][name]
    path.write_text(json.dumps(record))
    distill(broken)
    assert_same_run(whole.run, broken.run)
    assert [step for step, _ in losses(broken.run)] == list(range(1, 13))
