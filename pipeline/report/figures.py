"""Line plots as inline SVG that takes its colours and font from the page, in light and dark mode."""

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import matplotlib as mpl
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import FixedLocator, NullLocator
from numpy.typing import ArrayLike

HUES = 10  # series colours of the page, --s0 to --s9
INK, LINE = "#00f001", "#00f002"  # placeholders, replaced by the page's colours in the SVG
SERIES = [f"#00e00{number}" for number in range(HUES)]
STYLE = {
    "svg.fonttype": "none",
    "font.size": 10,
    "font.family": "sans-serif",
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": LINE,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "lines.linewidth": 1.6,
}


@dataclass(frozen=True, kw_only=True)
class Series:
    """A line of a plot: x, y and optionally spread, (n,) each.

    hue: number of the series colour, None for the text colour. faint: drawn thin and transparent, not in the legend.
    """

    name: str
    x: ArrayLike
    y: ArrayLike
    spread: ArrayLike | None = None
    hue: int | None = 0
    dots: bool = False
    dashed: bool = False
    faint: bool = False

    @property
    def colour(self) -> str:
        return INK if self.hue is None else SERIES[self.hue % HUES]


@dataclass(frozen=True, kw_only=True)
class Plot:
    """A figure of a page. legend: (name, hue, dashed) of each line."""

    svg: Markup
    title: str
    caption: str
    legend: list[tuple[str, int | None, bool]] = field(default_factory=list)


def line_plot(
    series: Sequence[Series], *, title: str, caption: str, x: str, y: str, ticks: Sequence[float] = ()
) -> Plot:
    """Plot lines in one pair of axes. ticks: makes the x axis logarithmic, with these ticks."""
    style: Any = {**STYLE, "svg.hashsalt": title + caption}  # matplotlib's stubs accept literal keys only
    with mpl.rc_context(style):
        canvas = Canvas(figsize=(5.2, 3.1), layout="constrained")
        axes = canvas.subplots()
        axes.set(xlabel=x, ylabel=y)
        for line in series:
            _draw(axes, line)
        if ticks:
            _logarithmic(axes, ticks)
        written = io.StringIO()
        canvas.savefig(written, format="svg", transparent=True, metadata={"Date": None})
    named = dict.fromkeys((line.name, line.hue, line.dashed) for line in series if not line.faint)
    return Plot(svg=themed(written.getvalue(), title), title=title, caption=caption, legend=[*named])


def themed(svg: str, label: str) -> Markup:
    """Return the SVG element with the page's colours and font, and `label` for screen readers."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)  # the same ids in every figure of a page
    svg = re.sub(r"font: ([\d.]+)px[^;\"]*", r"font-size: \1px", svg)
    svg = re.sub(r"font-family: [^;\"]*;?", "", svg)
    svg = svg.replace(INK, "var(--ink-2)").replace(LINE, "var(--line)")
    for number, colour in enumerate(SERIES):
        svg = svg.replace(colour, f"var(--s{number})")
    opening = Markup('<svg role="img" aria-label="{}"').format(label)
    # its own width and height would override the style sheet's
    head, _, rest = svg.partition(">")
    head = re.sub(r' (?:width|height|xmlns:xlink|xmlns|version)="[^"]*"', "", head)
    return Markup(head.replace("<svg", opening, 1) + ">" + rest)


def _draw(axes: Axes, line: Series) -> None:
    x, y = np.asarray(line.x, float), np.asarray(line.y, float)
    axes.plot(
        x,
        y,
        color=line.colour,
        linestyle="--" if line.dashed else "-",
        marker="o" if line.dots else "",
        markersize=4.5,
        alpha=0.25 if line.faint else 1,
        linewidth=1 if line.faint else None,
    )
    if line.spread is not None:
        around = np.asarray(line.spread, float)
        axes.fill_between(x, y - around, y + around, color=line.colour, alpha=0.18, linewidth=0)


def _logarithmic(axes: Axes, ticks: Sequence[float]) -> None:
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(FixedLocator(list(ticks)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticks(list(ticks), [short(tick) for tick in ticks])


def short(value: float) -> str:
    """Format a tick label: 128000 -> "128k", 0.04 -> "0.04"."""
    return f"{value / 1000:.0f}k" if value >= 10_000 else f"{value:g}"
