"""What travels with a number names no folder of this machine."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.runtime.provenance import ROOT

SAY = "from pipeline.runtime.provenance import provenance\nprint(provenance()['command'])\n"


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (["{folder}/tell.py", "--epochs", "3"], "python tell.py --epochs 3"),
        (["-m", "tell", "a"], "python -m tell a"),
        (["-m", "told", "a"], "python -m told a"),
    ],
)
def test_the_command_is_told_as_it_is_typed(tmp_path: Path, call: list[str], said: str) -> None:
    (tmp_path / "told").mkdir()
    for name in ("tell.py", "told/__init__.py", "told/__main__.py"):
        (tmp_path / name).write_text("" if name.endswith("__init__.py") else SAY)
    command = [sys.executable, *(part.format(folder=tmp_path) for part in call)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == said
