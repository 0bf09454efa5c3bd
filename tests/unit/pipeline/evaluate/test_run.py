"""`eval` on runs and caches: what it writes, and what it refuses."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from cache.reader import open_store
from pipeline.errors import PipelineError, WrongUse
from pipeline.evaluate import knn as nearest
from pipeline.evaluate.augmented import augmented_batches
from pipeline.evaluate.features import load_features
from pipeline.evaluate.run import evaluate_targets
from pipeline.images.dataset import open_dataset
from pipeline.images.pack import pack
from pipeline.report.markdown import write_report
from pipeline.results.records import load_metrics, metrics_path
from pipeline.runtime.device import CPU
from pipeline.settings.commands import EvalConfig, PackConfig
from tests.support.tiny_store import contents
from tests.support.training_runs import untrained_run


@pytest.fixture(scope="module")
def store(cached: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(shutil.copytree(cached, tmp_path_factory.mktemp("evaluated") / "teacher.zarr"))


@pytest.fixture(scope="module")
def untrained(packed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return untrained_run(packed, tmp_path_factory.mktemp("evaluated-run") / "run", "build")


@pytest.fixture(scope="module")
def birds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another dataset than `packed`: two classes of flat colours, 6 + 3 images each."""
    root = tmp_path_factory.mktemp("birds")
    for split, count in (("train", 6), ("val", 3)):
        for colour in ("red", "blue"):
            folder = root / "images" / split / colour
            folder.mkdir(parents=True)
            for number in range(count):
                Image.new("RGB", (30 + number, 32), colour).save(folder / f"{number}.png")
    pack(PackConfig(data=root / "images", out=root / "birds", workers=1))
    return root / "birds"


def test_a_cache_gets_its_metrics_beside_it_and_into_the_table(
    store: Path, packed: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    evaluate_targets(EvalConfig(targets=(store,), dataset=packed, device="cpu"))
    result = load_metrics(metrics_path(store))
    train, val = (load_features(open_store(store), split) for split in ("train", "val"))
    assert result.metrics["nn1"] == dict(nearest.evaluate(train, val))["nn1"]
    assert set(result.metrics) == {"nn1", "nn20", "linear", "ca", "ca_std"}
    assert (result.name, result.role) == ("teacher planted", "teacher")
    assert f"{100 * result.metrics['linear']:.1f}" in capsys.readouterr().out
    page = tmp_path / "page.md"
    page.write_text("<!-- results:here -->\n<!-- /results:here -->\n")
    write_report([store], page, "here")
    assert "| teacher planted |" in page.read_text()
    assert result.provenance["commit"] in page.read_text()


def test_a_later_evaluation_keeps_the_numbers_of_an_earlier_one(store: Path, packed: Path) -> None:
    config = EvalConfig(targets=(store,), dataset=packed, device="cpu", protocol=("nn",))
    evaluate_targets(config)
    first = load_metrics(metrics_path(store)).metrics
    evaluate_targets(replace(config, protocol=("few-label",), labels=("2shot",), draws=2))
    both = load_metrics(metrics_path(store)).metrics
    assert set(both) == {*first, "few2shot", "few2shot_std"}
    assert all(both[metric] == value for metric, value in first.items())


def test_another_dataset_stands_beside_the_runs_own(
    untrained: Path, packed: Path, birds: Path, scheduler: str
) -> None:
    own = EvalConfig(
        targets=(untrained,), dataset=packed, device="cpu", protocol=("nn",), workers=1, scheduler=scheduler
    )
    evaluate_targets(own)
    before = contents(untrained / "embeddings.zarr")
    first = load_metrics(metrics_path(untrained))
    evaluate_targets(replace(own, dataset=birds, protocol=("nn", "transfer")))
    assert contents(untrained / "embeddings.zarr") == before
    (elsewhere,) = (untrained / "transfer").iterdir()
    assert elsewhere.name.startswith("birds-")
    found = load_metrics(metrics_path(untrained))
    assert set(found.metrics) - set(first.metrics) == {"nn1@birds", "nn20@birds", "transfer@birds"}
    assert found.provenance == first.provenance
    # even random weights separate flat colours
    assert found.metrics["transfer@birds"] == 1.0


def test_two_datasets_of_one_name_keep_their_numbers(
    untrained: Path, birds: Path, tmp_path: Path, scheduler: str
) -> None:
    other = tmp_path / "other" / "birds"
    for split, count in (("train", 4), ("val", 2)):
        for colour in ("green", "black"):
            folder = tmp_path / "images" / split / colour
            folder.mkdir(parents=True)
            for number in range(count):
                Image.new("RGB", (30 + number, 32), colour).save(folder / f"{number}.png")
    pack(PackConfig(data=tmp_path / "images", out=other, workers=1))
    for dataset in (birds, other, birds):
        evaluate_targets(
            EvalConfig(
                targets=(untrained,),
                dataset=dataset,
                device="cpu",
                protocol=("nn",),
                workers=1,
                scheduler=scheduler,
            )
        )
    found = load_metrics(metrics_path(untrained)).metrics
    assert {"nn1@birds", "nn1@other/birds"} <= found.keys()


def test_equal_targets_are_told_apart_and_one_that_is_named_twice_counts_once(
    store: Path, packed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copies = tuple(Path(shutil.copytree(store, tmp_path / name)) for name in ("v.s", "v.b"))
    targets = (*copies, copies[0])
    evaluate_targets(EvalConfig(targets=targets, dataset=packed, device="cpu", protocol=("nn",)))
    shown = capsys.readouterr().out
    assert shown.count("teacher planted (v.s)") == shown.count("teacher planted (v.b)") == 1
    assert all(path.is_file() for path in map(metrics_path, copies))


def test_metrics_that_cannot_be_written_are_refused_before_anything_is_embedded(
    packed: Path, tmp_path: Path
) -> None:
    run = untrained_run(packed, tmp_path / "run", "build")
    (run / "metrics.json").mkdir()
    with pytest.raises(WrongUse, match=r"cannot write .*metrics\.json"):
        evaluate_targets(EvalConfig(targets=(run,), dataset=packed, device="cpu"))
    assert not (run / "embeddings.zarr").exists()


def test_missing_labels_are_refused_before_anything_is_embedded(
    untrained: Path, packed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "pipeline.evaluate.run.label_problem", lambda dataset: "the split 'val' has no labelled image"
    )
    monkeypatch.setattr("pipeline.evaluate.run.embed_run", None)
    with pytest.raises(
        PipelineError, match="no labelled image; evaluation needs a dataset packed from class folders"
    ):
        evaluate_targets(EvalConfig(targets=(untrained,), dataset=packed, protocol=("nn",)))


def test_the_layers_of_a_student_are_probed_and_the_best_is_named(
    packed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], scheduler: str
) -> None:
    run = untrained_run(packed, tmp_path / "run", "staged")
    config = EvalConfig(
        targets=(run,),
        dataset=packed,
        device="cpu",
        protocol=("linear",),
        epochs=2,
        layer="all",
        scheduler=scheduler,
    )
    evaluate_targets(config)
    found = load_metrics(metrics_path(run)).metrics
    stages = [f"linear_layer{number}" for number in (1, 2, 3, 4)]
    assert list(found) == [*stages, "linear_best"]
    assert found["linear_best"] == max(found[stage] for stage in stages)
    # 4 channels of 12 x 12 of an image of 24 px, far below 9,600 numbers
    assert open_store(run / "layers" / "layer1.zarr").teacher["dim"] == 4 * 12 * 12
    capsys.readouterr()
    evaluate_targets(replace(config, layer="layer2", features="augmented"))
    assert "linear augmented layer2" in " ".join(capsys.readouterr().out.split())
    assert set(load_metrics(metrics_path(run)).metrics) == {*found, "linear_augmented_layer2"}


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"protocol": ("linaer",)}, "did you mean 'linear'"),
        ({"features": "augmented"}, "need a run's student"),
        ({"layer": "conv5"}, "need a run's student"),
    ],
)
def test_wrong_use_is_said(store: Path, packed: Path, changes: dict[str, object], sentence: str) -> None:
    config = EvalConfig(targets=(store,), dataset=packed, device="cpu")
    with pytest.raises(WrongUse, match=sentence):
        evaluate_targets(replace(config, **changes))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"protocol": ("transfer",)}, "transfer needs another dataset"),
        ({"protocol": ("nn",), "layer": "0"}, "add linear to --protocol"),
        ({"layer": "conv5"}, "has no layer 'conv5'"),
    ],
)
def test_protocols_that_do_not_apply_to_a_run_are_refused(
    untrained: Path, packed: Path, changes: dict[str, object], sentence: str
) -> None:
    config = EvalConfig(targets=(untrained,), dataset=packed, device="cpu")
    with pytest.raises(WrongUse, match=sentence):
        evaluate_targets(replace(config, **changes))


def test_the_augmented_probe_sees_other_crops_each_epoch_through_a_frozen_student(
    untrained: Path, packed: Path
) -> None:
    config = EvalConfig(targets=(untrained,), dataset=packed, batch_size=40)
    batches = augmented_batches(untrained, open_dataset(packed), config, CPU)
    first, again, other = (list(batches(epoch)) for epoch in (0, 0, 1))
    assert [len(labels) for _, labels in first] == [40] * 4
    # the same crops through running statistics that have not moved
    assert all(torch.equal(a, b) for (a, _), (b, _) in zip(first, again, strict=True))
    assert not torch.equal(first[0][0], other[0][0])
