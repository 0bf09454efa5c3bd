"""Which store an evaluation reads, and that no store of other images is deleted."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from cache.errors import IdentityMismatch
from cache.reader import open_store
from pipeline.evaluate.embedded_runs import checked_store, embed_run, store_path
from pipeline.images.dataset import Dataset, open_dataset
from pipeline.settings.commands import EvalConfig
from tests.support.tiny_store import contents
from tests.support.training_runs import untrained_run


@pytest.fixture(scope="module")
def config(packed: Path, scheduler: str) -> EvalConfig:
    return EvalConfig(targets=(), dataset=packed, device="cpu", workers=1, scheduler=scheduler)


@pytest.fixture(scope="module")
def run(packed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return untrained_run(packed, tmp_path_factory.mktemp("stores") / "run", "build")


def with_other(dataset: Dataset, name: str) -> Dataset:
    """The dataset as if the images of one split had been others."""
    split = dataset.splits[name]
    other = replace(split, identity={**split.identity, "images": "0" * 64})
    return replace(dataset, splits={**dataset.splits, name: other})


def test_each_dataset_and_layer_has_its_own_place(run: Path, packed: Path) -> None:
    dataset = open_dataset(packed)
    assert store_path(run, dataset) == run / "embeddings.zarr"
    assert store_path(run, dataset, "layer3") == run / "layers" / "layer3.zarr"
    other, another = (
        store_path(run, with_other(with_other(dataset, "train"), name)) for name in ("train", "val")
    )
    assert other.parent == another.parent == run / "transfer"
    assert other != another
    assert other.name.startswith("dataset-")
    assert store_path(run, with_other(dataset, "train"), "fc6").name == other.name.replace(
        ".zarr", "-fc6.zarr"
    )


def test_a_dataset_without_training_images_is_not_the_training_dataset(run: Path, packed: Path) -> None:
    dataset = open_dataset(packed)
    only_val = replace(dataset, splits={"val": dataset.splits["val"]})
    assert store_path(run, only_val).parent == run / "transfer"


def test_a_store_of_other_weights_is_made_anew(
    run: Path, packed: Path, config: EvalConfig, tmp_path: Path
) -> None:
    dataset = open_dataset(packed)
    first = embed_run(run, dataset, config)
    before = contents(first.path)
    assert contents(embed_run(run, dataset, config).path) == before
    # a run that has gone on since
    other = untrained_run(packed, tmp_path / "run", "build", seed=1)
    shutil.copytree(first.path, other / "embeddings.zarr")
    again = embed_run(other, dataset, config)
    assert again.id != first.id
    assert contents(again.path) != before


def test_a_store_of_other_images_is_refused_and_kept(run: Path, packed: Path, config: EvalConfig) -> None:
    dataset = open_dataset(packed)
    before = contents(embed_run(run, dataset, config).path)
    with pytest.raises(IdentityMismatch, match=r"split 'val' .*images: expected"):
        embed_run(run, with_other(dataset, "val"), config)
    assert contents(run / "embeddings.zarr") == before


def test_a_store_of_another_dataset_is_refused(cached: Path, packed: Path) -> None:
    with pytest.raises(IdentityMismatch, match="made from another dataset: images: expected"):
        checked_store(open_store(cached), with_other(open_dataset(packed), "val"))


def test_only_the_splits_that_are_asked_for_are_embedded(
    run: Path, packed: Path, config: EvalConfig, tmp_path: Path
) -> None:
    own = tmp_path / "run"
    shutil.copytree(run, own, ignore=shutil.ignore_patterns("*.zarr"))
    dataset = open_dataset(packed)
    assert embed_run(own, dataset, config, splits=("val",)).splits == ("val",)
    assert set(embed_run(own, dataset, config).splits) == {"train", "val"}
