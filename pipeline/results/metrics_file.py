"""metrics.json: what every evaluation of one network has found so far, each number with where it comes from.

A metric on a dataset that the network was not made of is called METRIC@NAME, NAME being the dataset folder's.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cache.durable import write_file
from pipeline.errors import PipelineError, WrongUse
from pipeline.results.records import FORMAT, load_metrics


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What one evaluation found: fractions by name, and where they come from.

    provenance["store"] and ["dataset"] are the ids of the network's identity and of the images.
    """

    metrics: dict[str, float]
    provenance: dict[str, Any] = field(default_factory=dict)


def record(path: Path, *, name: str, role: str, new: Evaluation) -> None:
    """Write `new` into the metrics file beside what earlier evaluations of the same network found.

    "provenance" is that of the last evaluation on the network's own dataset; "others" lists the metrics of the
    other evaluations, each with its own. A file that cannot be read is written anew.
    """
    evaluations = sorted(
        [*still_true(read(path), new), new], key=lambda found: str(found.provenance.get("date"))
    )
    own = [found for found in evaluations if not all("@" in metric for metric in found.metrics)]
    first = (own or evaluations)[-1]
    others = [
        {"metrics": list(found.metrics), "provenance": found.provenance}
        for found in evaluations
        if found is not first
    ]
    whole = {
        "format": FORMAT,
        "name": name,
        "role": role,
        "metrics": {metric: value for found in evaluations for metric, value in found.metrics.items()},
        "provenance": first.provenance,
    }
    write_file(path, (json.dumps(whole | ({"others": others} if others else {}), indent=1) + "\n").encode())


def read(path: Path) -> list[Evaluation]:
    """The evaluations in a metrics file, none where there is no readable one."""
    try:
        result = load_metrics(path)
    except (WrongUse, PipelineError):
        return []
    metrics, found = dict(result.metrics), []
    for other in json.loads(path.read_text(encoding="utf-8")).get("others", []):
        values = {metric: metrics.pop(metric) for metric in other["metrics"] if metric in metrics}
        found.append(Evaluation(metrics=values, provenance=other["provenance"]))
    return [*found, Evaluation(metrics=metrics, provenance=dict(result.provenance))]


def is_recorded(path: Path, new: Evaluation) -> bool:
    """Whether a metrics file has these very numbers, of the same network and dataset."""
    of = ("store", "dataset")
    known = {
        metric: value
        for found in read(path)
        if all(found.provenance.get(each) == new.provenance.get(each) for each in of)
        for metric, value in found.metrics.items()
    }
    return new.metrics.items() <= known.items()


def still_true(earlier: Iterable[Evaluation], new: Evaluation) -> list[Evaluation]:
    """What of earlier evaluations stands beside a new one: of the same network, not measured again, and not of
    another dataset that had the name of the new one's.
    """
    kept = []
    for old in earlier:
        if old.provenance.get("store") != new.provenance.get("store"):
            continue
        replaced = set(new.metrics)
        if old.provenance.get("dataset") != new.provenance.get("dataset"):
            places = {place_of(metric) for metric in new.metrics}
            replaced |= {metric for metric in old.metrics if place_of(metric) in places}
        metrics = {metric: value for metric, value in old.metrics.items() if metric not in replaced}
        if metrics:
            kept.append(Evaluation(metrics=metrics, provenance=old.provenance))
    return kept


def place_of(metric: str) -> str:
    """The dataset folder's name after the @, empty for the network's own dataset."""
    return metric.partition("@")[2]
