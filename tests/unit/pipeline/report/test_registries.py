"""The listings have every registered name, in a form that can be copied."""

import pytest

from cli import run_cli
from pipeline.models.students import STUDENTS
from pipeline.objectives.registry import OBJECTIVES
from pipeline.teachers.registry import TEACHERS


@pytest.mark.parametrize(
    ("command", "names"), [("teachers", TEACHERS), ("students", STUDENTS), ("objectives", OBJECTIVES)]
)
def test_every_name_begins_a_line_of_its_listing(
    command: str, names: dict, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    assert run_cli([command]) == 0
    lines = capsys.readouterr().out.splitlines()
    listed = [line.split()[0] for line in lines if not line.startswith(" ")]
    assert [name for name in listed if name in names] == list(names)


def test_an_objective_is_listed_with_its_paper_and_its_own_settings(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run_cli(["objectives"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "seed K 65,536, tau 0.01, student-tau 0.2, lr 0.03, cosine SEED: cross-entropy of" in printed
    assert "ICLR 2021" in printed
