"""Ablations of temperature and number of anchors: runs that differ in one of them alone, and the paper's curves."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.report import paper
from pipeline.report.figures import Plot, Series, line_plot
from pipeline.report.systems import NOT_COMPARED, System

METRIC = "nn1"


def plots(systems: Sequence[System]) -> list[Plot]:
    """Plot accuracy over temperature and over anchors; without runs that differ in one, only the paper's curve."""
    anchors = {float(count): accuracy for count, accuracy in paper.ANCHORS.items()}
    return [
        plot(systems, "tau", paper.TAU, title="Temperature", x="temperature τ"),
        plot(systems, "anchors", anchors, title="Anchors", x="anchors K"),
    ]


def plot(
    systems: Sequence[System], setting: str, published: Mapping[float, float], *, title: str, x: str
) -> Plot:
    """Plot 1-NN accuracy over one setting, with a line per group of runs that differ only in it and in their seeds."""
    lines = [
        Series(
            name="paper (25 % of ImageNet)",
            x=list(published),
            y=list(published.values()),
            hue=None,
            dots=True,
            dashed=True,
        )
    ]
    found = groups(systems, setting)
    lines += [measured(name, points, hue) for hue, (name, points) in enumerate(found.items())]
    caption = "1-NN accuracy. Paper: trained on 25 % of ImageNet, values read off its plot."
    if not found:
        caption += f" No two runs here differ in {x} alone."
    ticks = sorted({*published, *(value for points in found.values() for value in points)})
    return line_plot(lines, title=title, caption=caption, x=x, y="1-NN accuracy (%)", ticks=_spaced(ticks))


def measured(name: str, points: Mapping[float, list[float]], hue: int) -> Series:
    """Return the mean over seeds at each value, with the sample standard deviation if every value has several."""
    several = all(len(accuracies) > 1 for accuracies in points.values())
    return Series(
        name=name,
        x=list(points),
        y=[statistics.fmean(accuracies) for accuracies in points.values()],
        spread=[statistics.stdev(accuracies) for accuracies in points.values()] if several else None,
        hue=hue,
        dots=True,
    )


def groups(systems: Sequence[System], setting: str) -> dict[str, dict[float, list[float]]]:
    """Group runs that share all settings but one: name -> value of that setting, ascending -> accuracies in percent.

    There is one accuracy per seed. Groups with a single value are left out.
    """
    found: dict[str, dict[float, list[float]]] = {}
    names: dict[str, str] = {}
    for system in systems:
        value = positive(system.settings.get(setting))
        if value is None or system.result is None or METRIC not in system.result.metrics:
            continue
        others = {key: own for key, own in system.settings.items() if key not in (setting, *NOT_COMPARED)}
        key = repr((sorted(others.items()), system.role, system.result.provenance.get("dataset")))
        names.setdefault(
            key, f"{others.get('student', '')} {others.get('objective', '')}".strip() or system.name
        )
        found.setdefault(key, {}).setdefault(value, []).append(100 * system.result.metrics[METRIC])
    kept = [(names[key], dict(sorted(points.items()))) for key, points in found.items() if len(points) > 1]
    all_names = [name for name, _ in kept]
    return {f"{n} ({i})" if all_names.count(n) > 1 else n: points for i, (n, points) in enumerate(kept, 1)}


def positive(value: Any) -> float | None:
    """Return a setting such as "4096" or 0.04 as a number; None for "all", None, and numbers that are not positive."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if number > 0 else None


def _spaced(ticks: Sequence[float]) -> list[float]:
    """Drop ticks whose labels would overlap on a logarithmic axis."""
    room = (ticks[-1] / ticks[0]) ** 0.09
    kept: list[float] = []
    for tick in ticks:
        if not kept or tick >= room * kept[-1]:
            kept.append(tick)
    return kept
