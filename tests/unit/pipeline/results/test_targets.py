"""Runs and caches get their name and role from what made them."""

import json
from pathlib import Path

from cache.writer import create_store
from pipeline.results.distinct_names import Input, distinct_names
from pipeline.results.targets import compared_settings, target_of
from tests.support.training_runs import untrained_run


def test_what_made_a_run_names_it(packed: Path, tmp_path: Path) -> None:
    untrained = untrained_run(packed, tmp_path / "untrained", "build")

    def named(**changes: object) -> tuple[str, str]:
        record = json.loads((untrained / "config.json").read_text())
        record["config"] |= {"student": "resnet18", "epochs": 5, "objective": "2q"}
        (tmp_path / "config.json").write_text(json.dumps(record | changes))
        target = target_of(tmp_path)
        return target.name, target.role

    assert named(command="distill") == ("resnet18 2q", "student")
    assert named(command="pretrain") == ("resnet18 from scratch (SimCLR)", "scratch")
    assert target_of(untrained).role == "untrained"


def test_a_cache_is_its_teacher(cached: Path) -> None:
    target = target_of(cached)
    assert (target.name, target.role, target.run) == ("teacher planted", "teacher", None)
    assert target.metrics == cached.with_suffix(".metrics.json")


def test_a_store_of_a_student_is_named_after_its_run_or_file(tmp_path: Path) -> None:
    create_store(
        tmp_path / "store", {"architecture": "resnet18 in ONNX", "weights": "0" * 64}, {"run": "r18.onnx"}
    )
    target = target_of(tmp_path / "store")
    assert (target.name, target.role, target.run) == ("r18.onnx", "student", None)


def test_runs_are_compared_by_their_caches_and_images_whatever_these_are_called(
    packed: Path, tmp_path: Path
) -> None:
    record = json.loads((untrained_run(packed, tmp_path / "run", "build") / "config.json").read_text())
    images = record["made_of"]["dataset"]["images"]
    compared = compared_settings(record)
    assert compared["dataset"] == Input(images, packed.name)
    assert not {"seed", "workers", "run"} & compared.keys()


def test_caches_of_one_teacher_are_compared_by_its_preprocessing(tmp_path: Path) -> None:
    stores = []
    for crop in (32, 64):
        teacher = {"architecture": "x", "weights": "0" * 64, "preprocessing": {"resize": 64, "crop": crop}}
        create_store(tmp_path / f"{crop}", teacher, {"name": "x"})
        stores.append(target_of(tmp_path / f"{crop}"))
    names = distinct_names([store.candidate for store in stores])
    assert names == ["teacher x, crop 32", "teacher x, crop 64"]
