"""A run's record survives what may happen to it."""

import json
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from pipeline.errors import PipelineError
from pipeline.training.run_log import RunLog


def test_lines_after_the_checkpoint_and_a_torn_one_are_dropped(tmp_path: Path) -> None:
    lines = [json.dumps({"step": step, "loss": 1.0}) for step in (10, 20, 30)]
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines) + '\n{"step": 4')
    log = RunLog(tmp_path, step=20, steps=40, batch_size=2)
    log.progress(30, loss=0.5, lr=0.1)
    log.close()
    written = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in written] == [10, 20, 30]
    assert written[-1]["loss"] == 0.5
    assert list((tmp_path / "tensorboard").iterdir())


def test_tensorboard_keeps_the_values_of_the_checkpoints_step(tmp_path: Path) -> None:
    for step, values in (
        (0, (10, 20, 30)),
        (20, (30, 40)),
    ):  # the second goes on from the checkpoint of step 20
        log = RunLog(tmp_path, step=step, steps=40, batch_size=2)
        for each in values:
            log.write(each, loss=step + each)
        log.close()
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload().Scalars("loss")
    assert [(event.step, event.value) for event in events] == [(10, 10), (20, 20), (30, 50), (40, 60)]


def test_a_full_disk_is_a_pipeline_error(tmp_path: Path) -> None:
    log = RunLog(tmp_path, step=0, steps=40, batch_size=2)
    (tmp_path / "metrics.jsonl").symlink_to("/dev/full")
    with pytest.raises(
        PipelineError, match=r"cannot write the logs in .*: No space left on device; .* goes on"
    ):
        log.progress(10, loss=0.5, lr=0.1)
    log.close()
