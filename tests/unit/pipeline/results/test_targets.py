"""Runs and caches get their name and role from what made them."""

import json
from pathlib import Path

from pipeline.results.targets import target_of
from tests.support.training_runs import untrained_run


def test_what_made_a_run_names_it(packed: Path, tmp_path: Path) -> None:
    untrained = untrained_run(packed, tmp_path / "untrained", "build")

    def named(**changes: object) -> tuple[str, str]:
        record = json.loads((untrained / "config.json").read_text())
        record["config"] |= {"student": "resnet18", "epochs": 5, "objective": "2q"}
        (tmp_path / "config.json").write_text(json.dumps(record | changes))
        target = target_of(tmp_path)
        return target.name, target.role

    assert named(command="distill") == ("resnet18 2q", "student")
    assert named(command="pretrain") == ("resnet18 from scratch (SimCLR)", "scratch")
    assert target_of(untrained).role == "untrained"


def test_a_cache_is_its_teacher(cached: Path) -> None:
    target = target_of(cached)
    assert (target.name, target.role, target.run) == ("teacher planted", "teacher", None)
    assert target.metrics == cached.with_suffix(".metrics.json")
