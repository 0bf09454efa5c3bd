"""The stores that an evaluation reads: a run's embeddings of each dataset and layer, computed on demand."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cache.errors import IdentityMismatch
from cache.identity import identity_difference, identity_id
from cache.reader import Store, open_store
from pipeline.embedding.cache_teacher import embed, teacher_identity
from pipeline.images.beton_check import require_same_images
from pipeline.images.dataset import Dataset
from pipeline.models.backbone import comparable
from pipeline.results.records import is_store
from pipeline.results.run_record import read_config
from pipeline.runtime.distributed import ALONE, World
from pipeline.settings.browse import BrowseConfig
from pipeline.settings.commands import EvalConfig
from pipeline.teachers.backbone_spec import BackboneSpec

EmbeddingConfig = EvalConfig | BrowseConfig  # settings with a device, workers and a scheduler
SPLITS = ("train", "val")
EMBED_OPTIONS: dict[str, Any] = {"precision": "fp32", "batch_size": 128}  # part of a store's identity


def is_training_dataset(run: Path, dataset: Dataset) -> bool:
    """Whether the run was trained on this dataset."""
    trained_on = read_config(run)["made_of"]["dataset"]
    return "train" in dataset.splits and not dataset.splits["train"].difference_from(trained_on)


def folder_name(dataset: Dataset) -> str:
    """Return the name of a dataset's folder, which names its metrics and stores."""
    return dataset.path.resolve().name


def store_path(run: Path, dataset: Dataset, layer: str | None = None) -> Path:
    """Return the path of a run's embeddings of a dataset, or of the output of one of the student's layers."""
    if is_training_dataset(run, dataset):
        return run / "layers" / f"{layer}.zarr" if layer else run / "embeddings.zarr"
    images = identity_id(
        {name: dataset.splits[name].packed_identity for name in SPLITS if name in dataset.splits}
    )
    inside = f"-{layer}" if layer else ""
    return run / "transfer" / f"{folder_name(dataset)}-{images[:8]}{inside}.zarr"


def embed_run(
    run: Path,
    dataset: Dataset,
    config: EmbeddingConfig,
    world: World = ALONE,
    layer: str | None = None,
    splits: Sequence[str] = SPLITS,
) -> Store:
    """Return the store of a run's embeddings of a dataset; compute what is missing, or all if the weights changed.

    splits: those that are needed. config: has the device, the workers and the scheduler. The first rank computes, with
    all devices of the machine. Raises IdentityMismatch when the existing store is of other images; it is kept then.
    """
    path = store_path(run, dataset, layer)
    with world.together():
        if world.rank == 0:
            _embed_missing(path, BackboneSpec(kind="run", run=run, layer=layer), dataset, config, splits)
    return checked_store(open_store(path, views=1), dataset, splits)


def _embed_missing(
    path: Path, backbone: BackboneSpec, dataset: Dataset, config: EmbeddingConfig, splits: Sequence[str]
) -> None:
    path.parent.mkdir(exist_ok=True)
    options: dict[str, Any] = EMBED_OPTIONS | {
        "device": config.device,
        "workers": config.workers,
        "scheduler": config.scheduler,
        "progress": True,
        # all splits where both are asked for, so that a test split of the dataset is embedded as well
        "splits": () if set(splits) == set(SPLITS) else splits,
    }
    try:
        embed(backbone, dataset, path, **options)
    except IdentityMismatch:
        if any(_differences(dataset, open_store(path), name) for name in open_store(path).splits):
            raise
        shutil.rmtree(path)
        embed(backbone, dataset, path, **options)


def run_store_id(run: Path) -> str:
    """Return the id of the stores of a run's embeddings, which does not depend on the images."""
    identity = teacher_identity(BackboneSpec(kind="run", run=run).load(), **EMBED_OPTIONS)
    path = run / "embeddings.zarr"
    if is_store(path):
        identity = comparable(identity, open_store(path).teacher)
    return identity_id(identity)


def checked_store(store: Store, dataset: Dataset, splits: Sequence[str] = SPLITS) -> Store:
    """Return the store after checking that these splits are complete, sound and of this dataset's images."""
    for name in splits:
        split = store.split(name)
        require_same_images(split, dataset.splits[name])
        split.require_complete()
        split.verify()
    return store.relabelled({name: (each.identity, each.labels) for name, each in dataset.splits.items()})


def _differences(dataset: Dataset, store: Store, name: str) -> list[str]:
    """Return the fields in which the identity of a store's split differs from the dataset's."""
    split = dataset.splits.get(name)
    found = store.split(name).dataset
    return split.difference_from(found) if split else identity_difference({}, found)
