"""Stores that `cache-teacher` writes: their values, their identity, and what happens when something fails."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import cli
from cache.errors import IdentityMismatch, InUse, StoreError
from cache.layout import Status
from cache.lock import sole_writer
from cache.reader import open_store
from cache.writer import create_store
from pipeline.embedding import cache_teacher, tasks, worker_shares
from pipeline.embedding.cache_teacher import embed
from pipeline.errors import PipelineError, WrongUse
from pipeline.images.dataset import Dataset
from pipeline.models.architectures import network_code
from pipeline.runtime.device import CPU
from pipeline.teachers.backbone_spec import BackboneSpec
from pipeline.teachers.registry import load_teacher
from tests.support import tiny_teacher
from tests.support.mixed_images import BLACK, UNREADABLE
from tests.support.tiny_store import contents, states


def teacher(function: str) -> BackboneSpec:
    return BackboneSpec(kind="teacher", name=f"tests.support.tiny_teacher:{function}")


@pytest.fixture(scope="module")
def whole(dataset: Dataset, scheduler: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store that was written without an interruption."""
    out = tmp_path_factory.mktemp("store") / "whole.zarr"
    report = embed(teacher("wide"), dataset, out, workers=1, batch_size=16, scheduler=scheduler)
    assert (report.rows, report.chunks, report.unreadable, report.degenerate) == (165, 4, 1, 0)
    return out


def test_the_store_is_what_a_plain_loop_gives(dataset: Dataset, whole: Path) -> None:
    store, backbone = open_store(whole), load_teacher("tests.support.tiny_teacher:wide")
    assert store.splits == ("train", "val")
    for name in store.splits:
        split, source = store.split(name), dataset.splits[name]
        assert split.complete
        for row in (row for row in (0, BLACK, 15, 16, 63, 64, 159) if row < source.rows):
            image = Image.open(source.data / name / source.names[row]).convert("RGB")
            with torch.inference_mode():
                feature = backbone.module(backbone.preprocessing.transform(image)[None])[0].double().numpy()
            norm = np.linalg.norm(feature)
            # float16 has 11 bits, and an embedding's largest element is below 0.01
            np.testing.assert_allclose(split.gather([row])[0], feature / norm, atol=1e-5)
            assert split.norm[0, row] == pytest.approx(norm, rel=1e-6)
        np.testing.assert_array_equal(split.label, source.labels)
        np.testing.assert_array_equal(split.thumb, source.thumbs)
        assert split.dataset == source.identity


def test_every_row_has_its_status(whole: Path) -> None:
    split = open_store(whole).split("train")
    expected = np.full(160, Status.OK)
    expected[UNREADABLE] = Status.UNREADABLE
    np.testing.assert_array_equal(split.status[0], expected)
    assert np.isnan(split.gather([UNREADABLE])).all()
    assert np.isnan(split.norm[0, UNREADABLE])
    assert np.isnan(split.crop[0, UNREADABLE]).all()
    # 20 x 18 px become 17 x 16 px, of which the middle 16 are seen: half a pixel off is rounded to even
    np.testing.assert_allclose(split.crop[0, 0], (0, 0, 1, 16 / 17, 0), atol=1e-7)


def test_a_store_records_the_name_its_teacher_was_loaded_by(whole: Path, tmp_path: Path) -> None:
    assert open_store(whole).origin == {"name": "tests.support.tiny_teacher:wide"}
    weights = BackboneSpec(kind="teacher", name="moco_v2_resnet50", weights=tmp_path / "moco.pth")
    assert weights.origin() == {"name": "moco_v2_resnet50", "file": "moco.pth"}
    assert BackboneSpec(kind="run", run=tmp_path / "r18").origin() == {"run": "r18"}


def test_the_identity_covers_all_that_decides_a_value(whole: Path) -> None:
    backbone = load_teacher("tests.support.tiny_teacher:wide")
    assert open_store(whole).teacher == {
        "architecture": "tests.support.tiny_teacher:wide",
        "weights": backbone.weights_sha256,
        "code": network_code(backbone.module),
        "feature": "output",
        "dim": 131072,
        "preprocessing": {
            "resize": 16,
            "crop": 16,
            "interpolation": "bilinear",
            "mean": [0.5, 0.5, 0.5],
            "std": [0.25, 0.25, 0.25],
        },
        "dtype": "float16",
        "precision": "fp32",
        "batch_size": 16,
        "views_seed": 0,
        "format": 1,
    }


def test_a_complete_store_is_left_untouched(
    dataset: Dataset, whole: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = states(whole)
    monkeypatch.setattr(cache_teacher, "open_client", None)
    absent = "cuda"  # nothing is computed, so it does not matter
    report = embed(teacher("wide"), dataset, whole, workers=1, batch_size=16, progress=True, device=absent)
    assert str(report) == "nothing to do, every chunk is there"
    assert capsys.readouterr().err == "train: 0 of 3 chunks to do\nval: 0 of 1 chunks to do\n"
    assert states(whole) == before


def test_another_setting_or_dataset_is_refused_with_the_difference(
    dataset: Dataset, whole: Path, scheduler: str
) -> None:
    before = states(whole)
    with pytest.raises(IdentityMismatch, match="batch_size: expected 32, found 16"):
        embed(teacher("wide"), dataset, whole, batch_size=32, scheduler=scheduler)
    with pytest.raises(IdentityMismatch, match='precision: expected "bf16", found "fp32"'):
        embed(teacher("wide"), dataset, whole, batch_size=16, precision="bf16", scheduler=scheduler)
    other = replace(dataset, splits={"train": dataset.splits["val"]})
    with pytest.raises(IdentityMismatch, match="expected 5, found 160"):
        embed(teacher("wide"), other, whole, batch_size=16, scheduler=scheduler)
    assert states(whole) == before


def test_only_the_named_split_is_computed(
    dataset: Dataset, scheduler: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "s.zarr"
    options = {"workers": 1, "scheduler": scheduler, "progress": True}
    report = embed(teacher("convolutional"), dataset, out, splits=["val"], **options)
    shown = capsys.readouterr().err
    assert shown.startswith("val: 1 of 1 chunks to do\n")
    assert "5/5" in shown
    assert (report.rows, open_store(out).splits) == (5, ("val",))
    with pytest.raises(WrongUse, match="has no split 'vall'; did you mean 'val'"):
        embed(teacher("convolutional"), dataset, out, splits=["vall"], scheduler=scheduler)


def test_a_store_from_before_code_was_recorded_goes_on_and_one_of_other_code_does_not(
    whole: Path, dataset: Dataset, scheduler: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    identity = open_store(whole).teacher
    create_store(tmp_path / "old.zarr", {key: value for key, value in identity.items() if key != "code"})
    report = embed(
        teacher("wide"), dataset, tmp_path / "old.zarr", splits=("val",), batch_size=16, scheduler=scheduler
    )
    assert report.chunks
    shutil.copytree(whole, tmp_path / "new.zarr")
    monkeypatch.setattr(
        tiny_teacher.Wide, "forward", lambda self, images: images.flatten(1).repeat(1, 171)[:, : 1 << 17]
    )
    with pytest.raises(IdentityMismatch, match="code: expected"):
        embed(teacher("wide"), dataset, tmp_path / "new.zarr", batch_size=16, scheduler=scheduler)


def test_a_changed_image_fails_its_chunk_and_no_other(
    images: Path, dataset: Dataset, whole: Path, scheduler: str, tmp_path: Path
) -> None:
    changed = images / "train" / "a" / "000.png"
    original = changed.read_bytes()
    changed.write_bytes(original + b"x")
    try:
        with pytest.raises(
            PipelineError, match=r"3 of 4 chunks.*train chunk 0 \(rows 0 to 63\).*has changed since"
        ):
            embed(
                teacher("wide"), dataset, tmp_path / "s.zarr", workers=1, batch_size=16, scheduler=scheduler
            )
    finally:
        changed.write_bytes(original)
    report = embed(
        teacher("wide"), dataset, tmp_path / "s.zarr", workers=1, batch_size=16, scheduler=scheduler
    )
    assert report.chunks == 1
    assert contents(tmp_path / "s.zarr") == contents(whole)


def test_a_store_that_cannot_be_written_ends_it_at_once(
    dataset: Dataset, scheduler: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = []

    def full_disk(*arguments: object) -> None:
        tried.append(arguments)
        raise StoreError("no space left on device")

    monkeypatch.setattr(tasks, "write_chunk", full_disk)
    with pytest.raises(PipelineError, match=r"0 of 4 chunks were computed; train chunk [01] .*no space left"):
        embed(teacher("wide"), dataset, tmp_path / "s.zarr", workers=1, batch_size=16, scheduler=scheduler)
    assert len(tried) == 1


def test_with_a_scheduler_the_device_is_resolved_in_the_workers_alone(
    dataset: Dataset, scheduler: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command may run where there is no GPU; here the workers have none either, until the test lets them."""
    monkeypatch.setattr(cache_teacher, "resolve_device", None)
    asked, answers = [], [WrongUse("--device cuda: PyTorch finds no CUDA device"), CPU]

    def resolve(name: str) -> torch.device:
        asked.append(name)
        answer = answers.pop(0)
        if isinstance(answer, WrongUse):
            raise answer
        return answer

    monkeypatch.setattr(worker_shares, "resolve_device", resolve)
    run = {"device": "cuda", "splits": ["val"], "scheduler": scheduler}
    with pytest.raises(PipelineError, match=r"no dask worker can compute; .*: --device cuda: PyTorch finds"):
        embed(teacher("convolutional"), dataset, tmp_path / "s.zarr", **run)
    assert embed(teacher("convolutional"), dataset, tmp_path / "s.zarr", **run).rows == 5
    assert asked == ["cuda", "cuda"]


def test_no_scheduler_at_the_address_is_a_sentence(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.embedding.dask_workers.SECONDS_TO_CONNECT", 0.2)
    with pytest.raises(WrongUse, match=r"no dask scheduler answers at tcp://127\.0\.0\.1:9"):
        embed(teacher("wide"), dataset, tmp_path / "s.zarr", scheduler="tcp://127.0.0.1:9")


def test_a_batch_size_below_one_is_refused(
    dataset: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["cache-teacher", str(dataset.path), str(tmp_path / "s.zarr"), "--batch-size", "0"]
    assert cli.run_cli(command) == 2
    error = capsys.readouterr().err
    assert "--batch-size" in error
    assert "at least 1" in error


def test_a_second_writer_of_a_store_is_refused_and_a_reader_is_not(
    dataset: Dataset, whole: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy.zarr"
    shutil.copytree(whole, copy)
    (copy / "train" / "embedding" / "c" / "0" / "1" / "0").unlink()
    before = states(copy)
    with sole_writer(copy):
        with pytest.raises(InUse, match=r"copy\.zarr is being written by process"):
            embed(teacher("wide"), dataset, copy, workers=1, batch_size=16)
        assert len(open_store(copy).split("train").absent) == 1
    after = states(copy)
    assert {name: after[name] for name in before if name != ".lock"} == {
        name: content for name, content in before.items() if name != ".lock"
    }
