"""The stores that the figures show."""

from pathlib import Path

import pytest

from pipeline.errors import PipelineError
from pipeline.images.dataset import Dataset, open_dataset
from pipeline.report.selection import STUDENTS, require_splits, student_stores, teacher_stores
from pipeline.report.systems import load_systems
from tests.support.report_targets import write_run, write_store


@pytest.fixture(scope="module")
def dataset(packed: Path) -> Dataset:
    return open_dataset(packed)


def test_one_seed_of_each_student_and_no_more_than_a_page_holds(dataset: Dataset, tmp_path: Path) -> None:
    cache = write_store(tmp_path / "cache.zarr", dataset)
    runs = [
        write_run(tmp_path / f"{objective}{seed}", dataset, cache, objective=objective, seed=seed)
        for objective in ("1q", "2q", "reg", "cc", "crd")
        for seed in (0, 1)
    ]
    runs.insert(0, write_run(tmp_path / "untrained", dataset, cache, epochs=0))
    found = student_stores(load_systems(runs), dataset)
    assert list(found) == ["resnet18 1q", "resnet18 2q", "resnet18 reg", "resnet18 cc"]
    assert len(found) == STUDENTS
    assert found["resnet18 1q"].path == tmp_path / "1q0" / "embeddings.zarr"


def test_a_teacher_that_was_named_or_that_a_run_knows_is_there_once(dataset: Dataset, tmp_path: Path) -> None:
    cache = write_store(tmp_path / "cache.zarr", dataset, name="demo")
    run = write_run(tmp_path / "run", dataset, cache)
    known = teacher_stores(load_systems([run]), dataset)
    assert list(known) == ["teacher demo"]
    named = teacher_stores(load_systems([run, cache]), dataset)
    assert list(named) == ["teacher planted"], "as its row of the table is called"
    assert known["teacher demo"].id == named["teacher planted"].id


def test_stores_of_other_images_are_not_shown(dataset: Dataset, packed: Path, tmp_path: Path) -> None:
    cache = write_store(tmp_path / "cache.zarr", dataset)
    systems = load_systems([cache, write_run(tmp_path / "run", dataset, cache)])
    other = open_dataset(packed)
    other.splits["train"].identity["images"] = "another"
    assert teacher_stores(systems, other) == {}
    with pytest.raises(PipelineError, match="has embeddings of this dataset"):
        student_stores(systems, other)


def test_figures_need_a_dataset_with_val(packed: Path) -> None:
    half = open_dataset(packed)
    del half.splits["val"]
    with pytest.raises(PipelineError, match="has no val split"):
        require_splits(half)
    with pytest.raises(PipelineError, match="--dataset"):
        require_splits(None)
