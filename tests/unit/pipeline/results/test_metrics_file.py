"""metrics.json over several evaluations: what is kept, what is dropped, and each metric's provenance."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from cache.reader import open_store
from pipeline.results.metrics_file import (
    Evaluation,
    is_recorded,
    name_dataset,
    read_evaluations,
    record_evaluation,
    recorded_path,
)
from pipeline.results.records import load_metrics, metrics_path

OWN, BIRDS = "0" * 16, "b" * 16


def evaluation(
    date: str, dataset: str = OWN, store: str = "s1", folder: str = "", **metrics: float
) -> Evaluation:
    named = {metric.replace("_at_", "@"): value for metric, value in metrics.items()}
    origin = {"date": date, "dataset": dataset, "store": store, "seed": 0}
    return Evaluation(metrics=named, provenance=origin, folder=folder)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "metrics.json"


def write(path: Path, *evaluations: Evaluation) -> dict[str, Any]:
    for new in evaluations:
        record_evaluation(path, name="resnet18 1q", role="student", new=new)
    return json.loads(path.read_text())


def test_one_evaluation_is_written_as_it_is(path: Path) -> None:
    new = evaluation("monday", nn1=0.5, ca=0.25)
    assert write(path, new) == {
        "format": 1,
        "name": "resnet18 1q",
        "role": "student",
        "metrics": {"nn1": 0.5, "ca": 0.25},
        "provenance": new.provenance,
    }
    assert read_evaluations(path) == [new]


def test_a_later_evaluation_keeps_what_it_did_not_measure_with_its_own_provenance(path: Path) -> None:
    first, second = evaluation("monday", nn1=0.5, ca=0.2), evaluation("tuesday", ca=0.3, linear=0.7)
    written = write(path, first, second)
    assert written["metrics"] == {"nn1": 0.5, "ca": 0.3, "linear": 0.7}
    assert written["provenance"]["date"] == "tuesday"
    assert written["others"] == [{"metrics": ["nn1"], "provenance": first.provenance}]
    assert read_evaluations(path) == [evaluation("monday", nn1=0.5), second]
    assert load_metrics(path).metrics == written["metrics"]
    # all of it measured once more: nothing is left of the others
    assert "others" not in write(path, evaluation("wednesday", nn1=0.5, ca=0.2, linear=0.7))


def test_recorded_metrics_are_recognized_by_value_model_and_dataset(path: Path) -> None:
    assert not is_recorded(path, evaluation("monday", nn1=0.5))
    write(path, evaluation("monday", nn1=0.5, ca=0.2), evaluation("tuesday", ca=0.3))
    assert is_recorded(path, evaluation("wednesday", nn1=0.5, ca=0.3))
    for other in (
        evaluation("friday", nn1=0.5, ca=0.2),
        evaluation("friday", nn1=0.5, linear=0.7),
        evaluation("friday", store="s2", nn1=0.5),
        evaluation("friday", dataset=BIRDS, nn1=0.5),
    ):
        assert not is_recorded(path, other)


def test_another_network_begins_anew(path: Path) -> None:
    written = write(path, evaluation("monday", nn1=0.5), evaluation("tuesday", store="s2", ca=0.3))
    assert written["metrics"] == {"ca": 0.3}
    assert "others" not in written


def test_another_dataset_stands_beside_and_the_own_one_stays_first(path: Path) -> None:
    own = evaluation("monday", nn1=0.5)
    birds = evaluation("tuesday", BIRDS, nn1_at_birds=0.1, linear_at_birds=0.2)
    written = write(path, own, birds)
    assert written["metrics"] == {"nn1": 0.5, "nn1@birds": 0.1, "linear@birds": 0.2}
    assert written["provenance"] == own.provenance
    # and the own dataset again, with one metric more
    written = write(path, evaluation("wednesday", ca=0.4))
    assert written["metrics"] == {"nn1": 0.5, "nn1@birds": 0.1, "linear@birds": 0.2, "ca": 0.4}
    assert written["provenance"]["date"] == "wednesday"
    assert [other["provenance"]["date"] for other in written["others"]] == ["monday", "tuesday"]


def test_another_dataset_of_the_same_name_takes_its_place(path: Path) -> None:
    own, birds = (
        evaluation("monday", nn1=0.5),
        evaluation("tuesday", BIRDS, nn1_at_birds=0.1, ca_at_birds=0.1),
    )
    other = evaluation("wednesday", "c" * 16, nn1_at_birds=0.9)
    assert write(path, own, birds, other)["metrics"] == {"nn1": 0.5, "nn1@birds": 0.9}


def test_the_folder_of_another_dataset_is_kept(path: Path) -> None:
    birds = evaluation("monday", BIRDS, folder="/old/birds", nn1_at_birds=0.1)
    assert write(path, birds)["folder"] == "/old/birds"
    assert write(path, evaluation("tuesday", nn1=0.5))["others"][0]["folder"] == "/old/birds"
    assert birds in read_evaluations(path)


def test_two_datasets_never_share_a_name(tmp_path: Path) -> None:
    first, second = tmp_path / "cub" / "dataset", tmp_path / "cars" / "dataset"
    ids = {"dataset": BIRDS, "store": "s1"}
    assert name_dataset([], first, **ids) == "dataset"
    taken = [evaluation("monday", BIRDS, folder=str(first), nn1_at_dataset=0.1)]
    assert name_dataset(taken, first, **ids) == "dataset", "measured again"
    assert name_dataset(taken, first, dataset="c" * 16, store="s1") == "dataset", "packed again"
    assert name_dataset(taken, second, dataset="c" * 16, store="s1") == "cars/dataset"
    assert name_dataset(taken, second, dataset="c" * 16, store="s2") == "dataset", "of other weights"
    both = [
        *taken,
        Evaluation(metrics={"nn1@cars/dataset": 0.2}, provenance={"dataset": "c" * 16, "store": "s1"}),
    ]
    assert name_dataset(both, second, dataset="c" * 16, store="s1") == "cars/dataset"
    # older files do not name the folder: other images of the same name may be another dataset
    old = [evaluation("monday", BIRDS, nn1_at_dataset=0.1)]
    assert name_dataset(old, first, **ids) == "dataset"
    assert name_dataset(old, first, dataset="c" * 16, store="s1") == "cub/dataset"


def test_metrics_of_a_cache_without_zarr_in_its_name_are_read_where_older_versions_wrote_them(
    cached: Path, tmp_path: Path
) -> None:
    small, big = (Path(shutil.copytree(cached, tmp_path / name)) for name in ("v.s", "v.b"))
    assert [metrics_path(cache).name for cache in (small, big)] == ["v.s.metrics.json", "v.b.metrics.json"]
    id, images = open_store(small).id[:16], open_store(small).split("train").dataset["images"][:16]
    old = tmp_path / "v.metrics.json"
    write(old, evaluation("monday", images, store=id, nn1=0.5))
    assert recorded_path(small) == old
    new = evaluation("tuesday", images, store=id, ca=0.3)
    record_evaluation(metrics_path(small), name="x", role="teacher", new=new, earlier=recorded_path(small))
    assert load_metrics(recorded_path(small)).metrics == {"nn1": 0.5, "ca": 0.3}
    assert recorded_path(small) == metrics_path(small)
    for other in (
        evaluation("x", images, store="another", nn1=0.5),
        evaluation("x", BIRDS, store=id, nn1=0.5),
    ):
        old.unlink()
        write(old, other)
        assert recorded_path(big) == metrics_path(big), "the numbers of another cache"


def test_a_file_from_before_and_one_that_is_broken(path: Path) -> None:
    old = {"format": 1, "name": "x", "metrics": {"nn1": 0.5}, "provenance": {"dataset": OWN, "store": "s1"}}
    path.write_text(json.dumps(old))
    assert write(path, evaluation("monday", ca=0.3))["metrics"] == {"nn1": 0.5, "ca": 0.3}
    path.write_text("{")
    assert write(path, evaluation("monday", ca=0.3))["metrics"] == {"ca": 0.3}
