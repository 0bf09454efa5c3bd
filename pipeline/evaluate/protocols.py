"""The protocols that evaluate stores, by name: each yields pairs (metric, accuracy as a fraction)."""

from collections.abc import Iterator
from pathlib import Path

import torch

from cache.errors import NotAStore
from cache.reader import Store, open_store
from pipeline.errors import WrongUse
from pipeline.evaluate import cluster_alignment, fewlabel, knn, linear, transfer
from pipeline.evaluate.augmented import augmented_batches
from pipeline.evaluate.embedded_runs import checked_store, embed_run, is_training_dataset
from pipeline.evaluate.features import LabeledFeatures, load_features
from pipeline.evaluate.fidelity import of_stores
from pipeline.images.dataset import Dataset
from pipeline.models.layer_features import layers_of
from pipeline.models.student_file import load_run_student
from pipeline.remote.download import local_copy
from pipeline.results.run_record import read_config
from pipeline.runtime.device import resolve_device
from pipeline.runtime.distributed import ALONE, World
from pipeline.settings.commands import EvalConfig


def require_applicable(run: Path | None, dataset: Dataset, config: EvalConfig) -> None:
    """Raise WrongUse for a protocol or flag that does not apply to this run (None for a cache)."""
    if run is None and (config.features == "augmented" or config.layer):
        raise WrongUse("--features augmented and --layer need a run's student; leave the caches out")
    if config.layer and "linear" not in config.protocol:
        raise WrongUse("--layer selects the linear probe's input: add linear to --protocol")
    if run and "transfer" in config.protocol and is_training_dataset(run, dataset):
        raise WrongUse(
            f"{run} was trained on {dataset.path}, and transfer needs another dataset; use linear or few-label"
        )
    if "fidelity" in config.protocol:
        if run and has_teacher(run):
            checked_store(teacher_cache(run), dataset)  # before anything is embedded
        elif set(config.protocol) == {"fidelity"}:  # beside others, a cache or an untrained network has none
            what = f"{run} was trained without a teacher" if run else "a cache is the teacher's own"
            raise WrongUse(f"fidelity compares a student with its teacher, but {what}; leave it out")
    if "few-label" in config.protocol:
        fewlabel.require_valid_labels(config.labels, config.draws)
    if run and config.layer:
        layers_of(load_run_student(run).module, config.layer)


def scores(
    store: Store, run: Path | None, dataset: Dataset, config: EvalConfig, world: World = ALONE
) -> Iterator[tuple[str, float]]:
    """Run the configured protocols on the store's embeddings of train and val.

    All ranks take part in the linear probe, of random crops, and the first does everything else.
    """
    device, seed = resolve_device(config.device), config.seed
    if "fidelity" in config.protocol and run and has_teacher(run) and world.rank == 0:
        yield "recall10", recall10(store, run, dataset, seed, device)
    if set(config.protocol) == {"fidelity"}:
        return
    train, val = load_features(store, "train"), load_features(store, "val")
    if "nn" in config.protocol and world.rank == 0:
        yield from knn.evaluate(train, val, device=device)
    world.gather(None)  # the others wait for the first here: in the probe, for half an hour at most
    if "linear" in config.protocol and not config.layer:
        yield from _linear(train, val, run, dataset, config, world)
    if "linear" in config.protocol and config.layer and run:
        yield from _layers(run, dataset, config, config.layer, world)
    if world.rank > 0:
        return
    if "ca" in config.protocol:
        yield from cluster_alignment.evaluate(train, val, seeds=config.ca_seeds, seed=seed, device=device)
    if "few-label" in config.protocol:
        labels, draws = config.labels, config.draws
        yield from fewlabel.evaluate(train, val, labels=labels, draws=draws, seed=seed, device=device)
    if "transfer" in config.protocol:
        yield from transfer.evaluate(train, val, seed=seed, device=device)


def recall10(store: Store, run: Path, dataset: Dataset, seed: int, device: torch.device) -> float:
    """Return the mean share of the teacher's ten nearest training images among the student's, see `fidelity`."""
    teacher = checked_store(teacher_cache(run), dataset)
    return float(of_stores(store, teacher, seed, device).recall.mean())


def has_teacher(run: Path) -> bool:
    """Whether a run was trained from a cache."""
    return "cache" in read_config(run)["config"]


def teacher_cache(run: Path) -> Store:
    """Return the cache that a run was trained from, at its recorded path. WrongUse if it is not there any more."""
    record = read_config(run)
    path = record["config"]["cache"]
    try:
        store = open_store(local_copy(path), views=1)
    except NotAStore as error:
        raise WrongUse(f"fidelity needs the cache that {run} was trained from, but {error}") from error
    if store.id != record["made_of"]["cache"]:
        raise WrongUse(f"{path} is not the cache that {run} was trained from: it is of another teacher")
    return store


def _linear(
    train: LabeledFeatures,
    val: LabeledFeatures,
    run: Path | None,
    dataset: Dataset,
    config: EvalConfig,
    world: World,
    layer: str | None = None,
) -> Iterator[tuple[str, float]]:
    """Run the linear probe; its metric is "linear" or "linear_augmented", followed by the layer's name if given."""
    device, batches = resolve_device(config.device), None
    if config.features == "augmented" and run:
        batches = augmented_batches(run, dataset, config, device, world, layer)
    yield from linear.evaluate(
        train,
        val,
        seed=config.seed,
        epochs=config.epochs,
        device=device,
        batches=batches,
        name="_".join(["linear", *["augmented"] * bool(batches), *([layer] if layer else [])]),
    )


def _layers(
    run: Path, dataset: Dataset, config: EvalConfig, layers: str, world: World
) -> Iterator[tuple[str, float]]:
    """Run the linear probe on each layer, and with several yield the best top-1 accuracy as "linear_best"."""
    accuracies = []
    for layer in layers_of(load_run_student(run).module, layers):
        store = embed_run(run, dataset, config, world, layer)
        train, val = load_features(store, "train"), load_features(store, "val")
        metrics = dict(_linear(train, val, run, dataset, config, world, layer))
        accuracies.append(next(iter(metrics.values())))
        yield from metrics.items()
    if len(accuracies) > 1:
        yield f"linear{'_augmented' * (config.features == 'augmented')}_best", max(accuracies)
