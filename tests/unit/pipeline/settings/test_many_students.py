"""Several students in one pass: each ends with the bits of its own run, however the pass was interrupted."""

import json
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from cache.errors import InUse
from cache.lock import sole_writer
from cli import run_cli
from pipeline import neighbours
from pipeline.errors import PipelineError, WrongUse
from pipeline.objectives.streamed import SimilarityLoss
from pipeline.settings.many_students import configs_of, folder_name
from pipeline.settings.training import DistillConfig, PretrainConfig
from pipeline.training.distill import distill
from pipeline.training.pretrain import pretrain
from pipeline.training.recorded_run import RESUME_FILE
from pipeline.training.student_run import StudentRun
from tests.support.training_runs import STUDENT, Crash, assert_same_run, losses, settings, weights

PLAIN = "tests.support.tiny_student:plain"
STAGED = "tests.support.tiny_student:staged"  # of another width than the others
STUDENTS = (STUDENT, PLAIN, STAGED)


@pytest.fixture(autouse=True)
def every_step_is_logged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.training.loop.LOG_EVERY", 1)


def together(config: DistillConfig, students: tuple[str, ...] = STUDENTS) -> tuple[DistillConfig, ...]:
    return tuple(replace(config, student=name, run=config.run / folder_name(name)) for name in students)


def assert_as_alone(runs: tuple[DistillConfig, ...], alone: Path) -> None:
    """Train each student by itself and compare; what a run is made of is recorded alike too."""
    for run in runs:
        own = replace(run, run=alone / run.run.name)
        distill(own)
        assert_same_run(own.run, run.run)
        ours, theirs = (json.loads((each / "config.json").read_text()) for each in (own.run, run.run))
        assert {**ours, "provenance": 0, "config": {**ours["config"], "run": str(run.run)}} == {
            **theirs,
            "provenance": 0,
        }


@pytest.mark.parametrize("objective", ["1q", "2q", "seed", "reg-bn", "crd", "cc"])
def test_each_student_ends_with_the_weights_and_losses_of_its_own_run(
    packed: Path, cached: Path, tmp_path: Path, objective: str
) -> None:
    runs = together(settings(packed, cached, tmp_path / "together", objective=objective, clusters=8))
    distill(*runs)
    assert_as_alone(runs, tmp_path / "alone")
    assert not any(
        torch.equal(first, second)
        for first, second in zip(weights(runs[0].run).values(), weights(runs[1].run).values(), strict=False)
        if first.is_floating_point()
    )


def assert_goes_on(
    runs: tuple[DistillConfig, ...],
    alone: Path,
    monkeypatch: pytest.MonkeyPatch,
    replaced: tuple[str, Callable[..., None], type[BaseException]],
    steps: list[int],
) -> None:
    """With a method of StudentRun that ends the pass in an error, checkpoints are of `steps`; it is gone on with."""
    name, method, error = replaced
    with monkeypatch.context() as patch:
        patch.setattr(StudentRun, name, method)
        with pytest.raises(error):
            distill(*runs)
    assert [torch.load(run.run / RESUME_FILE)["step"] for run in runs] == steps
    distill(*runs)
    assert_as_alone(runs, alone)


def test_each_student_has_the_learning_rate_of_its_own_run(
    packed: Path, cached: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CRD's default is another for a MobileNetV2."""
    rates: dict[str, set[float]] = {}

    def spy(self: StudentRun, batch: object, rate: float) -> None:
        rates.setdefault(self.config.run.name, set()).add(rate)
        self.step += 1

    monkeypatch.setattr(StudentRun, "train_step", spy)
    monkeypatch.setattr(StudentRun, "log_progress", lambda self: None)
    monkeypatch.setattr(StudentRun, "save", lambda self: None)
    one = settings(
        packed,
        cached,
        tmp_path / "r",
        objective="crd",
        image_size=32,
        epochs=1,
        batch_size=64,
        lr=None,
        anchors=None,
    )
    runs = [replace(one, student=name, run=tmp_path / name) for name in ("resnet18", "mobilenet_v2")]
    distill(*runs)
    assert {name: max(each) for name, each in rates.items()} == {"resnet18": 0.05, "mobilenet_v2": 0.01}


@pytest.mark.parametrize("objective", ["1q", "2q", "cc"])
def test_a_pass_that_died_between_two_checkpoints_goes_on_with_each_run_from_its_own(
    packed: Path, cached: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, objective: str
) -> None:
    """The first student's checkpoint is of step 9, those of the others are of step 8."""
    runs = together(settings(packed, cached, tmp_path / "together", objective=objective, clusters=8))
    save = StudentRun.save

    def die(self: StudentRun) -> None:
        if self.step == 9 and self.config.student == PLAIN:
            raise Crash
        save(self)

    assert_goes_on(runs, tmp_path / "alone", monkeypatch, ("save", die, Crash), [9, 8, 8])


def test_ctrl_c_saves_every_student_and_the_same_command_goes_on(
    packed: Path, cached: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = together(settings(packed, cached, tmp_path / "together"))
    train_step = StudentRun.train_step

    def interrupted(self: StudentRun, *arguments: Any) -> None:
        train_step(self, *arguments)
        if self.config.student == STUDENT and self.step == 7:
            os.kill(os.getpid(), signal.SIGINT)

    replaced = ("train_step", interrupted, KeyboardInterrupt)
    assert_goes_on(runs, tmp_path / "alone", monkeypatch, replaced, [7, 7, 7])


@pytest.mark.parametrize(
    ("objective", "owner", "function", "times"),
    [
        ("1q", SimilarityLoss, "teacher_side", 12),
        ("seed", SimilarityLoss, "teacher_side", 12),
        ("cc", neighbours, "kmeans", 1),
    ],
)
def test_what_is_the_teachers_is_found_once_for_all_students(
    packed: Path,
    cached: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    objective: str,
    owner: type | ModuleType,
    function: str,
    times: int,
) -> None:
    found, find = [], getattr(owner, function)

    def counted(*arguments: Any, **options: Any) -> Any:
        found.append(1)
        return find(*arguments, **options)

    monkeypatch.setattr(owner, function, counted)
    distill(*together(settings(packed, cached, tmp_path, objective=objective, clusters=8)))
    assert len(found) == times


def test_a_student_may_be_added_to_those_that_are_finished(
    packed: Path, cached: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = together(settings(packed, cached, tmp_path / "together"))
    distill(*runs[:1])
    finished = (runs[0].run / RESUME_FILE).stat().st_mtime_ns
    distill(*runs)
    assert f"{runs[0].run} is finished: 12 steps" in capsys.readouterr().out
    assert (runs[0].run / RESUME_FILE).stat().st_mtime_ns == finished
    assert_as_alone(runs, tmp_path / "alone")


def test_a_student_that_diverges_leaves_and_the_others_end_as_alone(
    packed: Path,
    cached: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    runs = together(settings(packed, cached, tmp_path / "together"))
    train_step = StudentRun.train_step

    def poisoned(self: StudentRun, *arguments: Any) -> None:
        train_step(self, *arguments)
        if self.config.student == STUDENT and self.step == 5:
            with torch.no_grad():
                next(self.network.parameters()).fill_(torch.nan)

    with monkeypatch.context() as patch:
        patch.setattr(StudentRun, "train_step", poisoned)
        with pytest.raises(PipelineError, match="features are not finite at step 6"):
            distill(*runs)
    assert f"{runs[0].run} stops here: the student's features are not" in capsys.readouterr().out
    assert torch.load(runs[0].run / RESUME_FILE)["step"] == 4
    assert_as_alone(runs[1:], tmp_path / "alone")
    assert len(losses(runs[0].run)) == 5


def test_pretraining_takes_several_too(packed: Path, tmp_path: Path) -> None:
    config = PretrainConfig(
        dataset=packed, run=tmp_path, image_size=24, epochs=2, batch_size=40, amp_dtype="fp32", device="cpu"
    )
    runs = [replace(config, student=name, run=tmp_path / folder_name(name)) for name in (STUDENT, STAGED)]
    pretrain(*runs)
    for run in runs:
        own = replace(run, run=tmp_path / "alone" / run.run.name)
        pretrain(own)
        assert_same_run(own.run, run.run)


def test_the_command_line_makes_a_run_of_each_that_eval_takes(
    packed: Path, cached: Path, tmp_path: Path, scheduler: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "settings.toml"
    file.write_text('student = "nobody"\nimage-size = 24\nepochs = 1\nbatch-size = 40\ndevice = "cpu"\n')
    command = [
        "distill",
        packed,
        cached,
        tmp_path / "runs",
        "--config",
        file,
        "--student",
        PLAIN,
        "--student",
    ]
    assert run_cli([*map(str, command), STAGED]) == 0
    assert f"{PLAIN} and {STAGED} at 24 px on 160 rows" in capsys.readouterr().out
    runs = [tmp_path / "runs" / folder_name(name) for name in (PLAIN, STAGED)]
    evaluation = ["eval", *runs, "--dataset", packed, "--protocol", "nn", "--scheduler", scheduler]
    assert run_cli([*map(str, evaluation)]) == 0
    for run in runs:
        assert 0 <= json.loads((run / "metrics.json").read_text())["metrics"]["nn1"] <= 1


def test_several_students_of_one_name_or_in_one_students_folder_are_refused(tmp_path: Path) -> None:
    values = {"dataset": tmp_path, "cache": tmp_path, "run": tmp_path / "run"}
    assert configs_of(DistillConfig, {**values, "student": ("a",)}) == (
        DistillConfig(dataset=tmp_path, cache=tmp_path, run=tmp_path / "run", student="a"),
    )
    with pytest.raises(
        WrongUse,
        match=r"--student timm-a: two students would use the run folder .*run/timm-a; give each student once",
    ):
        configs_of(DistillConfig, {**values, "student": ("timm/a", "timm-a")})
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text("{}")
    with pytest.raises(WrongUse, match="is the run of a single student; several students need a folder"):
        configs_of(DistillConfig, {**values, "student": ("a", "b")})


def test_nothing_begins_while_another_process_writes_to_one_of_the_folders(
    packed: Path, cached: Path, tmp_path: Path
) -> None:
    runs = together(settings(packed, cached, tmp_path / "together"))
    with sole_writer(runs[1].run), pytest.raises(InUse, match="plain is being written by process"):
        distill(*runs)
    assert not any((run.run / "config.json").exists() for run in runs)
