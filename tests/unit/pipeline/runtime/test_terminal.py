"""Any text can be printed on any terminal."""

import io
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import cli
from tests.support.report_targets import write_metrics

PROGRAM = r"""
from pipeline.runtime.terminal import print_any_text
print_any_text()
print("53.0 \xb1 3.6, \u03c4 \u2192 caf\xe9 \u4e2d \udcff \U0001f600")
"""
SPELLED = r"53.0 +/- 3.6, tau -> caf\xe9 \u4e2d \udcff \U0001f600"


@pytest.mark.parametrize(
    ("encoding", "printed"),
    [
        ("ascii", SPELLED),
        ("latin-1", SPELLED.replace("+/-", "\xb1").replace(r"\xe9", "\xe9")),
        ("utf-8", "53.0 \xb1 3.6, \u03c4 \u2192 caf\xe9 \u4e2d \\udcff \U0001f600"),
    ],
)
def test_what_an_encoding_lacks_is_spelled(encoding: str, printed: str) -> None:
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=environment, capture_output=True, check=True)
    assert done.stdout.decode(encoding).strip() == printed


@pytest.mark.parametrize(
    ("name", "printed"),
    [("\xe9.html", rb"wrote .*\\xe9\.html"), ("\xe9.txt", rb"error: .*\.txt: name a page")],
)
def test_commands_print_any_name_and_table_on_a_terminal_of_ascii(
    name: str, printed: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_metrics(tmp_path / "a.json", "caf\xe9", {"nn1": 0.5}, seed=0)
    shown = io.BytesIO()
    for stream in ("stdout", "stderr"):
        monkeypatch.setattr(sys, stream, io.TextIOWrapper(shown, encoding="ascii", write_through=True))
    cli.run_cli(["report", str(tmp_path / "a.json"), "--out", str(tmp_path / name)])
    assert re.search(printed, shown.getvalue())
