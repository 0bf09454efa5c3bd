"""metrics.json: all metrics of one model from all its evaluations, each with its provenance.

A metric on another dataset than the training one is called METRIC@NAME, where NAME is the dataset folder's name.
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
    """The metrics of one evaluation, as fractions by name, and its provenance.

    provenance["store"] and ["dataset"] are the ids of the model's embeddings and of the images.
    """

    metrics: dict[str, float]
    provenance: dict[str, Any] = field(default_factory=dict)


def record_evaluation(path: Path, *, name: str, role: str, new: Evaluation) -> None:
    """Add an evaluation to the metrics file, keeping what earlier evaluations of the same model measured.

    "provenance" is that of the last evaluation on the training dataset; "others" lists the metrics of the other
    evaluations, each with its own provenance. A file that cannot be read is replaced.
    """
    evaluations = sorted(
        [*kept_evaluations(read_evaluations(path), new), new],
        key=lambda evaluation: str(evaluation.provenance.get("date")),
    )
    own = [each for each in evaluations if not all("@" in metric for metric in each.metrics)]
    main = (own or evaluations)[-1]
    others = [
        {"metrics": list(each.metrics), "provenance": each.provenance}
        for each in evaluations
        if each is not main
    ]
    content = {
        "format": FORMAT,
        "name": name,
        "role": role,
        "metrics": {metric: value for each in evaluations for metric, value in each.metrics.items()},
        "provenance": main.provenance,
        **({"others": others} if others else {}),
    }
    write_file(path, (json.dumps(content, indent=1) + "\n").encode())


def read_evaluations(path: Path) -> list[Evaluation]:
    """Return the evaluations in a metrics file, or [] if there is no readable file."""
    try:
        result = load_metrics(path)
    except (WrongUse, PipelineError):
        return []
    metrics, evaluations = dict(result.metrics), []
    for other in json.loads(path.read_text(encoding="utf-8")).get("others", []):
        values = {metric: metrics.pop(metric) for metric in other["metrics"] if metric in metrics}
        evaluations.append(Evaluation(metrics=values, provenance=other["provenance"]))
    return [*evaluations, Evaluation(metrics=metrics, provenance=dict(result.provenance))]


def is_recorded(path: Path, new: Evaluation) -> bool:
    """Whether the metrics file already has these values for the same model and dataset."""
    recorded = {
        metric: value
        for old in read_evaluations(path)
        if all(old.provenance.get(key) == new.provenance.get(key) for key in ("store", "dataset"))
        for metric, value in old.metrics.items()
    }
    return new.metrics.items() <= recorded.items()


def kept_evaluations(earlier: Iterable[Evaluation], new: Evaluation) -> list[Evaluation]:
    """Return the earlier evaluations that stay valid beside a new one.

    Dropped are all metrics of another model, those measured again, and those of another dataset of the same name.
    """
    kept = []
    for old in earlier:
        if old.provenance.get("store") != new.provenance.get("store"):
            continue
        replaced = set(new.metrics)
        if old.provenance.get("dataset") != new.provenance.get("dataset"):
            names = {dataset_name(metric) for metric in new.metrics}
            replaced |= {metric for metric in old.metrics if dataset_name(metric) in names}
        metrics = {metric: value for metric, value in old.metrics.items() if metric not in replaced}
        if metrics:
            kept.append(Evaluation(metrics=metrics, provenance=old.provenance))
    return kept


def dataset_name(metric: str) -> str:
    """Return the NAME of METRIC@NAME, or "" for a metric on the training dataset."""
    return metric.partition("@")[2]
