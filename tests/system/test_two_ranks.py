"""Two ranks train as one process does, and several students as they train one."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pipeline.errors import PipelineError, WrongUse
from pipeline.evaluate.run import evaluate_targets
from pipeline.settings.commands import EvalConfig
from pipeline.settings.training import DistillConfig
from pipeline.training.distill import distill
from pipeline.training.run_log import RunLog
from tests.support.training_runs import STUDENT, assert_same_run, losses, settings, untrained_run, weights
from tests.support.two_ranks import on_two_ranks

pytestmark = pytest.mark.long

PLAIN = "tests.support.tiny_student:plain"
STAGED = "tests.support.tiny_student:staged"  # another width than STUDENT
ON_TWO_RANKS = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone", "cli.py"]


@pytest.mark.parametrize("objective", ["1q", "2q"])
def test_two_ranks_train_as_one(packed: Path, cached: Path, tmp_path: Path, objective: str) -> None:
    """The student has no BatchNorm, whose statistics each rank keeps for itself."""
    distill(settings(packed, cached, tmp_path / "one", student=PLAIN, objective=objective, amp_dtype="fp32"))
    flags = (
        f"--student {PLAIN} --image-size 24 --epochs 3 --batch-size 40 --lr 0.1 --anchors 100 "
        f"--objective {objective} --amp-dtype fp32 --device cpu"
    )
    places = map(str, (packed, cached, tmp_path / "two"))
    command = [*ON_TWO_RANKS, "distill", *places, *flags.split()]
    subprocess.run(command, check=True, capture_output=True)
    one, two = weights(tmp_path / "one"), weights(tmp_path / "two")
    for name, tensor in one.items():
        # the sum over a batch of 40 is taken in two halves: float32 rounding, grown over 12 steps
        torch.testing.assert_close(two[name], tensor, atol=1e-4, rtol=1e-3)


def evaluate_as_rank(rank: int, config: EvalConfig) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WORLD_SIZE", "2")
        patch.setenv("LOCAL_WORLD_SIZE", "2")
        patch.setenv("LOCAL_RANK", str(rank))
        patch.setattr("pipeline.evaluate.run.shutdown_distributed", lambda: None)  # on_two_ranks does
        evaluate_targets(config)


def test_two_ranks_measure_the_probe_of_random_crops_that_one_measures(packed: Path, tmp_path: Path) -> None:
    one, two = (untrained_run(packed, tmp_path / name, "plain") for name in ("one", "two"))
    options = {"dataset": packed, "features": "augmented", "batch_size": 40, "epochs": 3, "device": "cpu"}
    evaluate_targets(EvalConfig(targets=(one,), **options))
    on_two_ranks(evaluate_as_rank, tmp_path, EvalConfig(targets=(two,), **options))
    found, expected = (json.loads((run / "metrics.json").read_text())["metrics"] for run in (two, one))
    assert found.keys() == expected.keys() >= {"nn1", "linear_augmented", "ca"}
    # the same batches: an image or two of the 40 may fall to the other of two nearly equal classes
    assert found == pytest.approx(expected, abs=2 / 40 + 1e-9)


def test_what_is_not_divided_among_ranks_is_refused(packed: Path, tmp_path: Path) -> None:
    run = untrained_run(packed, tmp_path / "run", "plain")
    with pytest.raises(WrongUse, match="under torchrun, eval divides the linear probe of random crops alone"):
        on_two_ranks(evaluate_as_rank, tmp_path, EvalConfig(targets=(run,), dataset=packed, device="cpu"))


def distill_twice(rank: int, alone: DistillConfig, together: list[DistillConfig]) -> None:
    """Train one student, then several in one pass, on the same two ranks."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipeline.training.loop.LOG_EVERY", 1)
        patch.setenv("WORLD_SIZE", "2")
        patch.setenv("LOCAL_RANK", str(rank))
        patch.setattr(
            "pipeline.training.loop.shutdown_distributed", lambda: None
        )  # the second pass needs the ranks
        distill(alone)
        distill(*together)


def test_two_ranks_train_several_as_they_train_one(packed: Path, cached: Path, tmp_path: Path) -> None:
    one = settings(packed, cached, tmp_path / "alone", student=STAGED)
    together = [
        replace(one, student=name, run=tmp_path / "together" / folder)
        for name, folder in ((STUDENT, "build"), (STAGED, "staged"))
    ]
    on_two_ranks(distill_twice, tmp_path, one, together)
    assert_same_run(one.run, together[1].run)
    assert losses(together[0].run)


def distill_on_a_full_disk(rank: int, alone: DistillConfig, together: list[DistillConfig]) -> str:
    """As `distill_twice`, but the first rank, which writes the logs, cannot write those of the first student."""
    write = RunLog.write

    def full(self: RunLog, step: int, **values: float) -> None:
        if self.path.parent == together[0].run:
            raise PipelineError("the disk is full")
        write(self, step, **values)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunLog, "write", full)
        with pytest.raises(PipelineError) as caught:
            distill_twice(rank, alone, together)
    return str(caught.value)


def test_a_student_that_fails_on_one_rank_stops_on_all_and_the_others_go_on(
    packed: Path, cached: Path, tmp_path: Path
) -> None:
    one = settings(packed, cached, tmp_path / "alone", student=STAGED)
    together = [
        replace(one, student=name, run=tmp_path / "together" / folder)
        for name, folder in ((STUDENT, "build"), (STAGED, "staged"))
    ]
    found = on_two_ranks(distill_on_a_full_disk, tmp_path, one, together)
    assert found == ["the disk is full"] * 2
    assert_same_run(one.run, together[1].run)
