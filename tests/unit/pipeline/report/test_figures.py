"""Plots take their colours and font from the page, and share no ids."""

import re
from xml.etree import ElementTree

import numpy as np
import pytest

from pipeline.report.figures import Series, line_plot, short

LINES = [
    Series(name="a", x=[0, 1, 2], y=[0, 1, 4], spread=[0.1, 0.1, 0.1], hue=0),
    Series(name="b", x=[0, 1, 2], y=[3, 2, 1], hue=11, dots=True, dashed=True),
    Series(name="faint", x=[0, 1], y=[0, 0], hue=None, faint=True),
]


def plot(title: str = 'A <title> & "more"', **settings: object) -> str:
    return line_plot(LINES, title=title, caption="c", x="x", y="y", **settings).svg  # type: ignore[arg-type]


def test_the_svg_takes_its_colours_from_the_page_and_asks_for_nothing() -> None:
    svg = plot()
    ElementTree.fromstring(svg.replace("xlink:href", "href"))  # is well formed
    assert "var(--s0)" in svg
    assert "var(--s1)" in svg, "the eleventh hue is the second again"
    # Only black may be left, which matplotlib gives the outlines of what has none.
    assert set(re.findall(r"#[0-9a-f]{6}", svg)) <= {"#000000"}
    assert "http" not in svg
    assert "font-family" not in svg
    assert "font:" not in svg


def test_figures_of_one_page_share_no_id() -> None:
    first, second = (set(re.findall(r'id="([^"]+)"', plot(title))) for title in ("one", "two"))
    assert first
    assert not first & second


def test_every_id_that_is_used_is_there() -> None:
    svg = plot()
    used = set(re.findall(r'(?:url\(#|xlink:href="#)([^)"]+)', svg))
    assert used
    assert used <= set(re.findall(r'id="([^"]+)"', svg))


def test_it_comes_out_the_same_twice() -> None:
    assert plot() == plot()


def test_a_legend_names_each_line_once_but_no_faint_one() -> None:
    made = line_plot([*LINES, LINES[0]], title="t", caption="c", x="x", y="y")
    assert made.legend == [("a", 0, False), ("b", 11, True)]


def test_a_logarithmic_axis_has_the_ticks_it_was_given() -> None:
    line = Series(name="k", x=np.array([256, 128000]), y=[1, 2])
    svg = line_plot([line], title="t", caption="c", x="x", y="y", ticks=[256, 128000]).svg
    assert {">256<", ">128k<"} <= set(re.findall(r">[^<>]+<", svg))


@pytest.mark.parametrize(("value", "text"), [(0.04, "0.04"), (1.0, "1"), (4096, "4096"), (65536, "66k")])
def test_short_numbers(value: float, text: str) -> None:
    assert short(value) == text
