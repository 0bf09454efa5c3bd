"""`make gpu-check`, rehearsed without a GPU, and its page."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.gpu.page import NOTHING, PAGE, page

pytestmark = pytest.mark.long

REHEARSED = ("test_objectives", "test_collectives")
ON_CPU = {**os.environ, "GPU_CHECK_DEVICE": "cpu", "OMP_NUM_THREADS": "1"}


def test_its_tests_and_rates_run_and_make_a_page(tmp_path: Path) -> None:
    out = tmp_path / "one"
    tests = [f"tests/gpu/{name}.py" for name in REHEARSED]
    for command in (["pytest", *tests], ["tests.gpu.rates", "--out", str(out)]):
        subprocess.run(
            [sys.executable, "-m", *command],
            check=True,
            capture_output=True,
            env={**ON_CPU, "GPU_CHECK_OUT": str(out)},
        )
    tests_found, rates = (json.loads((out / f"{name}.json").read_text()) for name in ("tests", "rates"))
    found = tests_found["tests"]
    assert {name.split(".py")[0] for name in found} == set(REHEARSED)
    assert {test["outcome"] for test in found.values()} == {"passed"}
    assert all(value > 0 for value in rates["rates"]["training steps, ms"]["resnet18"].values())
    written = page(tmp_path)
    assert f"{len(found)} of {len(found)} tests passed." in written
    assert "| training steps, ms | images/s | step | forward | loss | backward | optimizer |" in written
    assert "| distill, resnet18 |" in written


def test_a_failure_is_on_the_page(tmp_path: Path) -> None:
    record = {"date": "2026-01-01T00:00:00", "commit": "0", "machine": "host", "versions": {}, "gpu": "Model"}
    tests = {"a": {"outcome": "passed"}, "b": {"outcome": "failed"}}
    rates = {"copies, GB/s": {"error": "out of memory"}, "products": {"fp32": 1234.5, "bf16": 0.01234}}
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "tests.json").write_text(json.dumps(record | {"tests": tests}))
    (folder / "rates.json").write_text(json.dumps(record | {"rates": rates}))
    written = page(tmp_path)
    assert "### Model" in written
    assert "1 of 2 tests passed; not `b`." in written
    assert "copies, GB/s: not measured (out of memory)." in written
    assert "| fp32 | 1,234 |\n| bf16 | 0.0123 |" in written


def test_the_page_is_what_was_recorded(tmp_path: Path) -> None:
    assert page(tmp_path) == NOTHING
    assert page() in PAGE.read_text()
