"""Ablations of temperature and number of anchors: runs that differ in one of them alone, and the paper's curves."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.errors import PipelineError
from pipeline.report import paper
from pipeline.report.figures import Plot, Series, line_plot
from pipeline.report.systems import System
from pipeline.results.distinct_names import identity

METRIC = "nn1"


def plots(systems: Sequence[System]) -> list[Plot]:
    """Plot accuracy over temperature and over anchors, each if there are runs that differ in it alone.

    Raises PipelineError if there are none.
    """
    anchors = {float(count): accuracy for count, accuracy in paper.ANCHORS.items()}
    found = [
        plot(groups(systems, "tau"), paper.TAU, title="Temperature", x="temperature τ"),
        plot(groups(systems, "anchors"), anchors, title="Anchors", x="anchors K"),
    ]
    shown = [each for each in found if each]
    if not shown:
        raise PipelineError(
            "no two evaluated runs here differ only in their temperature or number of anchors; the appendix has the "
            "paper's values"
        )
    return shown


def plot(
    found: Mapping[str, Mapping[float, list[float]]], published: Mapping[float, float], *, title: str, x: str
) -> Plot | None:
    """Plot 1-NN accuracy over one setting, a line per group of runs beside the paper's; None without any group."""
    if not found:
        return None
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
    lines += [measured(name, points, hue) for hue, (name, points) in enumerate(found.items())]
    caption = "1-NN accuracy. Paper: trained on 25 % of ImageNet, values read off its plot."
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
        others = {key: identity(own) for key, own in system.compared.items() if key != setting}
        key = repr((sorted(others.items()), system.role, system.result.provenance.get("dataset")))
        parts = [str(system.settings[part]) for part in ("student", "objective") if part in system.settings]
        names.setdefault(key, " ".join(parts) or system.name)
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
