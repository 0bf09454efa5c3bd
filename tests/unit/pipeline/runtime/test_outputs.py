"""Outputs are tried before the work: a path that cannot be written is wrong use, and nothing is left behind."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from cli import run_cli
from pipeline.errors import WrongUse
from pipeline.runtime.outputs import require_writable_file, require_writable_folder


def test_what_can_be_written_is_accepted_and_nothing_is_created(tmp_path: Path) -> None:
    (tmp_path / "old.npy").write_text("old")
    before = sorted(tmp_path.iterdir())
    for name in ("new.npy", "deep/er/new.npy", "old.npy"):
        require_writable_file(tmp_path / name)
    for name in ("new", "deep/er", "."):
        require_writable_folder(tmp_path / name)
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("require", [require_writable_file, require_writable_folder])
@pytest.mark.parametrize(
    "name", ["file/out", "file/deep/out", "n" * 300, "n" * 300 + "/out", "/proc/self/out"]
)
def test_what_cannot_be_written_is_refused(
    tmp_path: Path, require: Callable[[Path], None], name: str
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(WrongUse, match=r"cannot write .*out|cannot write .*nnn"):
        require(tmp_path / name)


def test_a_file_is_no_folder_and_a_folder_no_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(WrongUse, match="Is a directory; choose another path"):
        require_writable_file(tmp_path)
    with pytest.raises(WrongUse, match="Not a directory; choose another path"):
        require_writable_folder(tmp_path / "file")


@pytest.mark.parametrize(
    "command",
    [
        "embed PICTURES/val FILE/o.npy --teacher tests.support.nothing:none",
        "embed PACKED FILE/o.zarr --teacher tests.support.nothing:none",
        "cache-teacher PACKED FILE/c.zarr --teacher tests.support.nothing:none",
        "pack PICTURES FILE/o",
        "distill PACKED CACHED FILE/run --student tests.support.nothing:none",
        "pretrain PACKED FILE/run --student tests.support.nothing:none",
        "export RUN FILE/o.onnx",
        "report CACHED --out FILE/o.html",
        "browse RUN --dataset PACKED --export FILE/o.parquet",
        "demo-data FILE/images",
    ],
)
def test_every_command_tries_its_output_first(
    packed: Path,
    cached: Path,
    pictures: Path,
    tmp_path: Path,
    command: str,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """The teachers and students do not exist, so that a command which first loads them says something else."""
    file = tmp_path / "file"
    file.write_text("")
    names = {"PICTURES": pictures, "PACKED": packed, "CACHED": cached, "FILE": file, "RUN": tmp_path}
    for name, path in names.items():
        command = command.replace(name, str(path))
    assert run_cli(command.split(" ")) == 2
    said = capfd.readouterr().err
    assert "Not a directory; choose another" in said
    assert "again" not in said
    assert os.listdir(tmp_path) == ["file"]
