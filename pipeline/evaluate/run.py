"""Evaluate runs and caches: embed what is missing, score the stores, write metrics.json, show one table."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from cache.durable import write_file
from cache.errors import IdentityMismatch
from cache.layout import identity_difference
from cache.reader import Store, open_store
from pipeline.config import EvalConfig
from pipeline.dataset import Dataset, open_dataset
from pipeline.distributed import resolve_device, use_every_core
from pipeline.embed import embed
from pipeline.errors import PipelineError, WrongUse, suggest
from pipeline.evaluate import clusters, linear, nearest
from pipeline.evaluate.augmented import augmented_batches
from pipeline.evaluate.features import features_of
from pipeline.extraction import BackboneSpec
from pipeline.provenance import provenance
from pipeline.report.table import FORMAT, Result, terminal_table
from pipeline.runlog import read_config

PROTOCOLS = ("nn", "linear", "ca")


@dataclass(frozen=True, kw_only=True)
class Target:
    """What is evaluated: a run folder, or a teacher's cache where `run` is None."""

    name: str
    role: str
    store: Path
    metrics: Path
    seed: int | None = None
    run: Path | None = None


def evaluate_targets(config: EvalConfig) -> None:
    """Evaluate each target on the dataset and print them side by side.

    Raises WrongUse for an unknown protocol or a target that is neither a run nor a store, PipelineError for a
    dataset without labelled train and val splits, StoreError for a store of another dataset.
    """
    for name in config.protocol:
        if name not in PROTOCOLS:
            raise WrongUse(f"no protocol {name!r}: expected {', '.join(PROTOCOLS)}{suggest(name, PROTOCOLS)}")
    use_every_core()
    dataset = open_dataset(config.dataset)
    for split in ("train", "val"):
        if split not in dataset.splits:
            raise PipelineError(f"{config.dataset} has no {split} split: evaluation needs train and val")
    if dataset.splits["train"].classes != dataset.splits["val"].classes:
        raise PipelineError(
            f"{config.dataset}: train and val have other classes; pack both from the same ones"
        )
    results = [evaluate_target(target_of(path), dataset, config) for path in config.targets]
    Console().print(terminal_table(results))


def target_of(path: Path) -> Target:
    """Look at what a path holds, and name it for the table."""
    if (path / "config.json").exists():
        return run_target(path)
    store = open_store(path)
    pixels = store.teacher["architecture"].startswith("pixels")
    return Target(
        name="raw pixels" if pixels else f"teacher {store.teacher['architecture']}",
        role="pixels" if pixels else "teacher",
        store=path,
        metrics=path.with_suffix(".metrics.json"),
    )


def run_target(run: Path) -> Target:
    """A run by what made it: distilled, from scratch, or, after no epoch at all, untrained."""
    record = read_config(run)
    config = record["config"]
    if config["epochs"] == 0:
        role = kind = "untrained"
    elif record["command"] == "pretrain":
        role, kind = "scratch", "from scratch (SimCLR)"
    else:
        role, kind = "student", config["objective"]
    return Target(
        name=f"{config['student']} {kind}",
        role=role,
        store=run / "embeddings.zarr",
        metrics=run / "metrics.json",
        seed=config["seed"],
        run=run,
    )


def evaluate_target(target: Target, dataset: Dataset, config: EvalConfig) -> Result:
    """Embed if needed, run the protocols, write the metrics beside the target."""
    if target.run:
        embed_run(target.run, dataset, target.store, config)
    store = of_dataset(open_store(target.store), dataset)
    metrics = dict(scores(store, target, dataset, config))
    origin = provenance() | {
        "dataset": dataset.splits["train"].identity["images"][:16],
        "store": store.id[:16],
        "seed": target.seed,
    }
    record: dict[str, Any] = {
        "format": FORMAT,
        "name": target.name,
        "role": target.role,
        "metrics": metrics,
        "provenance": origin,
    }
    write_file(target.metrics, (json.dumps(record, indent=1) + "\n").encode())
    return Result(name=target.name, role=target.role, metrics=metrics, provenance=origin)


def embed_run(run: Path, dataset: Dataset, store: Path, config: EvalConfig) -> None:
    """Bring the store of a run's own embeddings up to date: one of other weights is made anew."""
    backbone = BackboneSpec(kind="run", run=run)
    settings: dict[str, Any] = {"device": config.device, "workers": config.workers, "progress": True}
    try:
        embed(backbone, dataset, store, **settings)
    except IdentityMismatch:
        shutil.rmtree(store)
        embed(backbone, dataset, store, **settings)


def of_dataset(store: Store, dataset: Dataset) -> Store:
    """The store, when both of its splits are of this dataset and sound."""
    for name in ("train", "val"):
        split = store.split(name)
        differences = identity_difference(dataset.splits[name].identity, split.dataset)
        if differences:
            raise IdentityMismatch(f"{store.path} was made of another dataset: {'; '.join(differences)}")
        split.require_complete()
        split.verify()
    return store


def scores(store: Store, target: Target, dataset: Dataset, config: EvalConfig) -> Iterator[tuple[str, float]]:
    """(metric, accuracy as a fraction) of every protocol asked for."""
    device = resolve_device(config.device)
    train, val = features_of(store, "train"), features_of(store, "val")
    if "nn" in config.protocol:
        yield from nearest.evaluate(train, val, device=device)
    if "linear" in config.protocol:
        batches = None
        if config.features == "augmented":
            if target.run is None:
                raise WrongUse(f"{target.store} is a store: --features augmented needs a run's student")
            batches = augmented_batches(target.run, dataset, config, device)
        yield from linear.evaluate(
            train, val, seed=config.seed, epochs=config.epochs, device=device, batches=batches
        )
    if "ca" in config.protocol:
        yield from clusters.evaluate(train, val, seed=config.seed, device=device)
