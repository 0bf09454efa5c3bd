"""`eval`: embed what is missing, run the protocols, write metrics.json and print one table."""

from collections.abc import Sequence

from rich.console import Console

from cache.errors import StoreError
from cache.reader import open_store
from pipeline.errors import PipelineError, WrongUse, suggest
from pipeline.evaluate.embedded_runs import (
    SPLITS,
    checked_store,
    embed_run,
    folder_name,
    is_training_dataset,
    run_store_id,
)
from pipeline.evaluate.protocols import PROTOCOLS, require_applicable, scores
from pipeline.evaluate.voc.classification import evaluate_voc
from pipeline.evaluate.voc.data import folder_id
from pipeline.evaluate.voc.detection import evaluate_detection
from pipeline.images.dataset import Dataset, open_dataset
from pipeline.results.metrics_file import Evaluation, is_recorded, record_evaluation
from pipeline.results.records import Result
from pipeline.results.table import TITLES, terminal_table
from pipeline.results.targets import Target, target_of
from pipeline.runtime.distributed import use_all_cores
from pipeline.runtime.provenance import provenance
from pipeline.settings.commands import EvalConfig

VOC_PROTOCOLS = {"voc": evaluate_voc, "voc-detection": evaluate_detection}


def evaluate_targets(config: EvalConfig) -> None:
    """Evaluate each target on the dataset and print a table of the results.

    Raises:
        WrongUse: an unknown protocol, or a target that is neither a run nor a store.
        PipelineError: the dataset has no labelled train and val splits.
        StoreError: a store is of another dataset.
    """
    known = (*PROTOCOLS, *VOC_PROTOCOLS)
    for name in config.protocol:
        if name not in known:
            raise WrongUse(f"no protocol {name!r}: expected {', '.join(known)}{suggest(name, known)}")
    use_all_cores()
    is_voc = bool(set(config.protocol) & VOC_PROTOCOLS.keys())
    results = evaluate_on_voc(config) if is_voc else evaluate_on_dataset(config)
    Console().print(terminal_table(results, shown_metrics(results)))


def evaluate_on_dataset(config: EvalConfig) -> list[Result]:
    """Evaluate each target on a packed dataset. Raises as evaluate_targets."""
    dataset = open_dataset(config.dataset)
    for split in SPLITS:
        if split not in dataset.splits:
            raise PipelineError(f"{config.dataset} has no {split} split: evaluation needs train and val")
    if dataset.splits["train"].classes != dataset.splits["val"].classes:
        raise PipelineError(
            f"{config.dataset}: train and val have different classes; pack both from the same class folders"
        )
    targets = [target_of(path) for path in config.targets]
    for target in targets:
        require_applicable(target.run, dataset, config)
    return [evaluate_target(target, dataset, config) for target in targets]


def evaluate_on_voc(config: EvalConfig) -> list[Result]:
    """Evaluate each run on a folder of PASCAL VOC.

    Raises WrongUse for a cache, a protocol that needs a dataset, or a folder of another layout.
    """
    others = [name for name in config.protocol if name not in VOC_PROTOCOLS]
    if others:
        raise WrongUse(
            f"{', '.join(others)} and VOC's protocols read different kinds of folders: run them separately"
        )
    targets = [target_of(path) for path in config.targets]
    for target in targets:
        if target.run is None:
            raise WrongUse(f"{target.store} is a store, and VOC needs a run's student: leave it out")
    images = folder_id(config.dataset)
    return [evaluate_target_on_voc(target, images, config) for target in targets]


def evaluate_target_on_voc(target: Target, images: str, config: EvalConfig) -> Result:
    """Run VOC's protocols on a run's student and record the metrics. images: the id of the VOC folder."""
    assert target.run is not None
    metrics: dict[str, float] = {}
    for name in config.protocol:
        metrics |= VOC_PROTOCOLS[name](target.run, config.dataset, config)
    suffix = f"@{config.dataset.resolve().name}"
    return record_result(target, metrics, suffix, dataset=images, store=run_store_id(target.run))


def evaluate_target(target: Target, dataset: Dataset, config: EvalConfig) -> Result:
    """Embed if needed, run the protocols, and record the metrics beside the target.

    On another dataset than the training one, the run's own store and metrics are left unchanged.
    """
    run = target.run
    store = embed_run(run, dataset, config) if run else checked_store(open_store(target.store), dataset)
    metrics = dict(scores(store, run, dataset, config))
    is_own = run is None or is_training_dataset(run, dataset)
    suffix = "" if is_own else f"@{folder_name(dataset)}"
    images = dataset.splits["train"].identity["images"]
    return record_result(target, metrics, suffix, dataset=images, store=store.id)


def record_result(
    target: Target, metrics: dict[str, float], suffix: str, *, dataset: str, store: str
) -> Result:
    """Write the metrics to the target's metrics file and return the result.

    suffix: appended to the metrics' names. dataset, store: ids of the images and of the embeddings.
    """
    origin = provenance() | {"dataset": dataset[:16], "store": store[:16], "seed": target.seed}
    named = {f"{metric}{suffix}": value for metric, value in metrics.items()}
    new = Evaluation(metrics=named, provenance=origin)
    try:
        record_evaluation(target.metrics, name=target.name, role=target.role, new=new)
    except StoreError:  # a read-only target is fine if the file has these values already
        if not is_recorded(target.metrics, new):
            raise
    return Result(name=target.name, role=target.role, metrics=metrics, provenance=origin)


def shown_metrics(results: Sequence[Result]) -> dict[str, str]:
    """Return the metrics to show on the terminal, and their titles."""
    metrics = dict.fromkeys(metric for result in results for metric in result.metrics)
    return {
        metric: TITLES.get(metric, metric.replace("_", " "))
        for metric in metrics
        if not metric.endswith(("_top5", "_std"))
    }
