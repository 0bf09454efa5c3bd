"""metrics.json over several evaluations: what is kept, what is dropped, and each metric's provenance."""

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.results.metrics_file import Evaluation, is_recorded, read_evaluations, record_evaluation
from pipeline.results.records import load_metrics

OWN, BIRDS = "0" * 16, "b" * 16


def evaluation(date: str, dataset: str = OWN, store: str = "s1", **metrics: float) -> Evaluation:
    named = {metric.replace("_at_", "@"): value for metric, value in metrics.items()}
    return Evaluation(metrics=named, provenance={"date": date, "dataset": dataset, "store": store, "seed": 0})


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


def test_a_file_from_before_and_one_that_is_broken(path: Path) -> None:
    old = {"format": 1, "name": "x", "metrics": {"nn1": 0.5}, "provenance": {"dataset": OWN, "store": "s1"}}
    path.write_text(json.dumps(old))
    assert write(path, evaluation("monday", ca=0.3))["metrics"] == {"nn1": 0.5, "ca": 0.3}
    path.write_text("{")
    assert write(path, evaluation("monday", ca=0.3))["metrics"] == {"ca": 0.3}
