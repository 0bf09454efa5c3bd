"""Every promise of docs/guarantees.md names tests that can fail."""

from pathlib import Path

import pytest

from tests.support.promised_tests import Named, faults, promises

TESTS = Path(__file__).parents[1]
PAGE = (TESTS.parent / "docs" / "guarantees.md").read_text()
PROMISES = promises(PAGE)

PLANTED = """
import pytest
from tests.support.planted_helper import check

def own_check(value):
    assert value

def test_sound(): assert 1
def test_raising():
    with pytest.raises(ValueError): int("x")
def test_by_its_own_helper(): own_check(1)
def test_by_an_imported_helper(): check(1)
def test_by_numpy(): np.testing.assert_array_equal(1, 1)

def test_empty(): pass
def test_that_only_runs(): print(own_check)
@pytest.mark.skip(reason="slow")
def test_skipped(): assert 1
@pytest.mark.skipif(True, reason="slow")
def test_skipped_here(): assert 1
@pytest.mark.xfail
def test_expected_to_fail(): assert 0

class TestGroup:
    def test_within_a_class(self): assert 1
"""
SOUND = ("sound", "raising", "by_its_own_helper", "by_an_imported_helper", "by_numpy")
UNSOUND = (
    "empty",
    "that_only_runs",
    "skipped",
    "skipped_here",
    "expected_to_fail",
    "within_a_class",
    "missing",
)


@pytest.fixture
def planted(tmp_path: Path) -> Path:
    """A folder of tests with sound and unsound ones."""
    (tmp_path / "unit").mkdir()
    (tmp_path / "unit" / "test_planted.py").write_text(PLANTED)
    (tmp_path / "support").mkdir()
    (tmp_path / "support" / "planted_helper.py").write_text("def check(value):\n    assert value\n")
    return tmp_path


@pytest.mark.parametrize("promise", PROMISES, ids=lambda promise: str(*PROMISES[promise][:1]) or "none")
def test_every_promise_names_tests_that_can_fail(promise: str) -> None:
    assert PROMISES[promise], "no test is named"
    assert [fault for named in PROMISES[promise] for fault in faults(named, TESTS)] == []


def test_every_section_makes_promises() -> None:
    sections = PAGE.split("\n## ")[1:]
    assert all(map(promises, sections))
    assert sum(len(promises(section)) for section in sections) == len(PROMISES) > 0


@pytest.mark.parametrize("name", SOUND)
def test_a_test_that_asserts_is_accepted(planted: Path, name: str) -> None:
    assert faults(Named("unit/planted", name), planted) == []


@pytest.mark.parametrize("name", UNSOUND)
def test_a_test_that_cannot_fail_is_reported(planted: Path, name: str) -> None:
    (fault,) = faults(Named("unit/planted", name), planted)
    assert fault.startswith(f"unit/planted::{name}: ")


def test_every_test_of_a_named_file_is_checked(planted: Path) -> None:
    assert len(faults(Named("unit/planted"), planted)) == 5
    assert faults(Named("unit/elsewhere"), planted) == ["unit/elsewhere: there is no unit/test_elsewhere.py"]


def test_a_file_that_is_skipped_as_a_whole_is_reported(planted: Path) -> None:
    (planted / "unit" / "test_planted.py").write_text(f"{PLANTED}\npytestmark = pytest.mark.skip\n")
    assert faults(Named("unit/planted", "sound"), planted) != []


def test_a_promise_without_a_test_is_found() -> None:
    head = "| promise | under which faults | shown by |\n|---|---|---|\n"
    page = f"{head}| A | b | `unit/x::y` (here), `system/z` |\n| B | c | nothing |"
    assert promises(page) == {"A": [Named("unit/x", "y"), Named("system/z")], "B": []}
