"""--tracker: what is passed on to Weights & Biases and MLflow, here to packages of their interface that take notes."""

import sys
import types
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import PipelineError, WrongUse
from pipeline.training.distill import distill
from pipeline.training.tracker import Tracker
from tests.support.training_runs import losses, settings


@pytest.fixture
def notes(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[Any]]:
    """Stand-ins for both packages, which want accounts or servers, with the names of their documentation."""
    found: dict[str, list[Any]] = {"started": [], "logged": [], "closed": []}

    def log(values: dict[str, float], step: int) -> None:
        found["logged"].append((step, dict(values)))

    def close() -> None:
        found["closed"].append(True)

    def init(**given: Any) -> types.SimpleNamespace:
        found["started"].append(given)
        return types.SimpleNamespace(log=log, finish=close)

    wandb, mlflow = types.ModuleType("wandb"), types.ModuleType("mlflow")
    wandb.init = init  # type: ignore[attr-defined]
    runs: list[Any] = []

    def start_run(run_id: str | None, run_name: str | None) -> None:
        found["started"].append({"run_id": run_id, "run_name": run_name})
        runs.append(types.SimpleNamespace(info=types.SimpleNamespace(run_id="r1")))

    vars(mlflow).update(
        set_experiment=lambda name: None,
        search_runs=lambda filter_string, output_format: runs[:1],
        start_run=start_run,
        log_params=lambda params: found["started"].append(params),
        log_metrics=log,
        end_run=close,
    )
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    monkeypatch.setitem(sys.modules, "mlflow", mlflow)
    return found


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_it_gets_what_the_run_logs(
    packed: Path, cached: Path, tmp_path: Path, notes: dict[str, list[Any]], name: str
) -> None:
    config = settings(packed, cached, tmp_path / "run", tracker=name, eval_every=3)
    distill(config)
    own = [(step, values["loss"]) for step, values in notes["logged"] if "loss" in values]
    assert own == losses(config.run)
    assert any("nn1" in values for _, values in notes["logged"])
    assert notes["closed"] == [True]
    assert str(config.run.name) in str(notes["started"][0])


def test_a_run_goes_on_with_another_tracker_or_none(
    packed: Path, cached: Path, tmp_path: Path, notes: dict[str, list[Any]]
) -> None:
    distill(settings(packed, cached, tmp_path / "run", tracker="wandb", epochs=0))
    distill(settings(packed, cached, tmp_path / "run", epochs=0))


def test_one_that_fails_is_left_behind(
    packed: Path,
    cached: Path,
    tmp_path: Path,
    notes: dict[str, list[Any]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    calls = iter(range(100))

    def send(values: dict[str, float], step: int) -> None:
        if next(calls) == 2:
            raise OSError("no network")

    tracker = Tracker(send=send, finish=lambda: None)
    for step in range(5):
        tracker.log({"loss": 1.0}, step)
    assert capsys.readouterr().out.count("training goes on without it: no network") == 1
    assert next(calls) == 3


def test_one_that_refuses_is_a_sentence(
    packed: Path, cached: Path, tmp_path: Path, notes: dict[str, list[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(**given: Any) -> None:
        raise ValueError("no api key\nmore")

    monkeypatch.setattr(sys.modules["wandb"], "init", refuse)
    with pytest.raises(PipelineError, match="--tracker wandb: no api key; set it up as wandb says"):
        distill(settings(packed, cached, tmp_path / "run", tracker="wandb"))


def test_a_missing_package_is_said_before_anything_is_written(
    packed: Path, cached: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    config = settings(packed, cached, tmp_path / "run", tracker="wandb")
    with pytest.raises(
        WrongUse, match="--tracker wandb: the package is not installed; run `pip install wandb`"
    ):
        distill(config)
    assert not config.run.exists()
