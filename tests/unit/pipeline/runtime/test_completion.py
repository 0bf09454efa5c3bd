"""Completion in a real bash, and what the other shells are told to ask."""

import subprocess
import sys
from pathlib import Path

import pytest

CLI = Path(__file__).resolve().parents[4] / "cli.py"


def script(shell: str) -> str:
    return subprocess.run(
        [sys.executable, str(CLI), "completion", shell], capture_output=True, text=True, check=True
    ).stdout


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("anchorage dis", "distill"),
        ("anchorage cache comp", "compare"),
        ("anchorage distill --anchor-", "--anchor-policy"),
    ],
)
def test_bash_completes_commands_and_flags(tmp_path: Path, words: str, expected: str) -> None:
    count = len(words.split()) - 1
    asked = f"{script('bash')}\nCOMP_WORDS=({words}); COMP_CWORD={count}; _anchorage_completion; echo ${{COMPREPLY[@]}}"
    found = subprocess.run(["bash", "-c", asked], capture_output=True, text=True, cwd=tmp_path, check=True)
    assert found.stdout.split() == [expected]


def test_bash_gets_the_command_itself(tmp_path: Path) -> None:
    found = subprocess.run(
        ["bash", "-c", f"{script('bash')}\nanchorage objectives"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=True,
    )
    assert "CompRess-1q" in found.stdout


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_ask_this_cli(shell: str) -> None:
    asking = [line for line in script(shell).splitlines() if "_CLI_PY_COMPLETE" in line]
    assert len(asking) == 1
    assert str(CLI) in asking[0]
