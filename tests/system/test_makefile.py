"""Set-up is the same whatever targets are named together, and in which order, on each supported Python."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from cache.writer import create_store
from tests.support.tiny_store import TEACHER


def planned(*targets: str, path: str = os.environ["PATH"]) -> list[str]:
    """The lines that make would run, of a checkout that has no virtual environment yet."""
    command = ["make", "--dry-run", "READY=.venv/.not-there", *targets]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PATH": path})
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def first(lines: list[str], part: str) -> int:
    return next(number for number, line in enumerate(lines) if part in line)


@pytest.mark.parametrize(
    "targets", [("test",), ("test-long",), ("lint", "test"), ("test", "lint"), ("setup", "lint", "test")]
)
def test_the_browser_and_the_packages_are_installed_before_the_tests(targets: tuple[str, ...]) -> None:
    lines = planned(*targets)
    tests = first(lines, "-m pytest")
    assert first(lines, "chromium") < tests
    assert first(lines, "libturbojpeg0-dev") < first(lines, "pip install") < tests


def test_set_up_without_tests_needs_no_browser() -> None:
    assert not any("chromium" in line for line in planned("setup", "lint"))


def pretend_python(file: Path, minor: int) -> None:
    """Write a command that takes itself for Python 3.`minor`, for `python -Sc CODE`."""
    code = f"import sys; sys.version_info, sys.version = (3, {minor}, 0), '3.{minor}.0 (main)'; exec(sys.argv[1])"
    file.write_text(f'#!/bin/sh\nexec {sys.executable} -c "{code}" "$2"\n')
    file.chmod(0o755)


@pytest.mark.parametrize(
    ("minor", "supported"), [(10, False), (11, True), (12, True), (13, True), (14, False)]
)
def test_another_python_is_refused_in_a_sentence(minor: int, supported: bool, tmp_path: Path) -> None:
    pretend_python(tmp_path / "python", minor)
    check = next(line for line in planned("setup", f"PYTHON={tmp_path}/python") if "version_info" in line)
    done = subprocess.run(check, shell=True, capture_output=True, text=True)
    sentence = (
        f"expected Python 3.11, 3.12 or 3.13, found 3.{minor}.0: install one of them and name it, as in"
    )
    assert (done.returncode, done.stderr.startswith(sentence)) == ((0, False) if supported else (1, True))


@pytest.mark.parametrize(
    ("installed", "picked"),
    [
        ({"python3": 13, "python3.11": 11}, "python3"),
        ({"python3": 14, "python3.13": 13, "python3.12": 12}, "python3.13"),
        ({"python3": 9, "python3.11": 11}, "python3.11"),
        ({"python3": 14}, "python3"),
    ],
)
def test_set_up_picks_a_supported_python(installed: dict[str, int], picked: str, tmp_path: Path) -> None:
    for name in ("python3", "python3.11", "python3.12", "python3.13"):
        pretend_python(tmp_path / name, installed.get(name, 0))
    lines = planned("setup", path=f"{tmp_path}:{os.environ['PATH']}")
    assert f"{picked} -m venv .venv" in lines


@pytest.mark.parametrize("teacher", ["demo", "timm/resnet18", "package.module:function"])
def test_teachers_and_paths_reach_the_command_line_as_they_were_given(teacher: str) -> None:
    lines = planned("distill", f"TEACHER={teacher}", "DATA=/data/my images/", "WEIGHTS=my weights.pt")
    file = f"caches/my-images-{teacher.replace('/', '-').replace(':', '-')}.zarr"
    pack, cache, distill = (
        shlex.split(lines[first(lines, f"cli.py {command}")])
        for command in ("pack", "cache-teacher", "distill")
    )
    assert pack[-2:] == ["/data/my images/", "data/my-images-dataset"]
    assert cache[-6:] == ["data/my-images-dataset", file, "--teacher", teacher, "--weights", "my weights.pt"]
    assert distill[3:5] == ["data/my-images-dataset", file]


@pytest.mark.parametrize("folder", ["my (1)", "it's", "a & b"])
def test_no_name_of_a_folder_reaches_the_shell(folder: str) -> None:
    for line in planned("eval", f"DATA={folder}") + planned("report", f"DATA={folder}"):
        assert subprocess.run(["sh", "-n", "-c", line]).returncode == 0, line


def test_another_folder_of_the_same_name_does_not_get_the_dataset_of_the_first(
    packed: Path, pictures: Path, tmp_path: Path
) -> None:
    for folder, expected in ((pictures, 0), (tmp_path, 2), (tmp_path / "moved away", 0)):
        command = ["make", "-s", "-o", ".venv/.ready", "dataset", f"DATA={folder}", f"DATASET={packed}"]
        run = subprocess.run(command, capture_output=True, text=True)
        assert run.returncode == expected, run.stderr
        message = (
            f"error: {packed} was packed from {pictures}, not from {folder}: name another one, DATASET=..."
        )
        assert (message in run.stderr) == bool(expected)


def test_other_weights_of_one_teacher_do_not_get_the_cache_of_the_first(tmp_path: Path) -> None:
    cache = tmp_path / "c.zarr"
    create_store(cache, TEACHER, {"name": "moco_v2_resnet50", "file": "a.pth"})
    for weights, expected in (("elsewhere/a.pth", 0), ("b.pth", 2), ("", 0)):
        command = ["make", "-s", "-o", ".venv/.ready", "cache", f"CACHE={cache}", f"WEIGHTS={weights}"]
        run = subprocess.run(command, capture_output=True, text=True)
        assert run.returncode == expected, run.stderr
        message = f"error: {cache} was made from a.pth, not from b.pth: name another one, CACHE=..."
        assert (message in run.stderr) == bool(expected)


@pytest.mark.parametrize(
    ("gpus", "ranks"),
    [("0", None), ("1", None), ("8", "8"), (None, None)],
    ids=["none", "one", "eight", "here"],
)
def test_training_has_a_rank_for_each_gpu(gpus: str | None, ranks: str | None) -> None:
    given = [f"GPUS={gpus}"] if gpus else []
    (line,) = (line for line in planned("distill", *given) if "cli.py distill" in line)
    found = re.search(r"torch.distributed.run --standalone --nproc-per-node=(\d+) cli.py distill", line)
    here = torch.cuda.device_count()
    assert (found and found[1]) == (ranks if gpus else str(here) if here > 1 else None)
    assert all("torch.distributed" not in line for line in planned("untrained", *given))


@pytest.mark.parametrize(("visible", "ranks"), [("3", 0), ("0,5", 2), ("", 0), (None, 3)])
def test_only_visible_gpus_count(
    visible: str | None, ranks: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a machine with three GPUs, of which one is divided."""
    command = tmp_path / "nvidia-smi"
    command.write_text("#!/bin/sh\nprintf 'GPU 0\\n  MIG 1g.18gb\\nGPU 1\\nGPU 2\\n'\n")
    command.chmod(0o755)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    lines = planned("distill", path=f"{tmp_path}:{os.environ['PATH']}")
    found = re.findall(r"--nproc-per-node=(\d+) ", "\n".join(lines))
    assert found == [str(ranks)] * bool(ranks)
