"""A registered teacher that was fed with another preprocessing than its own is warned of, and no other."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from cache.writer import create_store
from pipeline.embedding.cache_teacher import embed
from pipeline.images.dataset import open_dataset
from pipeline.images.preprocessing import IMAGENET, Preprocessing
from pipeline.teachers.backbone_spec import BackboneSpec
from pipeline.teachers.preprocessing_check import (
    known_teacher,
    preprocessing_differences,
    warn_of_preprocessing,
)
from pipeline.teachers.registry import TEACHERS, load_teacher
from pipeline.training.distill import distill
from tests.support.tiny_teacher import PLAIN, convolutional
from tests.support.training_runs import settings

SWAV_FILE = "swav_800ep_pretrain.pth.tar"
DINO_FILE = "dino_resnet50_pretrain.pth"


def identity(preprocessing: Preprocessing) -> dict:
    return {"architecture": "ResNet-50", "preprocessing": preprocessing.identity()}


@pytest.mark.parametrize("size", [None, 64, 96, 448])
def test_a_teachers_own_preprocessing_is_right_at_every_size(size: int | None) -> None:
    for name, entry in TEACHERS.items():
        own = entry.preprocessing
        assert preprocessing_differences(identity(own.at(size) if size else own), name) == []


@pytest.mark.parametrize("name", ["demo", "pixels"])
def test_the_registry_tells_what_is_loaded(name: str) -> None:
    assert load_teacher(name).preprocessing == TEACHERS[name].preprocessing


def test_the_weights_file_tells_more_than_the_name() -> None:
    assert known_teacher({"name": "swav_resnet50"}) == "swav_resnet50"
    assert known_teacher({"name": "swav_resnet50", "file": "mine.pth"}) == "swav_resnet50"
    assert known_teacher({"name": "torchvision/resnet50", "file": SWAV_FILE}) == "swav_resnet50"
    assert known_teacher({"name": "simclr_resnet50x1", "file": DINO_FILE}) == "dino_resnet50"
    for unknown in (
        {},
        {"run": "r18"},
        {"name": "torchvision/resnet50"},
        {"name": "mine:net", "file": "mine.pth"},
    ):
        assert known_teacher(unknown) == ""


def test_a_wrong_normalisation_is_warned_of_field_by_field(capsys: pytest.CaptureFixture[str]) -> None:
    warn_of_preprocessing(identity(IMAGENET), {"name": "mine:net", "file": SWAV_FILE})
    assert capsys.readouterr().err == (
        f"warning: these embeddings use another preprocessing than the teacher swav_resnet50 ({SWAV_FILE}) was "
        "trained with (std: expected [0.228, 0.224, 0.225], found [0.229, 0.224, 0.225]), which makes them worse; "
        "use `cache-teacher --teacher swav_resnet50`\n"
    )
    warn_of_preprocessing(
        identity(TEACHERS["simclr_resnet50x1"].preprocessing),
        {"name": "simclr_resnet50x1", "file": DINO_FILE},
    )
    said = capsys.readouterr().err
    for field in (
        "interpolation: expected",
        "mean: expected [0.485, 0.456, 0.406], found [0.0",
        "std: expected",
    ):
        assert field in said
    assert "resize" not in said


def test_what_cannot_be_compared_is_not_warned_of(capsys: pytest.CaptureFixture[str]) -> None:
    warn_of_preprocessing({"preprocessing": {"callable": "mine.prepare"}}, {"name": "swav_resnet50"})
    warn_of_preprocessing({"architecture": "planted"}, {"name": "swav_resnet50"})
    warn_of_preprocessing(identity(replace(IMAGENET, std=(1.0, 1.0, 1.0))), {"name": "mine:net"})
    assert capsys.readouterr().err == ""


def test_caching_and_distilling_warn(
    packed: Path, cached: Path, scheduler: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save(convolutional().state_dict(), tmp_path / DINO_FILE)
    spec = BackboneSpec(
        kind="teacher", name="tests.support.tiny_teacher:with_mapping", weights=tmp_path / DINO_FILE
    )
    embed(spec, open_dataset(packed), tmp_path / "embedded.zarr", splits=("val",), scheduler=scheduler)
    sentence = "another preprocessing than the teacher dino_resnet50 (dino_resnet50_pretrain.pth) was trained"
    assert capsys.readouterr().err.count(sentence) == 1
    store = tmp_path / "store.zarr"
    create_store(store, {"architecture": "planted", "preprocessing": PLAIN}, spec.origin())
    shutil.copytree(cached / "train", store / "train")
    distill(settings(packed, store, tmp_path / "run", epochs=0))
    assert capsys.readouterr().err.count(sentence) == 1
