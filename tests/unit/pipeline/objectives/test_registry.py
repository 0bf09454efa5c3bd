"""Default settings of the objectives, and a short run with each."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import WrongUse
from pipeline.objectives.registry import OBJECTIVES, resolved
from pipeline.report.registries import defaults_of
from pipeline.results.run_record import read_config
from pipeline.settings.training import DistillConfig
from pipeline.training.distill import distill
from tests.support import training_runs

USUAL = (130, 256, 1e-4, "sgd")  # epochs, batch size, weight decay, optimizer
PLACES = {name: Path(name) for name in ("dataset", "cache", "run")}


def settings(**changes: Any) -> DistillConfig:
    return DistillConfig(**{**PLACES, **changes})


@pytest.mark.parametrize(
    ("objective", "tau", "student_tau", "lr", "schedule", "others"),
    [
        ("1q", 0.04, None, 0.01, "step", USUAL),
        ("2q", 0.04, None, 0.01, "step", USUAL),
        ("reg", None, None, 0.01, "step", USUAL),
        ("reg-bn", None, None, 0.01, "step", USUAL),
        ("simreg", None, None, 0.05, "cosine", USUAL),
        ("seed", 0.01, 0.2, 0.03, "cosine", USUAL),
        ("supervised", None, None, 0.01, "step", USUAL),
        ("crd", 0.07, None, 0.05, "step", (130, 64, 5e-4, "sgd")),
        ("cc", None, None, 0.1, "step-30-60-80", (100, 256, 1e-4, "nesterov")),
    ],
)
def test_defaults_are_the_papers(
    objective: str, tau: float | None, student_tau: float | None, lr: float, schedule: str, others: tuple
) -> None:
    found = resolved(settings(objective=objective))
    assert (found.tau, found.student_tau, found.lr, found.schedule) == (tau, student_tau, lr, schedule)
    assert (found.epochs, found.batch_size, found.wd, found.optimizer) == others


@pytest.mark.parametrize(
    ("changes", "lr"),
    [
        ({"batch_size": 256}, 0.2),
        ({"student": "mobilenet_v2"}, 0.01),
        ({"student": "timm/mobilenetv2_100", "batch_size": 128}, 0.02),
        ({"student": "mobilenet_v2", "batch_size": 256, "lr": 0.05}, 0.05),
    ],
)
def test_the_rate_of_crd_follows_student_and_batch(changes: dict[str, Any], lr: float) -> None:
    assert resolved(settings(objective="crd", **changes)).lr == pytest.approx(lr)


def test_zero_epochs_and_no_weight_decay_are_not_the_default() -> None:
    found = resolved(settings(objective="crd", epochs=0, wd=0.0))
    assert (found.epochs, found.wd) == (0, 0.0)


def test_given_settings_are_kept() -> None:
    optimization = {"epochs": 7, "batch_size": 8, "wd": 0.1, "optimizer": "adamw"}
    given = settings(objective="seed", tau=0.05, student_tau=0.1, lr=0.5, schedule="step", **optimization)
    assert resolved(given) == given
    assert resolved(resolved(settings())) == resolved(settings())


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"objective": "sed"}, "unknown objective 'sed'.*did you mean 'seed'"),
        ({"tau": -0.1}, "--tau: expected a number of at least 0, found -0.1"),
        ({"student_tau": 0.2}, "--student-tau 0.2: the objective 1q has no such temperature; leave it out"),
        (
            {"objective": "reg", "tau": 0.04},
            "--tau 0.04: the objective reg has no such temperature; leave it out",
        ),
        (
            {"objective": "2q", "loss_dtype": "bf16"},
            "--loss-dtype bf16 with the objective 2q: only 1q, 1q-reg-bn, seed support",
        ),
    ],
)
def test_impossible_settings_are_refused(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(WrongUse, match=sentence):
        resolved(settings(**changes))


def test_the_listing_shows_the_defaults() -> None:
    assert defaults_of(OBJECTIVES["1q"]) == "K 128,000, tau 0.04, lr 0.01, step"
    assert defaults_of(OBJECTIVES["seed"]) == "K 65,536, tau 0.01, student-tau 0.2, lr 0.03, cosine"
    assert defaults_of(OBJECTIVES["reg"]) == "lr 0.01, step"
    assert defaults_of(OBJECTIVES["crd"]) == (
        "16,384 negatives, memory momentum 0.5, tau 0.07, batch 64, wd 0.0005, "
        "lr 0.05 (0.01 for MobileNetV2) per 64 images of a batch, step"
    )
    assert defaults_of(OBJECTIVES["cc"]) == "16,000 clusters, epochs 100, lr 0.1, nesterov, step-30-60-80"


def default_settings(packed: Path, cached: Path, run: Path, **changes: Any) -> DistillConfig:
    """Return the settings of a small run, with the objective's defaults."""
    return training_runs.settings(packed, cached, run, **{"lr": None, "anchors": None, **changes})


@pytest.mark.parametrize("objective", ["reg", "reg-bn", "simreg", "seed", "supervised", "crd", "cc"])
def test_a_run_learns_and_records_what_ran(
    packed: Path, cached: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, objective: str
) -> None:
    monkeypatch.setattr("pipeline.training.loop.LOG_EVERY", 1)
    config = default_settings(packed, cached, tmp_path / "run", objective=objective, epochs=6)
    distill(config)
    found, own = read_config(config.run)["config"], OBJECTIVES[objective]
    lr = own.learning_rate(config.student, 40)
    assert [found[name] for name in ("tau", "student_tau", "lr")] == [own.tau, own.student_tau, lr]
    assert found["schedule"] == own.schedule
    every = [loss for _, loss in training_runs.losses(config.run)]
    assert len(every) == 24
    assert sum(every[-4:]) < sum(every[:4])
    distill(config)  # finished: the same defaults resolve to the recorded settings


def test_a_run_recorded_before_a_setting_existed_resumes(packed: Path, cached: Path, tmp_path: Path) -> None:
    config = default_settings(packed, cached, tmp_path / "run", anchors="100")
    distill(config)
    path = config.run / "config.json"
    record = json.loads(path.read_text())
    del record["config"]["student_tau"]
    assert record["config"]["tau"] == 0.04
    path.write_text(json.dumps(record))
    distill(config)
    distill(replace(config, tau=0.04, lr=0.01, schedule="step"))
