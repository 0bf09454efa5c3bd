"""The live teacher: on cached crops it gives the cached embeddings, and a run with it resumes exactly."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision
from distributed import LocalCluster
from PIL import Image
from torchvision.transforms import functional as pil

from cache.errors import IdentityMismatch
from cache.reader import open_store
from pipeline.embedding.cache_teacher import cache_teacher
from pipeline.errors import WrongUse
from pipeline.images.dataset import open_dataset
from pipeline.images.preprocessing import IMAGENET, Preprocessing
from pipeline.loading.batch import Batch
from pipeline.loading.image_loader import ImageLoader
from pipeline.loading.order import Order
from pipeline.models.checkpoints import load_resume, save_safetensors
from pipeline.objectives.regression import RegressionBN
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


def opened(config: DistillConfig) -> LiveTeacher:
    return open_live_teacher(config, open_store(config.cache), CPU)


def test_on_the_whole_image_the_live_teacher_gives_the_cached_embeddings(packed: Path, taught: Path) -> None:
    split, dataset = open_store(taught).split("train"), open_dataset(packed).splits["train"]
    # a center crop of 32 px is the whole image here: only the teacher's resize is left
    order = Order(rows=split.eligible(), batch=32)
    loader = ImageLoader(dataset.beton, order, image_size=32)
    teacher = opened(live(packed, taught, Path("run")))
    for batch in loader.epoch(0):
        live_batch, cached = teacher.add_embeddings(batch), torch.from_numpy(split.gather(batch.rows.numpy()))
        embedding, norm = live_batch.teacher, live_batch.teacher_norm
        assert embedding is not None
        assert norm is not None
        # PIL rounds resized pixels to 1/255 and the cache its rows to float16; the rows themselves differ by 0.1
        torch.testing.assert_close(embedding, cached.float(), atol=3e-3, rtol=0)
        assert F.cosine_similarity(embedding, cached.float()).min() > 0.9999
        assert (embedding - embedding.mean(0)).abs().max() > 0.05
        torch.testing.assert_close(norm, torch.from_numpy(split.norm[0, batch.rows]), atol=0, rtol=5e-3)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [16, 24, 40])
def test_a_crop_is_resized_as_pil_does_and_normalized_for_the_teacher(interpolation: Any, size: int) -> None:
    # bicubic interpolation overshoots by at most half of the range, which stays within 0 to 255, so PIL never clips
    pixels = np.random.default_rng(0).integers(80, 176, (24, 24, 3), dtype=np.uint8)
    own = Preprocessing(
        resize=size, crop=size, interpolation=interpolation, mean=(0.1, 0.2, 0.3), std=(0.5, 0.25, 1.0)
    )
    backbone = replace(load_teacher(TEACHER), preprocessing=own)
    teacher = LiveTeacher(backbone, precision="fp32", device=CPU)
    plain = pil.to_tensor(Image.fromarray(pixels))
    seen = teacher.preprocess(pil.normalize(plain, IMAGENET.mean, IMAGENET.std)[None])
    # at most one of PIL's 8-bit levels, divided by the smallest std
    torch.testing.assert_close(
        seen[0], own.transform(Image.fromarray(pixels)), atol=1.01 / 255 / 0.25, rtol=0
    )


def test_overshooting_pixels_are_clipped() -> None:
    own = Preprocessing(resize=40, crop=40, interpolation="bicubic", mean=(0.0,) * 3, std=(1.0,) * 3)
    teacher = LiveTeacher(replace(load_teacher(TEACHER), preprocessing=own), precision="fp32", device=CPU)
    board = torch.tensor([[0.0, 1.0], [1.0, 0.0]]).repeat(12, 12).expand(3, -1, -1)
    seen = teacher.preprocess(pil.normalize(board, IMAGENET.mean, IMAGENET.std)[None])
    assert (seen.min(), seen.max()) == (0, 1)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_it_has_the_precision_of_the_cache_and_stays_frozen(precision: str) -> None:
    backbone = load_teacher(TEACHER)
    before = {name: tensor.clone() for name, tensor in backbone.module.state_dict().items()}
    teacher = LiveTeacher(backbone, precision=precision, device=CPU)
    pixels = torch.rand(2, 3, 24, 24, generator=torch.Generator().manual_seed(0))
    images = pil.normalize(pixels, IMAGENET.mean, IMAGENET.std)
    with torch.autocast("cpu", torch.bfloat16):  # the student's precision does not matter
        embedding = teacher.embed(images)
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        expected = convolutional()(teacher.preprocess(images)).float()
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
    """Records each batch before and after."""

    def add_embeddings(self, batch: Batch) -> Batch:
        result = super().add_embeddings(batch)
        recorded.append((batch, result))
        return result


recorded: list[tuple[Batch, Batch]] = []


def test_the_loader_reads_no_cache_and_the_objective_gets_the_live_embeddings(
    packed: Path, taught: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded.clear()
    monkeypatch.setattr("pipeline.training.live_teacher.LiveTeacher", Recorder)
    distill(live(packed, taught, tmp_path / "run", epochs=1))
    assert len(recorded) == 4
    for given, result in recorded:
        assert given.teacher is None
        assert result.teacher is not None
        assert result.teacher.shape == (40, 8)
        assert given.images[0] is result.images[0]


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
    assert open_live_teacher(config, replace(store, origin={}), CPU).name == TEACHER
    known = {**load_teacher("pixels", image_size=8).identity(), "precision": "bf16"}
    pixels = replace(store, teacher=known, origin={"name": "pixels"})
    found = open_live_teacher(config, pixels, CPU)
    assert (found.name, found.preprocessing.crop, found.precision) == ("pixels", 8, "bf16")
    unnamed = replace(pixels, origin={})
    assert open_live_teacher(replace(config, teacher="pixels"), unnamed, CPU).name == "pixels"
    with pytest.raises(WrongUse, match=r"architecture, pixels: give --teacher NAME, and --weights FILE"):
        open_live_teacher(config, unnamed, CPU)


def test_a_library_model_is_named_by_its_architecture_and_needs_its_weights(
    packed: Path, taught: Path, tmp_path: Path
) -> None:
    network = torchvision.models.get_model("shufflenet_v2_x0_5", weights=None)
    save_safetensors(tmp_path / "w.safetensors", network.state_dict(), {})
    name, file = "torchvision/shufflenet_v2_x0_5", tmp_path / "w.safetensors"
    teacher = load_teacher(name, file, image_size=32).identity()
    store = replace(open_store(taught), teacher={**teacher, "precision": "fp32"}, origin={})
    config = live(packed, taught, tmp_path / "run", weights=file)
    assert open_live_teacher(config, store, CPU).name == name
    with pytest.raises(WrongUse, match=f"architecture, {name}: give --teacher"):
        open_live_teacher(replace(config, weights=None), store, CPU)


def test_a_teacher_with_a_function_for_preprocessing_cannot_be_live(packed: Path, cached: Path) -> None:
    store = open_store(cached)
    own = load_teacher("tests.support.tiny_teacher:with_callable")
    with pytest.raises(WrongUse, match="its own preprocessing function, which cannot take a student's crops"):
        open_live_teacher(live(Path(), cached, Path("run")), replace(store, teacher=own.identity()), CPU)


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
