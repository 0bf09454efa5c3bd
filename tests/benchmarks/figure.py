"""The figure of a benchmark: a ratio of two things timed in one run, its bar, and its limit."""

import dataclasses
import gc
import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cache.durable import write_file
from pipeline.runtime.provenance import provenance

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A ratio and its origin.

    name: the file in results/. what, against: the two things compared. ratio: of their medians; `unit` gives its
    direction ("x its speed", "x the time", "x the memory"). at_least, at_most: the bar, if there is one. seconds:
    every timing of each side, in order. bound: what limits the figure, and how far it is from that limit. details:
    further numbers.
    """

    name: str
    what: str
    against: str
    ratio: float
    unit: str
    bound: str
    at_least: float | None = None
    at_most: float | None = None
    seconds: Mapping[str, Sequence[float]] = field(default_factory=dict)
    details: Mapping[str, Any] = field(default_factory=dict)

    @property
    def bar(self) -> str:
        """The bar as text; empty for a figure that is only reported."""
        if self.at_least is not None:
            return f"at least {self.at_least:g}"
        return "" if self.at_most is None else f"at most {self.at_most:g}"

    @property
    def verdict(self) -> str:
        """'met', 'missed', or empty without a bar."""
        if not self.bar:
            return ""
        met = self.ratio >= self.at_least if self.at_least is not None else self.ratio <= self.at_most
        return "met" if met else "missed"

    @property
    def measured(self) -> str:
        """The ratio and its unit: three digits, or as many more as put it on the right side of its bar."""
        if self.ratio >= 1000:
            return f"{self.ratio:,.0f} {self.unit}"
        texts = (f"{self.ratio:.{digits}g}" for digits in range(3, 18))
        text = next(t for t in texts if dataclasses.replace(self, ratio=float(t)).verdict == self.verdict)
        return f"{text} {self.unit}"


def interleaved(
    sides: Mapping[str, Callable[[], object]],
    *,
    rounds: int = 5,
    warm: int = 1,
    before: Callable[[], object] = lambda: None,
) -> dict[str, list[float]]:
    """Time the sides by turns; return a list of `rounds` seconds for each.

    The first `warm` rounds do not count. `before` is called before each call and is not timed.
    """
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(-warm, rounds):
        for name, call in sides.items():
            gc.collect()
            before()
            start = time.perf_counter()
            call()
            if turn >= 0:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def ratio(seconds: Mapping[str, Sequence[float]], numerator: str, denominator: str) -> float:
    """Return the median of one side over the median of the other."""
    return statistics.median(seconds[numerator]) / statistics.median(seconds[denominator])


def write_figure(figure: Figure) -> None:
    """Write a figure and its provenance to results/NAME.json."""
    content = {**dataclasses.asdict(figure), "provenance": provenance()}
    write_file(RESULTS / f"{figure.name}.json", (json.dumps(content, indent=1) + "\n").encode())


def read_figure(path: Path) -> tuple[Figure, dict[str, Any]]:
    """Return a kept figure and its provenance."""
    content = json.loads(path.read_text())
    origin = content.pop("provenance")
    return Figure(**content), origin
