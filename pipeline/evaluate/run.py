"""Evaluate runs and caches: embed what is missing, score the stores, write metrics.json, show one table."""

from collections.abc import Sequence

from rich.console import Console

from cache.errors import StoreError
from cache.reader import open_store
from pipeline.errors import PipelineError, WrongUse, suggest
from pipeline.evaluate.embedded_runs import SPLITS, embedded, is_own, name_of, network_id, of_dataset
from pipeline.evaluate.protocols import PROTOCOLS, require_possible, scores
from pipeline.evaluate.voc.classification import evaluate_voc
from pipeline.evaluate.voc.data import folder_id
from pipeline.evaluate.voc.detection import evaluate_detection
from pipeline.images.dataset import Dataset, open_dataset
from pipeline.results.metrics_file import Evaluation, is_recorded, record
from pipeline.results.records import Result
from pipeline.results.table import TITLES, terminal_table
from pipeline.results.targets import Target, target_of
from pipeline.runtime.distributed import use_every_core
from pipeline.runtime.provenance import provenance
from pipeline.settings.commands import EvalConfig

VOC_PROTOCOLS = {"voc": evaluate_voc, "voc-detection": evaluate_detection}


def evaluate_targets(config: EvalConfig) -> None:
    """Evaluate each target on the dataset and print them side by side.

    Raises WrongUse for an unknown protocol or a target that is neither a run nor a store, PipelineError for a
    dataset without labelled train and val splits, StoreError for a store of another dataset.
    """
    known = (*PROTOCOLS, *VOC_PROTOCOLS)
    for name in config.protocol:
        if name not in known:
            raise WrongUse(f"no protocol {name!r}: expected {', '.join(known)}{suggest(name, known)}")
    use_every_core()
    results = on_voc(config) if set(config.protocol) & VOC_PROTOCOLS.keys() else on_dataset(config)
    Console().print(terminal_table(results, shown(results)))


def on_dataset(config: EvalConfig) -> list[Result]:
    """Each target's result on a packed dataset; raises as evaluate_targets."""
    dataset = open_dataset(config.dataset)
    for split in SPLITS:
        if split not in dataset.splits:
            raise PipelineError(f"{config.dataset} has no {split} split: evaluation needs train and val")
    if dataset.splits["train"].classes != dataset.splits["val"].classes:
        raise PipelineError(
            f"{config.dataset}: train and val have other classes; pack both from the same ones"
        )
    targets = [target_of(path) for path in config.targets]
    for target in targets:
        require_possible(target.run, dataset, config)
    return [evaluate_target(target, dataset, config) for target in targets]


def on_voc(config: EvalConfig) -> list[Result]:
    """Each run's result on a folder of PASCAL VOC.

    Raises WrongUse for a cache, a protocol that reads a dataset, or a folder of another layout.
    """
    others = [name for name in config.protocol if name not in VOC_PROTOCOLS]
    if others:
        raise WrongUse(
            f"{', '.join(others)} and VOC's protocols read other kinds of folders: ask for them apart"
        )
    targets = [target_of(path) for path in config.targets]
    for target in targets:
        if target.run is None:
            raise WrongUse(f"{target.store} is a store, and VOC needs a run's student: leave it out")
    images = folder_id(config.dataset)
    return [evaluate_on_voc(target, images, config) for target in targets]


def evaluate_on_voc(target: Target, images: str, config: EvalConfig) -> Result:
    """Run VOC's protocols on a run's student, and write the metrics beside what it has; images: the folder's id."""
    assert target.run is not None
    metrics: dict[str, float] = {}
    for name in config.protocol:
        metrics |= VOC_PROTOCOLS[name](target.run, config.dataset, config)
    place = f"@{config.dataset.resolve().name}"
    return written(target, metrics, place, dataset=images, store=network_id(target.run))


def evaluate_target(target: Target, dataset: Dataset, config: EvalConfig) -> Result:
    """Embed if needed, run the protocols, and write the metrics beside the target.

    On a dataset that a run was not made of, the run's own store and numbers stay as they are.
    """
    store = (
        embedded(target.run, dataset, config) if target.run else of_dataset(open_store(target.store), dataset)
    )
    metrics = dict(scores(store, target.run, dataset, config))
    place = "" if target.run is None or is_own(target.run, dataset) else f"@{name_of(dataset)}"
    images = dataset.splits["train"].identity["images"]
    return written(target, metrics, place, dataset=images, store=store.id)


def written(target: Target, metrics: dict[str, float], place: str, *, dataset: str, store: str) -> Result:
    """The result, recorded beside the target; place: what follows a metric's name; ids of images and network."""
    origin = provenance() | {"dataset": dataset[:16], "store": store[:16], "seed": target.seed}
    named = {f"{metric}{place}": value for metric, value in metrics.items()}
    new = Evaluation(metrics=named, provenance=origin)
    try:
        record(target.metrics, name=target.name, role=target.role, new=new)
    except StoreError:  # what is there already need not be written
        if not is_recorded(target.metrics, new):
            raise
    return Result(name=target.name, role=target.role, metrics=metrics, provenance=origin)


def shown(results: Sequence[Result]) -> dict[str, str]:
    """The metrics that the terminal's table has room for, with their titles."""
    found = dict.fromkeys(metric for result in results for metric in result.metrics)
    return {
        metric: TITLES.get(metric, metric.replace("_", " "))
        for metric in found
        if not metric.endswith(("_top5", "_std"))
    }
