"""The training loop: exact resume within an epoch, and a run folder that keeps its settings."""

import json
import os
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from cache.errors import IdentityMismatch, InUse
from cache.lock import sole_writer
from pipeline.errors import PipelineError, WrongUse
from pipeline.images.dataset import open_dataset
from pipeline.settings.training import PretrainConfig
from pipeline.training.distill import distill
from pipeline.training.monitor import Monitor
from pipeline.training.pretrain import pretrain
from pipeline.training.student_run import StudentRun
from tests.support.training_runs import (
    STUDENT,
    Crash,
    assert_same_run,
    distill_in_two,
    distill_until_crash,
    losses,
    settings,
    weights,
)


@pytest.mark.parametrize("objective", ["1q", "2q", "crd", "cc"])
def test_a_run_that_died_within_an_epoch_ends_as_if_it_had_not(
    packed: Path, cached: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, objective: str
) -> None:
    monkeypatch.setattr("pipeline.training.loop.LOG_EVERY", 1)
    whole = settings(packed, cached, tmp_path / "whole", objective=objective)
    broken = replace(whole, run=tmp_path / "broken")
    distill(whole)
    distill_in_two(broken, monkeypatch)
    assert_same_run(whole.run, broken.run)


@pytest.mark.parametrize("workers", [None, 2])
def test_a_run_with_another_number_of_decoding_threads_is_the_same_run(
    packed: Path, cached: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int | None
) -> None:
    monkeypatch.setattr("pipeline.training.loop.LOG_EVERY", 1)
    whole = settings(packed, cached, tmp_path / "whole", workers=1)
    broken = replace(whole, run=tmp_path / "broken")
    distill(whole)
    distill_until_crash(broken, monkeypatch)
    distill(replace(broken, workers=workers))
    assert_same_run(whole.run, broken.run)


def test_a_run_that_died_while_it_evaluated_lacks_no_evaluation_and_clears_up(
    packed: Path, cached: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = settings(packed, cached, tmp_path / "run", eval_every=1)
    evaluate = StudentRun.evaluate

    def die(self: StudentRun, monitor: Monitor) -> None:
        if self.step == 8:
            raise Crash
        evaluate(self, monitor)

    with monkeypatch.context() as patch:
        patch.setattr(StudentRun, "evaluate", die)
        with pytest.raises(Crash):
            distill(config)
    dead = subprocess.Popen(["true"])
    dead.wait()
    (config.run / f".resume.pt~{os.uname().nodename}~{dead.pid}~00000000.tmp").write_bytes(b"half")
    distill(config)
    lines = map(json.loads, (config.run / "metrics.jsonl").read_text().splitlines())
    assert [line["step"] for line in lines if "nn1" in line] == [4, 8, 12]
    assert not list(config.run.glob(".*.tmp"))


def test_pretraining_resumes_and_no_epoch_writes_the_untrained_student(packed: Path, tmp_path: Path) -> None:
    config = PretrainConfig(
        dataset=packed,
        run=tmp_path / "run",
        student=STUDENT,
        image_size=24,
        epochs=2,
        batch_size=40,
        device="cpu",
    )
    pretrain(replace(config, epochs=0, run=tmp_path / "untrained"))
    pretrain(config)
    finished = (config.run / "student.safetensors").stat().st_mtime_ns
    pretrain(config)
    assert (config.run / "student.safetensors").stat().st_mtime_ns == finished
    untrained, trained = weights(tmp_path / "untrained"), weights(config.run)
    assert any(not torch.equal(untrained[name], trained[name]) for name in trained)


def test_other_settings_do_not_go_on_in_a_run(packed: Path, cached: Path, tmp_path: Path) -> None:
    config = settings(packed, cached, tmp_path / "run", epochs=0)
    distill(config)
    with pytest.raises(PipelineError, match=r"config.lr: expected 0.2, found 0.1"):
        distill(replace(config, lr=0.2))
    distill(replace(config, workers=2))


def test_a_cache_of_another_dataset_is_refused_field_by_field(
    packed: Path, cached: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = open_dataset(packed)
    train = found.splits["train"]
    other = replace(found, splits={"train": replace(train, identity={**train.identity, "images": "0" * 64})})
    monkeypatch.setattr("pipeline.training.distill.open_dataset", lambda path: other)
    with pytest.raises(IdentityMismatch, match=r"images: expected \"0{64}\", found"):
        distill(settings(packed, cached, tmp_path / "run"))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"objective": "3q"}, "unknown objective '3q': choose one of 1q, 1q-reg-bn, 2q"),
        ({"anchors": "161"}, "only 160 rows"),
        ({"objective": "crd", "negatives": 0}, "--negatives 0 with 160 training rows: CRD needs"),
        ({"objective": "cc", "clusters": 0}, "--clusters 0: expected a number above 0"),
        ({"anchors": "many"}, "expected a number above 0, or all"),
        ({"subset": 0.0}, "not a share of the rows"),
        ({"student": "resnet81"}, "did you mean 'resnet18'"),
        ({"device": "tpu"}, "unknown device"),
    ],
)
def test_wrong_settings_are_refused_before_anything_is_written(
    packed: Path, cached: Path, tmp_path: Path, changes: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(WrongUse, match=sentence):
        distill(settings(packed, cached, tmp_path / "run", **changes))
    assert not (tmp_path / "run").exists()


def test_a_batch_larger_than_the_rows_is_refused(packed: Path, cached: Path, tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match="smaller --batch-size"):
        distill(settings(packed, cached, tmp_path / "run", batch_size=200))


def test_a_second_run_into_one_folder_is_refused(packed: Path, cached: Path, tmp_path: Path) -> None:
    config = settings(packed, cached, tmp_path / "run", epochs=1)
    with sole_writer(config.run), pytest.raises(InUse, match="run is being written by process"):
        distill(config)
    assert [file.name for file in config.run.iterdir()] == [".lock"]
    distill(config)
    assert len(losses(config.run)) == 1


def test_the_process_group_is_left_at_the_end_and_not_after_an_error(
    packed: Path, cached: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NCCL leaves it only together with the other ranks, which may wait for this one."""
    left = []
    monkeypatch.setattr("pipeline.training.loop.shutdown_distributed", lambda: left.append("group"))
    config = settings(packed, cached, tmp_path / "run", epochs=1)
    with monkeypatch.context() as patch:
        patch.setattr(StudentRun, "train_step", lambda *_: torch.zeros(2) + torch.zeros(3))
        with pytest.raises(RuntimeError):
            distill(config)
    assert left == []
    distill(config)
    assert left == ["group"]
