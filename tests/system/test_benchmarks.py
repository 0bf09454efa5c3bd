"""Wrong use of the benchmarks' command line ends in one sentence, before anything is measured."""

import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.benchmarks.__main__ import BENCHMARKS, main

FOLDER = Path(__file__).parents[1] / "benchmarks"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ("--scratch missing", "Directory 'missing' does not exist"),
        ("--scratch file", "Directory 'file' is a file"),
        ("--readme missing", "File 'missing' does not exist"),
        ("--readme file", "file needs one <!-- results:bench -->"),
        ("row", "'row' is not one of"),
    ],
)
def test_wrong_use_is_refused_before_any_work(
    arguments: str, sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    done = CliRunner().invoke(main, arguments.split())
    assert done.exit_code == 2
    (error,) = re.findall("^Error: (.+)$", done.output, re.MULTILINE)
    assert sentence in error
    assert not any(f"{name} ..." in done.output for name in BENCHMARKS)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_every_benchmark_is_listed() -> None:
    assert sorted(BENCHMARKS) == sorted(
        path.stem.removeprefix("bench_") for path in FOLDER.glob("bench_*.py")
    )
