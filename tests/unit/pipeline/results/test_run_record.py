"""config.json of a run folder: written once, and compared when the run is resumed."""

import json
import shutil
from pathlib import Path

import pytest

from pipeline.errors import PipelineError
from pipeline.results.run_record import FORMER_DEFAULTS, open_run, read_config
from pipeline.settings.field import as_json
from pipeline.settings.training import DistillConfig

GOLDEN_RUN = Path(__file__).parents[3] / "golden" / "run"


def test_a_run_folder_keeps_its_settings_and_provenance(tmp_path: Path) -> None:
    open_run(tmp_path / "run", "distill", {"lr": 0.1, "workers": 1, "crop_scale": (0.1, 1.0)}, {"cache": "a"})
    record = read_config(tmp_path / "run")
    assert record["provenance"].keys() == {"command", "commit", "date", "machine", "versions"}
    open_run(tmp_path / "run", "distill", {"lr": 0.1, "workers": 2, "crop_scale": (0.1, 1.0)}, {"cache": "a"})
    with pytest.raises(PipelineError, match=r"config.lr: expected 0.2, found 0.1; made_of.cache"):
        open_run(tmp_path / "run", "distill", {"lr": 0.2, "crop_scale": (0.1, 1.0)}, {"cache": "b"})


def test_a_run_without_a_recorded_teacher_can_be_resumed(tmp_path: Path) -> None:
    open_run(tmp_path / "run", "distill", {"lr": 0.1}, {"cache": "a"})
    made_of = {"cache": "a", "teacher": {"name": "moco"}}
    open_run(tmp_path / "run", "distill", {"lr": 0.1}, made_of)
    with pytest.raises(PipelineError, match=r"made_of\.cache"):
        open_run(tmp_path / "run", "distill", {"lr": 0.1}, {**made_of, "cache": "b"})


def test_a_folder_without_a_record_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match="is not a run folder"):
        read_config(tmp_path)


def test_a_run_recorded_before_settings_were_none_by_default_can_be_resumed(tmp_path: Path) -> None:
    shutil.copytree(GOLDEN_RUN, tmp_path / "run")
    record = read_config(tmp_path / "run")
    assert {name: record["config"][name] for name in FORMER_DEFAULTS} == {
        **FORMER_DEFAULTS,
        "anchors": "4",
        "tau": 0.04,
    }
    config = as_json(DistillConfig(**record["config"])) | {"crop_scale": record["config"]["crop_scale"]}
    assert [config[name] for name in ("head_dim", "student_tau", "eval_every", "teacher")] == [None] * 4
    younger = {
        "loss_dtype": "fp32",
        "partial": False,
        "deterministic": False,
        "replay": False,
        "replay_views": None,
        "anchor_policy": "window",
        "neighbours": None,
        "objective_args": (),
        "tracker": None,
    }
    open_run(tmp_path / "run", "distill", config, record["made_of"], younger)
    with pytest.raises(PipelineError, match=r"config\.head_dim: expected 8, found "):
        open_run(tmp_path / "run", "distill", {**config, "head_dim": 8}, record["made_of"], younger)
    left_out = {**record, "config": {**record["config"], "anchors": "", "tau": 0.0}}
    (tmp_path / "run" / "config.json").write_text(json.dumps(left_out))
    open_run(
        tmp_path / "run", "distill", {**config, "anchors": None, "tau": None}, record["made_of"], younger
    )
