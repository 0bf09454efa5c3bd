"""docs/guarantees.md names tests that are there."""

import re
from pathlib import Path

TESTS = Path(__file__).parents[1]
NAMED = re.compile(r"`(?P<folder>[a-z0-9_/]+)/(?P<file>[a-z0-9_]+)(::(?P<test>[a-z0-9_]+))?`(?= \||,| \()")


def test_every_test_that_a_promise_names_is_there() -> None:
    lines = (TESTS.parent / "docs" / "guarantees.md").read_text().splitlines()
    promises = [
        line
        for line in lines
        if line.startswith("| ") and line != "| promise | under which faults | shown by |"
    ]
    for line in promises:
        named = list(NAMED.finditer(line.rsplit("|", 2)[1] + "|"))
        assert named, line
        for match in named:
            text = (TESTS / match["folder"] / f"test_{match['file']}.py").read_text()
            assert (f"def test_{match['test']}(" if match["test"] else "def test_") in text, match[0]
    assert len(promises) > 30
