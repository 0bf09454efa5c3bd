"""Evaluating runs and caches: what is a target, what is written, what is refused."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from cache.errors import IdentityMismatch
from cache.reader import open_store
from pipeline.config import EvalConfig, PretrainConfig
from pipeline.dataset import open_dataset
from pipeline.errors import WrongUse
from pipeline.evaluate import nearest
from pipeline.evaluate.augmented import augmented_batches
from pipeline.evaluate.features import features_of
from pipeline.evaluate.run import evaluate_targets, of_dataset, target_of
from pipeline.pretrain import pretrain
from pipeline.report.table import load_metrics, metrics_of, write_report


@pytest.fixture(scope="module")
def store(cached: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(shutil.copytree(cached, tmp_path_factory.mktemp("evaluated") / "teacher.zarr"))


@pytest.fixture(scope="module")
def untrained(packed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("evaluated-run") / "run"
    student = "tests.tiny_student:build"
    pretrain(PretrainConfig(dataset=packed, run=run, student=student, image_size=24, epochs=0, batch_size=32))
    return run


def test_a_cache_gets_its_metrics_beside_it_and_into_the_table(
    store: Path, packed: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    evaluate_targets(EvalConfig(targets=(store,), dataset=packed, device="cpu"))
    result = load_metrics(metrics_of(store))
    train, val = (features_of(open_store(store), split) for split in ("train", "val"))
    assert result.metrics["nn1"] == dict(nearest.evaluate(train, val))["nn1"]
    assert set(result.metrics) == {"nn1", "nn20", "linear", "ca"}
    assert (result.name, result.role) == ("teacher planted", "teacher")
    assert f"{100 * result.metrics['linear']:.1f}" in capsys.readouterr().out
    page = tmp_path / "page.md"
    page.write_text("<!-- results:here -->\n<!-- /results:here -->\n")
    write_report([store], page, "here")
    assert "| teacher planted |" in page.read_text()
    assert result.provenance["commit"] in page.read_text()


def test_what_made_a_run_names_it(untrained: Path, tmp_path: Path) -> None:
    def named(**changes: object) -> tuple[str, str]:
        record = json.loads((untrained / "config.json").read_text())
        record["config"] |= {"student": "resnet18", "epochs": 5, "objective": "2q"}
        (tmp_path / "config.json").write_text(json.dumps(record | changes))
        target = target_of(tmp_path)
        return target.name, target.role

    assert named(command="distill") == ("resnet18 2q", "student")
    assert named(command="pretrain") == ("resnet18 from scratch (SimCLR)", "scratch")
    assert target_of(untrained).role == "untrained"


def test_a_store_of_another_dataset_is_refused(store: Path, packed: Path) -> None:
    dataset = open_dataset(packed)
    val = replace(dataset.splits["val"], identity={**dataset.splits["val"].identity, "rows": 41})
    with pytest.raises(IdentityMismatch, match="rows: expected 41, found 40"):
        of_dataset(open_store(store), replace(dataset, splits={**dataset.splits, "val": val}))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"protocol": ("linaer",)}, "did you mean 'linear'"),
        ({"features": "augmented"}, "needs a run's student"),
    ],
)
def test_wrong_use_is_said(store: Path, packed: Path, changes: dict[str, object], sentence: str) -> None:
    config = EvalConfig(targets=(store,), dataset=packed, device="cpu")
    with pytest.raises(WrongUse, match=sentence):
        evaluate_targets(replace(config, **changes))


def test_the_augmented_probe_sees_other_crops_each_epoch_through_a_frozen_student(
    untrained: Path, packed: Path
) -> None:
    config = EvalConfig(targets=(untrained,), dataset=packed, batch_size=40)
    batches = augmented_batches(untrained, open_dataset(packed), config, "cpu")
    first, again, other = (list(batches(epoch)) for epoch in (0, 0, 1))
    assert [len(labels) for _, labels in first] == [40] * 4
    # the same crops through running statistics that have not moved
    assert all(torch.equal(a, b) for (a, _), (b, _) in zip(first, again, strict=True))
    assert not torch.equal(first[0][0], other[0][0])
