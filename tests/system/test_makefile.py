"""Set-up is the same whatever targets are named together, and in which order."""

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
