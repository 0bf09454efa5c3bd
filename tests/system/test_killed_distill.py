"""`distill` as a process: killed within an epoch, it resumes to the weights of an uninterrupted run."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.training_runs import STUDENT, assert_same_run

pytestmark = pytest.mark.long


def test_a_run_killed_within_an_epoch_resumes_to_the_same_weights(
    packed: Path, cached: Path, tmp_path: Path
) -> None:
    config = tmp_path / "settings.toml"
    config.write_text(
        f'student = "{STUDENT}"\nimage-size = 24\nepochs = 40\nbatch-size = 40\nsave-every = 3\ndevice = "cpu"\n'
    )

    def start(run: Path) -> subprocess.Popen[bytes]:
        arguments = ["distill", packed, cached, run, "--config", config]
        return subprocess.Popen(
            [sys.executable, "cli.py", *map(str, arguments)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    assert start(tmp_path / "whole").wait() == 0
    process = start(tmp_path / "killed")
    while not (tmp_path / "killed" / "resume.pt").exists():
        assert process.poll() is None
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert start(tmp_path / "killed").wait() == 0
    assert_same_run(tmp_path / "whole", tmp_path / "killed")
