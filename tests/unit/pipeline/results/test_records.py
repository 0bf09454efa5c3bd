"""A metrics file is read back, and one of another form is refused."""

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import PipelineError, WrongUse
from pipeline.results.records import Result, load_metrics


def test_a_metrics_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    content = {"format": 1, "name": "1q", "metrics": {"nn1": 0.53, "ca": 1}, "provenance": {"seed": 0}}
    path.write_text(json.dumps(content))
    expected = Result(name="1q", role="student", metrics={"nn1": 0.53, "ca": 1}, provenance={"seed": 0})
    assert load_metrics(path) == expected
    path.write_text(json.dumps({**content, "role": "teacher"}))
    assert load_metrics(path).role == "teacher"


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"format": 2}, "has format 2, expected 1"),
        ({"name": None}, "has no name or no metrics"),
        ({"metrics": [1]}, "has no name or no metrics"),
        ({"metrics": {"nn1": float("nan")}}, "has nan for nn1"),
        ({"metrics": {"nn1": "0.5"}}, "has '0.5' for nn1"),
        ({"metrics": {"nn1": True}}, "has True for nn1"),
        ({"role": "techer"}, "did you mean 'teacher'"),
    ],
)
def test_a_metrics_file_of_another_form_is_refused(
    tmp_path: Path, change: dict[str, Any], sentence: str
) -> None:
    path = tmp_path / "metrics.json"
    path.write_text(json.dumps({"format": 1, "name": "1q", "metrics": {}, **change}))
    with pytest.raises(PipelineError, match=sentence):
        load_metrics(path)


@pytest.mark.parametrize(("text", "sentence"), [("{", "is not JSON"), ("[]", "has format None")])
def test_a_file_that_is_no_result_is_refused(tmp_path: Path, text: str, sentence: str) -> None:
    path = tmp_path / "metrics.json"
    path.write_text(text)
    with pytest.raises(PipelineError, match=sentence):
        load_metrics(path)


def test_a_missing_metrics_file_is_wrong_use(tmp_path: Path) -> None:
    with pytest.raises(WrongUse, match="eval"):
        load_metrics(tmp_path / "metrics.json")
