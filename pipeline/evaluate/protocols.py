"""The protocols that read stores, by name: each yields (metric, accuracy as a fraction)."""

from collections.abc import Iterator
from pathlib import Path

from cache.reader import Store
from pipeline.errors import WrongUse
from pipeline.evaluate import cluster_alignment as clusters
from pipeline.evaluate import fewlabel, linear, transfer
from pipeline.evaluate import knn as nearest
from pipeline.evaluate.augmented import augmented_batches
from pipeline.evaluate.embedded_runs import embedded, is_own
from pipeline.evaluate.features import Features, features_of
from pipeline.images.dataset import Dataset
from pipeline.models.layer_features import layers_of
from pipeline.models.student_file import load_run_student
from pipeline.runtime.distributed import resolve_device
from pipeline.settings.commands import EvalConfig

PROTOCOLS = ("nn", "linear", "ca", "few-label", "transfer")


def require_possible(run: Path | None, dataset: Dataset, config: EvalConfig) -> None:
    """Raise WrongUse, before anything is computed, for what cannot be asked of this run, or cache if None."""
    if run is None and (config.features == "augmented" or config.layer):
        raise WrongUse("--features augmented and --layer need a run's student; leave the caches out")
    if config.layer and "linear" not in config.protocol:
        raise WrongUse("--layer says where the linear probe looks: add linear to --protocol")
    if run and "transfer" in config.protocol and is_own(run, dataset):
        raise WrongUse(
            f"{run} was made of {dataset.path}, and transfer is to another dataset; use linear or few-label"
        )
    if "few-label" in config.protocol:
        fewlabel.require_known(config.labels, config.draws)
    if run and config.layer:
        layers_of(load_run_student(run).module, config.layer)


def scores(
    store: Store, run: Path | None, dataset: Dataset, config: EvalConfig
) -> Iterator[tuple[str, float]]:
    """What every protocol asked for yields on the embeddings of train and val in the store."""
    device, seed = resolve_device(config.device), config.seed
    train, val = features_of(store, "train"), features_of(store, "val")
    if "nn" in config.protocol:
        yield from nearest.evaluate(train, val, device=device)
    if "linear" in config.protocol and not config.layer:
        yield from _linear(train, val, run, dataset, config)
    if "linear" in config.protocol and config.layer and run:
        yield from _layers(run, dataset, config)
    if "ca" in config.protocol:
        yield from clusters.evaluate(train, val, seeds=config.ca_seeds, seed=seed, device=device)
    if "few-label" in config.protocol:
        labels, draws = config.labels, config.draws
        yield from fewlabel.evaluate(train, val, labels=labels, draws=draws, seed=seed, device=device)
    if "transfer" in config.protocol:
        yield from transfer.evaluate(train, val, seed=seed, device=device)


def _linear(
    train: Features, val: Features, run: Path | None, dataset: Dataset, config: EvalConfig, layer: str = ""
) -> Iterator[tuple[str, float]]:
    """ "linear", "linear_augmented", or either with the layer's name after it."""
    device, batches = resolve_device(config.device), None
    if config.features == "augmented" and run:
        batches = augmented_batches(run, dataset, config, device, layer)
    yield from linear.evaluate(
        train,
        val,
        seed=config.seed,
        epochs=config.epochs,
        device=device,
        batches=batches,
        name="_".join(["linear", *["augmented"] * bool(batches), *[layer] * bool(layer)]),
    )


def _layers(run: Path, dataset: Dataset, config: EvalConfig) -> Iterator[tuple[str, float]]:
    """The linear probe at each layer, and of several the best top-1 as "linear_best"."""
    found = []
    for layer in layers_of(load_run_student(run).module, config.layer):
        store = embedded(run, dataset, config, layer)
        train, val = features_of(store, "train"), features_of(store, "val")
        one = dict(_linear(train, val, run, dataset, config, layer))
        found.append(next(iter(one.values())))
        yield from one.items()
    if len(found) > 1:
        yield f"linear{'_augmented' * (config.features == 'augmented')}_best", max(found)
