"""Small training runs, interrupted or not, and their comparison."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.models.checkpoints import load_safetensors
from pipeline.settings.training import DistillConfig, PretrainConfig
from pipeline.training.distill import distill
from pipeline.training.pretrain import pretrain
from pipeline.training.student_run import StudentRun

STUDENT = "tests.support.tiny_student:build"


def settings(packed: Path, cached: Path, run: Path, **changes: Any) -> DistillConfig:
    plain = DistillConfig(
        dataset=packed,
        cache=cached,
        run=run,
        student=STUDENT,
        image_size=24,
        epochs=3,
        batch_size=40,
        lr=0.1,
        anchors="100",
        save_every=3,
        device="cpu",
    )
    return replace(plain, **changes)


def untrained_run(packed: Path, run: Path, function: str, seed: int = 0) -> Path:
    """Write an untrained student, tests.support.tiny_student:function, into a run folder."""
    student = f"tests.support.tiny_student:{function}"
    pretrain(
        PretrainConfig(
            dataset=packed,
            run=run,
            student=student,
            image_size=24,
            epochs=0,
            batch_size=32,
            seed=seed,
            device="cpu",
        )
    )
    return run


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_safetensors(run / "student.safetensors")[0]


def losses(run: Path) -> list[tuple[int, float]]:
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [(line["step"], line["loss"]) for line in lines if "loss" in line]


def assert_same_run(run: Path, other: Path) -> None:
    ours, theirs = weights(run), weights(other)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert losses(run) == losses(other)


class Crash(BaseException):
    """Ends a run on the spot: nothing is saved."""


def distill_in_two(config: DistillConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a distillation that crashes in its last epoch, and resume it."""
    distill_until_crash(config, monkeypatch)
    distill(config)


def distill_until_crash(config: DistillConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a distillation that crashes in the last of 12 steps.

    Epochs end at steps 4 and 8; the last checkpoint is of step 9.
    """
    train_step = StudentRun.train_step

    def crash(self: StudentRun, *arguments: Any) -> None:
        if self.step == 11:
            raise Crash
        train_step(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(StudentRun, "train_step", crash)
        with pytest.raises(Crash):
            distill(config)
