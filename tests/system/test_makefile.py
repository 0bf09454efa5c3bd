"""Set-up is the same whatever targets are named together, and in which order."""

import shlex
import subprocess

import pytest


def planned(*targets: str) -> list[str]:
    """The lines that make would run, of a checkout that has no virtual environment yet."""
    command = ["make", "--dry-run", "READY=.venv/.not-there", *targets]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def first(lines: list[str], part: str) -> int:
    return next(number for number, line in enumerate(lines) if part in line)


@pytest.mark.parametrize(
    "targets", [("test",), ("lint", "test"), ("test", "lint"), ("setup", "lint", "test")]
)
def test_the_browser_and_the_packages_are_installed_before_the_tests(targets: tuple[str, ...]) -> None:
    lines = planned(*targets)
    tests = first(lines, "-m pytest")
    assert first(lines, "chromium") < tests
    assert first(lines, "libturbojpeg0-dev") < first(lines, "pip install") < tests


def test_set_up_without_tests_needs_no_browser() -> None:
    assert not any("chromium" in line for line in planned("setup", "lint"))


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
