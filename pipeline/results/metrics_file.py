"""metrics.json: all metrics of one model from all its evaluations, each with its provenance.

A metric on another dataset than the training one is called METRIC@NAME, where NAME is the dataset folder's name, after
its parents' names if another dataset has that name already: nn1@birds, nn1@old/birds.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from cache.durable import write_file
from cache.reader import open_store
from pipeline.errors import PipelineError, WrongUse
from pipeline.results.records import FORMAT, METRICS, is_store, load_metrics, metrics_path


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """The metrics of one evaluation, as fractions by name, and its provenance.

    provenance["store"] and ["dataset"] are the ids of the model's embeddings and of the images. folder: where a dataset
    other than the training one is; "" if it is not recorded.
    """

    metrics: dict[str, float]
    provenance: dict[str, Any] = field(default_factory=dict)
    folder: str = ""


def recorded_path(target: Path) -> Path:
    """Return the path to read a target's metrics from: `metrics_path`, or a file that an older version wrote.

    Older versions wrote the metrics of a cache v.s, and of v.b, to v.metrics.json. That is read as long as v.s has no
    file of its own, if its numbers are of v.s.
    """
    path, old = metrics_path(target), target.with_suffix(METRICS)
    if path.exists() or path == old or not old.is_file() or not is_store(target):
        return path
    recorded = [evaluation.provenance for evaluation in read_evaluations(old)]
    return old if any(is_of_store(provenance, target) for provenance in recorded) else path


def is_of_store(provenance: Mapping[str, Any], path: Path) -> bool:
    """Whether metrics are of the store at a path, by the ids of its teacher and its images. Raises StoreError."""
    store = open_store(path)
    images = store.split("train").dataset["images"] if "train" in store.splits else ""
    teacher, dataset = provenance.get("store"), provenance.get("dataset")
    return bool(teacher) and store.id.startswith(str(teacher)) and images.startswith(str(dataset or ""))


def record_evaluation(
    path: Path, *, name: str, role: str, new: Evaluation, earlier: Path | None = None
) -> None:
    """Add an evaluation to the metrics file, keeping what earlier evaluations of the same model measured.

    "provenance" is that of the last evaluation on the training dataset; "others" lists the metrics of the other
    evaluations, each with its own provenance. A file that cannot be read is replaced.
    earlier: the file to read, if not `path` itself.
    """
    evaluations = sorted(
        [*kept_evaluations(read_evaluations(earlier or path), new), new],
        key=lambda evaluation: str(evaluation.provenance.get("date")),
    )
    own = [each for each in evaluations if not all("@" in metric for metric in each.metrics)]
    main = (own or evaluations)[-1]
    others = [{"metrics": list(each.metrics), **_origin(each)} for each in evaluations if each is not main]
    content = {
        "format": FORMAT,
        "name": name,
        "role": role,
        "metrics": {metric: value for each in evaluations for metric, value in each.metrics.items()},
        **_origin(main),
        **({"others": others} if others else {}),
    }
    write_file(path, (json.dumps(content, indent=1) + "\n").encode())


def _origin(evaluation: Evaluation) -> dict[str, Any]:
    folder = {"folder": evaluation.folder} if evaluation.folder else {}
    return {"provenance": evaluation.provenance, **folder}


def read_evaluations(path: Path) -> list[Evaluation]:
    """Return the evaluations in a metrics file, or [] if there is no readable file."""
    try:
        result = load_metrics(path)
    except (WrongUse, PipelineError):
        return []
    content = json.loads(path.read_text(encoding="utf-8"))
    metrics, evaluations = dict(result.metrics), []
    for other in content.get("others", []):
        values = {metric: metrics.pop(metric) for metric in other["metrics"] if metric in metrics}
        folder = other.get("folder", "")
        evaluations.append(Evaluation(metrics=values, provenance=other["provenance"], folder=folder))
    main = Evaluation(metrics=metrics, provenance=dict(result.provenance), folder=content.get("folder", ""))
    return [*evaluations, main]


def name_dataset(earlier: Iterable[Evaluation], folder: Path, *, dataset: str, store: str) -> str:
    """Return the NAME of METRIC@NAME for a dataset in a folder: the shortest end of its path that names no other.

    earlier: the model's evaluations. The same images keep their name, and other images in the same folder take the
    place of those that were there. dataset, store: ids as in the evaluations' provenance.
    """
    parts = folder.resolve().parts
    ends = ["/".join(parts[-count:]) for count in range(1, len(parts))]
    taken: dict[str, Evaluation] = {}
    for evaluation in earlier:
        if evaluation.provenance.get("store") == store:
            taken |= {name: evaluation for metric in evaluation.metrics if (name := dataset_name(metric))}
    own = [
        name
        for name, evaluation in taken.items()
        if evaluation.folder == str(folder.resolve())
        or (evaluation.provenance.get("dataset") == dataset and name in ends)
    ]
    return next((name for name in (*own, *ends) if name in own or name not in taken), str(folder.resolve()))


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
            kept.append(replace(old, metrics=metrics))
    return kept


def dataset_name(metric: str) -> str:
    """Return the NAME of METRIC@NAME, or "" for a metric on the training dataset."""
    return metric.partition("@")[2]
