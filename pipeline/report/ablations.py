"""What temperature and memory do: runs that differ in one of them alone, beside the paper's curves."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.report import paper
from pipeline.report.figures import Plot, Series, line_plot
from pipeline.report.systems import UNTOLD, System

METRIC = "nn1"


def plots(systems: Sequence[System]) -> list[Plot]:
    """Accuracy over temperature and over anchors; the paper's alone where no runs were made to differ in it."""
    memory = {float(anchors): value for anchors, value in paper.ANCHORS.items()}
    return [
        plot(systems, "tau", paper.TAU, title="Temperature", x="temperature τ"),
        plot(systems, "anchors", memory, title="Memory", x="anchor points K"),
    ]


def plot(systems: Sequence[System], knob: str, known: Mapping[float, float], *, title: str, x: str) -> Plot:
    """1-NN over one setting: a line for each group of runs that differ in nothing else but their seeds."""
    lines = [
        Series(
            name="the paper, ImageNet",
            x=list(known),
            y=list(known.values()),
            hue=None,
            dots=True,
            dashed=True,
        )
    ]
    lines += [measured(name, points, hue) for hue, (name, points) in enumerate(groups(systems, knob).items())]
    caption = "1-NN accuracy. The paper's curve is of 25 % of ImageNet, read off its plot."
    if len(lines) == 1:
        caption += f" No two of the runs here differ in {x} alone."
    ticks = sorted({float(value) for line in lines for value in _values(line.x)})
    return line_plot(lines, title=title, caption=caption, x=x, y="1-NN, %", ticks=_apart(ticks))


def measured(name: str, points: Mapping[float, list[float]], hue: int) -> Series:
    """The mean over seeds at each value, with the sample standard deviation where every value has several."""
    several = all(len(found) > 1 for found in points.values())
    return Series(
        name=name,
        x=list(points),
        y=[statistics.fmean(found) for found in points.values()],
        spread=[statistics.stdev(found) for found in points.values()] if several else None,
        hue=hue,
        dots=True,
    )


def groups(systems: Sequence[System], knob: str) -> dict[str, dict[float, list[float]]]:
    """Name of a group -> value of the knob, ascending -> accuracies in percent, a seed each.

    A group is of runs that share every other setting; one with a single value of the knob is no ablation.
    """
    found: dict[str, dict[float, list[float]]] = {}
    names: dict[str, str] = {}
    for system in systems:
        value = number(system.settings.get(knob))
        if value is None or system.result is None or METRIC not in system.result.metrics:
            continue
        others = {key: kept for key, kept in system.settings.items() if key not in (knob, *UNTOLD)}
        key = repr((sorted(others.items()), system.role, system.result.provenance.get("dataset")))
        names.setdefault(
            key, f"{others.get('student', '')} {others.get('objective', '')}".strip() or system.name
        )
        found.setdefault(key, {}).setdefault(value, []).append(100 * system.result.metrics[METRIC])
    kept = [(names[key], dict(sorted(points.items()))) for key, points in found.items() if len(points) > 1]
    alike = [name for name, _ in kept]
    return {f"{n} ({i})" if alike.count(n) > 1 else n: points for i, (n, points) in enumerate(kept, 1)}


def number(value: Any) -> float | None:
    """A positive number as settings have it, "4096" or 0.04; None for "", "all" and 0."""
    try:
        found = float(value)
    except (TypeError, ValueError):
        return None
    return found if found > 0 else None


def _values(x: Any) -> list[float]:
    return [float(value) for value in x]


def _apart(ticks: Sequence[float]) -> list[float]:
    """The ticks that leave room for their text on a logarithmic axis."""
    room = (ticks[-1] / ticks[0]) ** 0.09
    kept: list[float] = []
    for tick in ticks:
        if not kept or tick >= room * kept[-1]:
            kept.append(tick)
    return kept
