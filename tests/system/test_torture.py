"""A short run of the crash harness: some trials of each stage, and a careless product that it must find out."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.torture.faults import LIBRARY, build
from tests.torture.plan import MOMENTS, SIGNALS, trials

pytestmark = pytest.mark.long

TRIALS = 15
# writes in place, as an editor saves a file
CARELESS = """
import runpy, sys
import cache.durable

def write_file(path, data, **advice):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)

cache.durable.write_file = write_file
sys.argv = ["torture", *sys.argv[1:]]
runpy.run_module("tests.torture", run_name="__main__", alter_sys=True)
"""


def torture(program: list[str], folder: Path, *options: str, **environment: str) -> tuple[int, str, dict]:
    """Run the harness as a process; return its exit code, output and results."""
    places = ["--scratch", str(folder / "scratch"), "--results", str(folder / "results.json")]
    done = subprocess.run(
        [sys.executable, *program, *places, "--no-processes", *options],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )
    said = done.stdout + done.stderr
    assert (folder / "results.json").exists(), said
    return done.returncode, said, json.loads((folder / "results.json").read_text())


def test_killed_failed_and_interrupted_nothing_is_lost(tmp_path: Path) -> None:
    code, said, results = torture(["-m", "tests.torture"], tmp_path, "--sample", str(TRIALS))
    assert code == 0, said
    assert (results["trials"], results["went_wrong"]) == (TRIALS, [])
    assert {count["stage"] for count in results["counts"]} == {"pack", "cache-teacher", "distill"}


def test_a_product_that_writes_in_place_is_found_out(tmp_path: Path) -> None:
    library = {
        LIBRARY: str(build(tmp_path)),
        "XDG_CACHE_HOME": str(tmp_path / "home"),
        "OMP_NUM_THREADS": "1",
    }
    only = r"distill: kill half at call \d+, write run/(student|resume)"
    code, said, results = torture(["-c", CARELESS], tmp_path, "--only", only, "--sample", "2", **library)
    assert code == 1, said
    assert len(results["went_wrong"]) == 2


def test_every_call_is_killed_before_failed_at_and_a_write_cut_short() -> None:
    calls = ["open dataset/.a.7.tmp", "write dataset/.a.7.tmp", "rename dataset/a", "remove dataset/.a.7.tmp"]
    plan = list(trials("pack", calls, seconds=2.0))
    assert len({trial.name for trial in plan}) == len(plan)
    at_calls = [(trial.fault.call, trial.kind) for trial in plan if trial.fault.after is None]
    for number in range(1, 5):
        assert (number, "SIGKILL at a call") in at_calls
        assert all(((number, kind) in at_calls) == (number < 4) for kind in ("ENOSPC", "EIO"))
    assert (2, "a write cut short") in at_calls
    assert at_calls.count((4, "SIGKILL at a call")) == 2  # also after the last one
    moments = [trial.fault.after for trial in plan if trial.fault.after is not None]
    assert len(moments) == MOMENTS * len(SIGNALS)
    assert 0 <= min(moments) < max(moments) < 2.0
