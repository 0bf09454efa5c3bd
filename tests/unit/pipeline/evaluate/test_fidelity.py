"""Fidelity of a student to its teacher, against plain double precision and planted answers."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cache.reader import open_store
from pipeline.errors import PipelineError, WrongUse
from pipeline.evaluate import fidelity
from pipeline.evaluate.run import evaluate_targets
from pipeline.images.dataset import Dataset, open_dataset
from pipeline.neighbours import knn
from pipeline.results.records import load_metrics, metrics_path
from pipeline.settings.commands import EvalConfig
from pipeline.training.distill import distill
from tests.support.training_runs import settings, untrained_run
from tests.unit.pipeline.training.test_start_checks import unlabelled


def units(rows: int, dim: int, seed: int) -> np.ndarray:
    draws = np.random.default_rng(seed).normal(size=(rows, dim))
    return (draws / np.linalg.norm(draws, axis=1, keepdims=True)).astype(np.float32)


def test_recall_counts_the_teachers_neighbours() -> None:
    student, teacher = np.array([[1, 2, 3], [4, 5, 6]]), np.array([[3, 1, 9], [7, 8, 9]])
    np.testing.assert_allclose(fidelity.recall(student, teacher), [2 / 3, 0])


def test_divergence_is_the_papers_loss_in_double_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fidelity, "QUERIES_AT_ONCE", 4)
    sides = units(9, 6, 0), units(50, 6, 1), units(9, 11, 2), units(50, 11, 3)
    found = fidelity.divergence(*sides)
    student, of_student, teacher, of_teacher = (side.astype(np.float64) for side in sides)
    for i in range(9):
        p, q = (
            np.exp(query[i] @ anchors.T / 0.04) / np.exp(query[i] @ anchors.T / 0.04).sum()
            for query, anchors in ((teacher, of_teacher), (student, of_student))
        )
        assert found[i] == pytest.approx((p * np.log(p / q)).sum(), rel=1e-4)  # logits up to 25 in float32


def test_blocks_find_what_one_search_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fidelity, "BLOCK_ROWS", 7)
    everything, query, rows = units(60, 5, 0), units(8, 5, 1), np.arange(3, 48)
    score, found = fidelity.nearest(lambda part: everything[part], rows, query, 10)
    expected = knn(everything[rows], query, 10)
    np.testing.assert_array_equal(found, rows[expected[1]])
    np.testing.assert_allclose(score, expected[0], rtol=1e-6)
    assert fidelity.nearest(lambda part: everything[part], rows[:4], query, 10)[1].shape == (8, 4)


def test_a_student_that_is_its_teacher_has_all_its_neighbours(cached: Path) -> None:
    teacher = open_store(cached)
    same = fidelity.of_stores(teacher, teacher, seed=0)
    assert (len(same.rows), same.recall.min()) == (40, 1)
    assert np.abs(same.divergence).max() < 1e-9


def test_training_shows_a_student_that_comes_closer(packed: Path, cached: Path, tmp_path: Path) -> None:
    config = settings(packed, cached, tmp_path / "run", eval_every=3, epochs=12)
    distill(config)
    lines = map(json.loads, (config.run / "metrics.jsonl").read_text().splitlines())
    shown = [line for line in lines if "recall10" in line]
    assert [line["step"] for line in shown] == [12, 24, 36, 48]
    assert shown[-1]["recall10"] > shown[0]["recall10"] > 0
    assert shown[-1]["divergence"] < shown[0]["divergence"]


def test_images_without_labels_are_enough(
    packed: Path, cached: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = open_dataset(packed)
    plain = replace(dataset, splits={name: unlabelled(split) for name, split in dataset.splits.items()})

    def opened(path: Path) -> Dataset:
        return plain

    monkeypatch.setattr("pipeline.training.distill.open_dataset", opened)
    monkeypatch.setattr("pipeline.training.distill.require_same_images", lambda split, dataset: None)
    config = settings(packed, cached, tmp_path / "run", eval_every=3)
    distill(config)
    lines = list(map(json.loads, (config.run / "metrics.jsonl").read_text().splitlines()))
    assert [set(line) for line in lines if "recall10" in line] == [{"step", "recall10", "divergence"}]


@pytest.fixture(scope="module")
def trained(packed: Path, cached: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("followed") / "run"
    distill(settings(packed, cached, run))
    return run


def evaluated(target: Path, packed: Path, scheduler: str) -> dict[str, float]:
    config = EvalConfig(targets=(target,), dataset=packed, device="cpu", protocol=("fidelity",))
    evaluate_targets(replace(config, workers=1, scheduler=scheduler))
    return load_metrics(metrics_path(target)).metrics


def test_eval_records_it(trained: Path, packed: Path, cached: Path, scheduler: str) -> None:
    metrics = evaluated(trained, packed, scheduler)
    expected = fidelity.of_stores(open_store(trained / "embeddings.zarr"), open_store(cached), seed=0)
    assert metrics == {"recall10": pytest.approx(expected.recall.mean())}


def test_beside_other_protocols_what_has_no_teacher_has_no_fidelity(
    packed: Path, tmp_path: Path, scheduler: str
) -> None:
    untrained = untrained_run(packed, tmp_path / "untrained", "build")
    config = EvalConfig(targets=(untrained,), dataset=packed, device="cpu", protocol=("nn", "fidelity"))
    evaluate_targets(replace(config, workers=1, scheduler=scheduler))
    assert set(load_metrics(metrics_path(untrained)).metrics) == {"nn1", "nn20"}


def test_eval_refuses_what_has_no_teacher(
    packed: Path, cached: Path, tmp_path: Path, scheduler: str, trained: Path
) -> None:
    with pytest.raises(WrongUse, match="was trained without a teacher"):
        evaluated(untrained_run(packed, tmp_path / "untrained", "build"), packed, scheduler)
    with pytest.raises(WrongUse, match="a cache is the teacher's own; leave it out"):
        evaluated(Path(shutil.copytree(cached, tmp_path / "c.zarr")), packed, scheduler)
    moved = Path(shutil.copytree(trained, tmp_path / "moved"))
    record = json.loads((moved / "config.json").read_text())
    record["config"]["cache"] = str(tmp_path / "gone.zarr")
    (moved / "config.json").write_text(json.dumps(record))
    with pytest.raises(WrongUse, match=r"needs the cache that .* was trained from, but .* does not exist"):
        evaluated(moved, packed, scheduler)


def test_stores_without_a_common_image_are_refused(cached: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cache.reader.Split.eligible", lambda self, views=(0,): np.empty(0, np.int64))
    store = open_store(cached)
    with pytest.raises(PipelineError, match="have no image in common"):
        fidelity.of_stores(store, store, seed=0)
