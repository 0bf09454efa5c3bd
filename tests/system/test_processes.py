"""Whole commands as processes: two in one folder, files cut short under a run, read-only folders."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from tests.support.training_runs import STUDENT

pytestmark = pytest.mark.long

ROOT = Path(__file__).parents[2]
SETTINGS = f"--student {STUDENT} --image-size 24 --batch-size 40 --anchors 100 --device cpu".split()


def start(*arguments: str | Path) -> subprocess.Popen[str]:
    program = [sys.executable, "cli.py", *map(str, arguments)]
    return subprocess.Popen(program, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def wait_for(file: Path, process: subprocess.Popen[str]) -> None:
    while not file.exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)


def test_of_two_commands_into_one_folder_the_second_is_refused(
    packed: Path, cached: Path, tmp_path: Path
) -> None:
    command = [
        "distill",
        packed,
        cached,
        tmp_path / "run",
        *SETTINGS,
        "--epochs",
        "20000",
        "--save-every",
        "3",
    ]
    with start(*command) as first:
        try:
            wait_for(tmp_path / "run" / "resume.pt", first)
            with start(*command) as second:
                said = second.communicate()[1]
            assert second.returncode == 1
            (error,) = (line for line in said.splitlines() if line.startswith("error: "))
            assert f"{tmp_path}/run is being written by process {first.pid} on " in error
            assert "Traceback" not in said
            assert first.poll() is None
        finally:
            first.send_signal(signal.SIGTERM)
        said = first.communicate()[1]
    assert (first.returncode, said.splitlines()[-1]) == (
        130,
        "interrupted; the same command goes on from here",
    )


@pytest.mark.parametrize("cut", ["a chunk", "the .beton"])
def test_a_file_that_is_cut_short_under_a_run_ends_it_in_a_sentence(
    packed: Path, cached: Path, tmp_path: Path, cut: str
) -> None:
    dataset, cache, run = (tmp_path / name for name in ("dataset", "cache.zarr", "run"))
    shutil.copytree(packed, dataset)
    shutil.copytree(cached, cache)
    file = cache / "train/embedding/c/0/0/0" if cut == "a chunk" else dataset / "train.beton"
    with start(
        "distill", dataset, cache, run, *SETTINGS, "--epochs", "20000", "--save-every", "3"
    ) as process:
        wait_for(run / "resume.pt", process)
        os.truncate(file, 4096)
        said = process.communicate()[1]
    assert process.returncode == 1, said
    (error,) = (line for line in said.splitlines() if line.startswith("error: "))
    assert f"{file} was cut short, or its disk failed, while it was read" in error
    assert "Traceback" not in said


AS_ANOTHER_USER = """
import os, sys
import cli
from pathlib import Path
home = Path(sys.argv[1])
distill = ["distill", "dataset", "cache.zarr", "run", *sys.argv[2:], "--epochs", "1"]
cache = ["cache-teacher", "dataset", "stage-one.zarr", "--teacher", "pixels", "--device", "cpu", "--workers", "1"]
verdict = ["eval", "run", "--dataset", "dataset", "--protocol", "nn", "--device", "cpu", "--workers", "1"]
os.chdir(home)
codes = [cli.run_cli(command) for command in (distill, cache, verdict)]
for folder, _, files in os.walk(home):
    os.chmod(folder, 0o555)
    for file in files:
        os.chmod(os.path.join(folder, file), 0o444)
if os.geteuid() == 0:
    os.setuid(65534)
print("---", flush=True)
codes += [cli.run_cli(command) for command in (distill, cache, verdict, [*distill, "--lr", "0.5"])]
print(*codes)
"""


def test_what_is_finished_is_told_where_one_may_only_read(packed: Path, cached: Path) -> None:
    with tempfile.TemporaryDirectory() as home:
        os.chmod(home, 0o755)
        shutil.copytree(packed, Path(home, "dataset"))
        shutil.copytree(cached, Path(home, "cache.zarr"))
        program = [sys.executable, "-c", AS_ANOTHER_USER, home, *SETTINGS]
        done = subprocess.run(
            program, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True
        )
        for folder, _, _ in os.walk(home):
            os.chmod(folder, 0o755)
    assert done.returncode == 0, done.stderr
    again = done.stdout.split("---\n")[1]
    assert "run is finished: 4 steps" in again
    assert "stage-one.zarr: nothing to do, every chunk is there" in again
    assert "1-NN" in again
    assert again.splitlines()[-1] == "0 0 0 0 0 0 1"
    assert "error: run holds another run (config.lr: expected 0.5, found " in done.stderr
