"""A run's record survives what may happen to it."""

import json
from pathlib import Path

import pytest

from pipeline.errors import PipelineError
from pipeline.results.run_record import open_run, read_config
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


def test_a_run_folder_keeps_its_settings_and_where_it_comes_from(tmp_path: Path) -> None:
    open_run(tmp_path / "run", "distill", {"lr": 0.1, "workers": 1, "crop_scale": (0.1, 1.0)}, {"cache": "a"})
    record = read_config(tmp_path / "run")
    assert record["provenance"].keys() == {"command", "commit", "date", "machine", "versions"}
    open_run(tmp_path / "run", "distill", {"lr": 0.1, "workers": 2, "crop_scale": (0.1, 1.0)}, {"cache": "a"})
    with pytest.raises(PipelineError, match=r"config.lr: expected 0.2, found 0.1; made_of.cache"):
        open_run(tmp_path / "run", "distill", {"lr": 0.2, "crop_scale": (0.1, 1.0)}, {"cache": "b"})


def test_a_run_that_does_not_tell_its_teacher_goes_on(tmp_path: Path) -> None:
    open_run(tmp_path / "run", "distill", {"lr": 0.1}, {"cache": "a"})
    told = {"cache": "a", "teacher": {"name": "moco"}}
    open_run(tmp_path / "run", "distill", {"lr": 0.1}, told)
    with pytest.raises(PipelineError, match=r"made_of\.cache"):
        open_run(tmp_path / "run", "distill", {"lr": 0.1}, {**told, "cache": "b"})


def test_a_folder_without_a_record_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match="is not a run folder"):
        read_config(tmp_path)


def test_a_full_disk_is_a_sentence(tmp_path: Path) -> None:
    log = RunLog(tmp_path, step=0, steps=40, batch_size=2)
    (tmp_path / "metrics.jsonl").symlink_to("/dev/full")
    with pytest.raises(
        PipelineError, match=r"cannot write the logs in .*: No space left on device; .* goes on"
    ):
        log.progress(10, loss=0.5, lr=0.1)
    log.close()
