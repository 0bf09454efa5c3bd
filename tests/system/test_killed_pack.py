"""`pack` as a process: killed while it reads or writes, and on one core."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from pipeline.errors import WrongUse
from pipeline.images.dataset import open_dataset
from pipeline.images.pack import pack
from tests.support.flawed_images import assert_same_dataset, pack_config, write_flawed_images

pytestmark = pytest.mark.long

# pack slowly: the first image that is read, or packed, creates a file as a signal
SCRIPT = """
import sys, time
from pathlib import Path
from pipeline.images.beton_writer import Rows
from pipeline.settings.commands import PackConfig
from pipeline.images.pack import pack
from pipeline.images.sources import FolderSource

data, out, stage = sys.argv[1:]
slow, method = {"reading": (FolderSource, "read"), "packing": (Rows, "_pixels")}[stage]
original = getattr(slow, method)

def slowly(self, row):
    Path(out + "." + stage).touch()
    time.sleep(1)
    return original(self, row)

setattr(slow, method, slowly)
if __name__ == "__main__":
    pack(PackConfig(data=Path(data), out=Path(out), workers=2, max_resolution=100))
"""


def test_a_killed_pack_leaves_nothing_that_opens_and_can_be_continued(tmp_path: Path) -> None:
    images, out = tmp_path / "images", tmp_path / "out"
    write_flawed_images(images)
    pack(pack_config(images, tmp_path / "whole"))
    (tmp_path / "slowly.py").write_text(SCRIPT)
    for stage in ("reading", "packing"):
        kill_while(stage, tmp_path / "slowly.py", images, out)
        with pytest.raises(WrongUse, match=r"half-written|is not a dataset"):
            open_dataset(out)
    assert {file.suffix for file in out.iterdir()} == {".tmp"}
    pack(pack_config(images, out))
    assert_same_dataset(out, tmp_path / "whole")


def kill_while(stage: str, script: Path, images: Path, out: Path) -> None:
    """Kill a pack with SIGKILL once it reads, or packs, an image; none of its processes may stay."""
    environment = {**os.environ, "PYTHONPATH": os.getcwd(), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(script), str(images), str(out), stage]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not out.with_suffix(f".{stage}").exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    family = psutil.Process(process.pid).children(recursive=True)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert len(family) >= 2
    assert psutil.wait_procs(family, timeout=15)[1] == []  # without help they would take half a minute


def test_on_one_core_no_process_is_left(pictures: Path, tmp_path: Path) -> None:
    core = next(iter(os.sched_getaffinity(0)))
    program = ["taskset", "-c", str(core), sys.executable, "cli.py", "pack"]
    process = subprocess.Popen(
        [*program, str(pictures), str(tmp_path / "dataset")],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    assert process.wait(60) == 0
    deadline = time.monotonic() + 10
    while alive := [other.pid for other in psutil.process_iter() if session_of(other) == process.pid]:
        assert time.monotonic() < deadline, f"processes {alive} of the ended pack are still there"
        time.sleep(0.05)


def session_of(process: psutil.Process) -> int | None:
    try:
        return os.getsid(process.pid)
    except ProcessLookupError:
        return None
