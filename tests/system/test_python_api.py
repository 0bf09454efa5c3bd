"""The example of docs/how-to/python-api.md runs, and every name in its table exists."""

import importlib
import re
from pathlib import Path

import pytest
import torch

from pipeline.models.student_file import load_run_student
from tests.support.training_runs import untrained_run

PAGE = (Path(__file__).resolve().parents[2] / "docs/how-to/python-api.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", re.findall(r"^\| `([\w.]+)\(", PAGE, re.MULTILINE))
def test_every_name_is_there(name: str) -> None:
    module, _, attribute = name.rpartition(".")
    owner = importlib.import_module("cache.reader") if module in ("Store", "Split") else None
    assert hasattr(getattr(owner, module) if owner else importlib.import_module(module), attribute)


def test_the_table_has_twelve_names() -> None:
    assert len(re.findall(r"^\| `", PAGE, re.MULTILINE)) == 12


def test_the_example_runs(packed: Path, cached: Path, tmp_path: Path) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    names: dict = {}
    exec(compile(example, "python-api.md", "exec"), names)
    run = untrained_run(packed, tmp_path / "run", "build")
    features, loss, accuracy = names["look"](packed, cached, run)
    assert features.shape == (8, load_run_student(run).dim)
    torch.testing.assert_close(features.norm(dim=1), torch.ones(8))
    assert loss == pytest.approx(0, abs=1e-5)
    assert accuracy["nn1"] > 0.8
