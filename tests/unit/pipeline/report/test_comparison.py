"""Measured metrics beside the paper's row of the same teacher, student and objective."""

from pathlib import Path

import pytest

from pipeline.errors import PipelineError
from pipeline.images.dataset import open_dataset
from pipeline.report.comparison import compare_with_paper, results
from pipeline.report.systems import load_systems
from tests.support.report_targets import write_metrics, write_run, write_store


def test_a_run_stands_beside_the_papers_row_of_its_teacher_student_and_objective(
    tmp_path: Path, packed: Path
) -> None:
    dataset = open_dataset(packed)
    moco = write_store(tmp_path / "moco.zarr", dataset, name="moco_v2_resnet50")
    own = write_store(tmp_path / "own.zarr", dataset, seed=1, name="demo")
    targets = [
        write_run(tmp_path / "a", dataset, moco, nn1=0.5, seed=0, store=False),
        write_run(tmp_path / "b", dataset, moco, nn1=0.6, seed=1, store=False),
        write_run(tmp_path / "c", dataset, own, nn1=0.9, store=False, student="mobilenet_v2"),
    ]
    found = {(line.name, line.metric): line for line in compare_with_paper(load_systems(targets))}
    # The paper: linear 62.6, 1-NN 53.5; no row has the demo's teacher.
    assert {name for name, _ in found} == {"resnet18 1q"}
    near = found["resnet18 1q", "1-NN"]
    assert (near.published, near.measured) == (53.5, "55.0 ± 7.1 (n=2)")
    assert near.difference == pytest.approx(1.5)
    assert near.where == "160 images, 4 classes"
    assert found["resnet18 1q", "linear, on stored crops"].difference == pytest.approx(55.0 - 62.6)


def test_the_linear_probe_on_random_crops_is_what_compares(tmp_path: Path, packed: Path) -> None:
    dataset = open_dataset(packed)
    cache = write_store(tmp_path / "moco.zarr", dataset, name="moco_v2_resnet50")
    run = write_run(tmp_path / "a", dataset, cache, store=False)
    write_metrics(run / "metrics.json", "resnet18 1q", {"linear": 0.5, "linear_augmented": 0.626}, seed=0)
    (line,) = compare_with_paper(load_systems([run]))
    assert (line.metric, line.measured, line.difference) == ("linear", "62.6", pytest.approx(0.0))


def test_a_published_teachers_cache_is_beside_its_own_row(tmp_path: Path, packed: Path) -> None:
    dataset = open_dataset(packed)
    cache = write_store(tmp_path / "swav.zarr", dataset, name="swav_resnet50")
    write_metrics(tmp_path / "swav.metrics.json", "teacher", {"nn1": 0.6}, seed=None, role="teacher")
    (line,) = compare_with_paper(load_systems([cache]))
    assert (line.published, line.measured) == (60.7, "60.0")


def test_systems_without_a_row_in_the_paper_are_refused(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match="row of the paper"):
        compare_with_paper(load_systems([write_metrics(tmp_path / "a.json", "1q", {"nn1": 0.5}, seed=0)]))


def test_metrics_that_the_main_table_has_no_column_for_get_their_own(tmp_path: Path) -> None:
    first = write_metrics(tmp_path / "a.json", "1q", {"nn1": 0.5, "few1shot": 0.25}, seed=0)
    second = write_metrics(tmp_path / "b.json", "2q", {"nn1": 0.4, "linear@birds": 0.125}, seed=0)
    found = results(load_systems([first, second]))
    assert found.table.titles == ["1-NN", "20-NN", "linear", "CA"]
    assert found.further is not None
    assert found.further.titles == ["few1shot", "linear@birds"]
    assert [(name, [text for text, _ in cells]) for name, cells in found.further.rows] == [
        ("1q", ["25.0", "-"]),
        ("2q", ["-", "12.5"]),
    ]
    assert "| 1q |" in found.markdown


def test_systems_without_an_evaluation_are_refused(tmp_path: Path, packed: Path) -> None:
    dataset = open_dataset(packed)
    cache = write_store(tmp_path / "cache.zarr", dataset)
    with pytest.raises(PipelineError, match="evaluated yet"):
        results(load_systems([cache]))
