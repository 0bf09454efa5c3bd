"""`eval`: embed what is missing, run the protocols, write metrics.json and print one table."""

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from rich.console import Console

from cache.errors import StoreError
from cache.reader import open_store
from pipeline.errors import PipelineError, WrongUse, suggest
from pipeline.evaluate.embedded_runs import (
    SPLITS,
    checked_store,
    embed_run,
    is_training_dataset,
    run_store_id,
)
from pipeline.evaluate.protocols import require_applicable, scores
from pipeline.evaluate.voc.classification import evaluate_voc
from pipeline.evaluate.voc.data import folder_id
from pipeline.evaluate.voc.detection import evaluate_detection
from pipeline.images.dataset import Dataset, open_dataset
from pipeline.images.labelled import label_problem
from pipeline.results.distinct_names import distinct_names
from pipeline.results.metrics_file import (
    Evaluation,
    is_recorded,
    name_dataset,
    read_evaluations,
    record_evaluation,
    recorded_path,
)
from pipeline.results.records import ID_DIGITS, Result
from pipeline.results.table import OTHER_TITLES, TITLES, terminal_table
from pipeline.results.targets import Target, target_of
from pipeline.runtime.device import gpu_record, resolve_device
from pipeline.runtime.distributed import (
    ALONE,
    World,
    init_distributed,
    shutdown_distributed,
    use_all_cores,
)
from pipeline.runtime.outputs import require_writable_file
from pipeline.runtime.provenance import provenance
from pipeline.settings.commands import PROTOCOLS, EvalConfig

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
    world = join_ranks(config)
    targets = load_targets(config.targets)
    for target in targets:
        if not recorded_path(target.path).is_file():  # what is recorded already needs no permission to write
            require_writable_file(target.metrics)
    results = evaluate_on_voc(targets, config) if is_voc else evaluate_on_dataset(targets, config, world)
    if world.rank == 0 and config.json:
        print(json.dumps([asdict(result) for result in results], indent=1))
    elif world.rank == 0:
        Console().print(terminal_table(results, shown_metrics(results)))
    world.gather(None)  # NCCL's patience is half an hour, and the first rank may work for longer
    shutdown_distributed()


def join_ranks(config: EvalConfig) -> World:
    """Return this process's rank under torchrun. Raises WrongUse for an evaluation that is not divided among ranks."""
    world = init_distributed(resolve_device(config.device))
    if world.size > 1 and (config.features != "augmented" or "linear" not in config.protocol):
        raise WrongUse(
            "under torchrun, eval divides the linear probe of random crops alone: add --features augmented, or leave "
            "torchrun out"
        )
    return world


def load_targets(paths: Sequence[Path]) -> list[Target]:
    """Return the target at each path, one that is named twice once. Raises PipelineError or StoreError."""
    return list({target.metrics.resolve(): target for target in map(target_of, paths)}.values())


def with_distinct_names(targets: Sequence[Target], results: Sequence[Result]) -> list[Result]:
    """Return the results with names that tell different systems apart; see `distinct_names`."""
    names = distinct_names([target.candidate for target in targets])
    return [replace(result, name=name) for result, name in zip(results, names, strict=True)]


def evaluate_on_dataset(targets: Sequence[Target], config: EvalConfig, world: World = ALONE) -> list[Result]:
    """Evaluate each target on a packed dataset. Raises as evaluate_targets."""
    dataset = open_dataset(config.dataset)
    for split in SPLITS:
        if split not in dataset.splits:
            raise PipelineError(f"{config.dataset} has no {split} split: evaluation needs train and val")
    if dataset.splits["train"].classes != dataset.splits["val"].classes:
        raise PipelineError(
            f"{config.dataset}: train and val have different classes; pack both from the same class folders"
        )
    problem = label_problem(dataset)
    if problem and set(config.protocol) != {"fidelity"}:  # before anything is embedded
        raise PipelineError(f"{problem}; evaluation needs a dataset packed from class folders")
    for target in targets:
        require_applicable(target.run, dataset, config)
    results = [evaluate_target(target, dataset, config, world) for target in targets]
    return with_distinct_names(targets, results)


def evaluate_on_voc(targets: Sequence[Target], config: EvalConfig) -> list[Result]:
    """Evaluate each run on a folder of PASCAL VOC.

    Raises WrongUse for a cache, a protocol that needs a dataset, or a folder of another layout.
    """
    others = [name for name in config.protocol if name not in VOC_PROTOCOLS]
    if others:
        raise WrongUse(
            f"{', '.join(others)} and VOC's protocols read different kinds of folders: run them separately"
        )
    for target in targets:
        if target.run is None:
            raise WrongUse(f"{target.store} is a store, and VOC needs a run's student: leave it out")
    images = folder_id(config.dataset)
    return with_distinct_names(
        targets, [evaluate_target_on_voc(target, images, config) for target in targets]
    )


def evaluate_target_on_voc(target: Target, images: str, config: EvalConfig) -> Result:
    """Run VOC's protocols on a run's student and record the metrics. images: the id of the VOC folder."""
    assert target.run is not None
    metrics: dict[str, float] = {}
    for name in config.protocol:
        metrics |= VOC_PROTOCOLS[name](target.run, config.dataset, config)
    return record_result(
        target, metrics, config, dataset=images, store=run_store_id(target.run), folder=config.dataset
    )


def evaluate_target(target: Target, dataset: Dataset, config: EvalConfig, world: World = ALONE) -> Result:
    """Embed if needed, run the protocols, and record the metrics beside the target, as the first rank finds them.

    On another dataset than the training one, the run's own store and metrics are left unchanged.
    """
    run = target.run
    store = (
        embed_run(run, dataset, config, world)
        if run
        else checked_store(open_store(target.store, views=1), dataset)
    )
    metrics = dict(scores(store, run, dataset, config, world))
    if world.rank > 0:
        return Result(name=target.name, role=target.role, metrics=metrics)
    is_own = run is None or is_training_dataset(run, dataset)
    images = dataset.splits["train"].identity["images"]
    folder = None if is_own else dataset.path
    return record_result(target, metrics, config, dataset=images, store=store.id, folder=folder)


def record_result(
    target: Target,
    metrics: dict[str, float],
    config: EvalConfig,
    *,
    dataset: str,
    store: str,
    folder: Path | None,
) -> Result:
    """Write the metrics to the target's metrics file and return the result.

    dataset, store: ids of the images and of the embeddings. folder: the dataset's, None for the training dataset; its
    name becomes part of the metrics' names in the file.
    """
    ids = {"dataset": dataset[:ID_DIGITS], "store": store[:ID_DIGITS]}
    made_on = provenance() | gpu_record(resolve_device(config.device))
    origin, recorded = made_on | ids | {"seed": target.seed}, recorded_path(target.path)
    suffix, place = "", ""
    if folder:
        suffix, place = f"@{name_dataset(read_evaluations(recorded), folder, **ids)}", str(folder.resolve())
    named = {f"{metric}{suffix}": value for metric, value in metrics.items()}
    new = Evaluation(metrics=named, provenance=origin, folder=place)
    try:
        record_evaluation(target.metrics, name=target.name, role=target.role, new=new, earlier=recorded)
    except StoreError:  # a read-only target is fine if the file has these values already
        if not is_recorded(recorded, new):
            raise
    return Result(name=target.name, role=target.role, metrics=metrics, provenance=origin)


def shown_metrics(results: Sequence[Result]) -> dict[str, str]:
    """Return the metrics to show on the terminal, and their titles."""
    metrics = dict.fromkeys(metric for result in results for metric in result.metrics)
    return {
        metric: {**TITLES, **OTHER_TITLES}.get(metric, metric.replace("_", " "))
        for metric in metrics
        if not metric.endswith(("_top5", "_std"))
    }
