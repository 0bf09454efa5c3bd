"""A figure's digits: enough of them to be on the right side of its bar."""

import pytest

from tests.benchmarks.figure import Figure


def figure(ratio: float, **bar: float) -> Figure:
    return Figure(name="f", what="a", against="b", ratio=ratio, unit="x its speed", bound="", **bar)


@pytest.mark.parametrize(
    ("ratio", "bar", "measured", "verdict"),
    [
        (1.2345, {}, "1.23 x its speed", ""),
        (1.2345, {"at_least": 1.2}, "1.23 x its speed", "met"),
        (0.9996, {"at_least": 1.0}, "0.9996 x its speed", "missed"),
        (1.2504, {"at_most": 1.25}, "1.2504 x its speed", "missed"),
        (1.2512, {"at_most": 1.25}, "1.251 x its speed", "missed"),
        (12345.6, {"at_least": 100.0}, "12,346 x its speed", "met"),
    ],
)
def test_three_digits_unless_they_would_be_on_the_other_side_of_the_bar(
    ratio: float, bar: dict[str, float], measured: str, verdict: str
) -> None:
    made = figure(ratio, **bar)
    assert (made.measured, made.verdict) == (measured, verdict)
