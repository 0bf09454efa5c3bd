"""The stores that an evaluation reads: a run's own, and those of its embeddings of other datasets and layers."""

import shutil
from pathlib import Path
from typing import Any

from cache.errors import IdentityMismatch
from cache.identity import identity_difference, identity_id
from cache.reader import Store, open_store
from pipeline.embedding.cache_teacher import embed, teacher_identity
from pipeline.images.beton_check import require_same_images
from pipeline.images.dataset import Dataset
from pipeline.results.run_record import read_config
from pipeline.settings.commands import EvalConfig
from pipeline.teachers.backbone_spec import BackboneSpec

SPLITS = ("train", "val")
EMBEDDING: dict[str, Any] = {"precision": "fp32", "batch_size": 128}  # part of a store's identity


def is_own(run: Path, dataset: Dataset) -> bool:
    """Whether the run was trained on this dataset's images."""
    made_of = read_config(run)["made_of"]["dataset"]
    return not identity_difference(made_of, dataset.splits["train"].identity)


def name_of(dataset: Dataset) -> str:
    """What a dataset is called: the name of its folder."""
    return dataset.path.resolve().name


def place_of(run: Path, dataset: Dataset, layer: str = "") -> Path:
    """Where a run keeps its embeddings of a dataset, and of a layer inside the student if one is named."""
    if is_own(run, dataset):
        return run / "layers" / f"{layer}.zarr" if layer else run / "embeddings.zarr"
    images = identity_id({name: dataset.splits[name].identity for name in SPLITS})
    inside = f"-{layer}" if layer else ""
    return run / "transfer" / f"{name_of(dataset)}-{images[:8]}{inside}.zarr"


def embedded(run: Path, dataset: Dataset, config: EvalConfig, layer: str = "") -> Store:
    """The store of a run's embeddings of a dataset, brought up to date: one of other weights is made anew.

    Raises IdentityMismatch when the store in that place is of other images; nothing is deleted then.
    """
    path = place_of(run, dataset, layer)
    path.parent.mkdir(exist_ok=True)
    backbone = BackboneSpec(kind="run", run=run, layer=layer)
    settings: dict[str, Any] = EMBEDDING | {
        "device": config.device,
        "workers": config.workers,
        "scheduler": config.scheduler,
        "progress": True,
    }
    try:
        embed(backbone, dataset, path, **settings)
    except IdentityMismatch:
        if any(_differences(dataset, open_store(path), name) for name in open_store(path).splits):
            raise
        shutil.rmtree(path)
        embed(backbone, dataset, path, **settings)
    return of_dataset(open_store(path), dataset)


def network_id(run: Path) -> str:
    """The id that the stores of a run's embeddings have, of whatever images."""
    return identity_id(teacher_identity(BackboneSpec(kind="run", run=run).load(), **EMBEDDING))


def of_dataset(store: Store, dataset: Dataset) -> Store:
    """The store, when both of its splits are of this dataset's images and sound; raises otherwise."""
    for name in SPLITS:
        split = store.split(name)
        require_same_images(split, dataset.splits[name])
        split.require_complete()
        split.verify()
    return store


def _differences(dataset: Dataset, store: Store, name: str) -> list[str]:
    """What a store's split was made of that this dataset's is not, field by field."""
    split = dataset.splits.get(name)
    return identity_difference(split.identity if split else {}, store.split(name).dataset)
