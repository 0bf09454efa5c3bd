"""Embeddings that are nearly the same for all images are warned of, in stage one and by `cache verify`."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import cli
from cache.layout import ChunkKey
from cache.reader import open_store
from cache.writer import ChunkRows, create_split, create_store, normalize, write_chunk
from pipeline.embedding.alike_rows import warn_of_alike_features, warn_of_alike_rows
from pipeline.images.dataset import Dataset
from pipeline.images.preprocessing import Preprocessing
from pipeline.models.backbone import Recipe, different_images, freeze, mean_cosine
from pipeline.teachers.registry import load_teacher
from tests.support.tiny_teacher import convolutional

SIZES = {"resize": 16, "crop": 16}


def store_of(features: np.ndarray, dataset: Dataset, path: Path) -> Path:
    split = dataset.splits["train"]
    rows, dim = split.rows, features.shape[1]
    create_store(path, {"architecture": "planted", "dim": dim})
    create_split(
        path,
        "train",
        dataset=split.identity,
        rows=rows,
        views=1,
        dim=dim,
        labels=split.labels,
        thumbs=split.thumbs,
    )
    embedding, norm, status = normalize(np.resize(features, (rows, dim)).astype(np.float32))
    crop = np.zeros((rows, 5), np.float32)
    write_chunk(
        path, "train", ChunkKey(0, 0), ChunkRows(embedding=embedding, norm=norm, crop=crop, status=status)
    )
    return path


def test_the_mean_cosine_is_that_of_all_pairs() -> None:
    rows = np.random.default_rng(0).normal(size=(20, 5)) + 1
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    pairs = [unit[i] @ unit[j] for i in range(20) for j in range(20) if i != j]
    assert mean_cosine(np.vstack([rows, np.zeros(5), np.full(5, np.nan)])) == pytest.approx(np.mean(pairs))
    assert mean_cosine(rows[:1]) == 0


@pytest.mark.parametrize(("spread", "warned"), [(0.001, True), (0.5, False)])
def test_rows_that_are_alike_are_warned_of(
    spread: float, warned: bool, dataset: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    features = 1 + spread * np.random.default_rng(0).normal(size=(300, 8))
    path = store_of(features, dataset, tmp_path / "c.zarr")
    warn_of_alike_rows(open_store(path).split("train"))
    assert ("the rows of train are nearly alike (mean cosine 1.0000" in capsys.readouterr().err) == warned
    assert cli.run_cli(["cache", "verify", str(path)]) == 0
    assert ("the rows of train are nearly alike" in capsys.readouterr().err) == warned


class From255(nn.Module):
    """What a normalization by mean and std of pixels from 0 to 255 leaves of images from 0 to 1."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        return self.network((images - 123.7) / 58.4)


@pytest.mark.parametrize("wrong", [True, False])
def test_known_images_that_come_out_alike_are_warned_of(
    wrong: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = Preprocessing(**SIZES, mean=(0.0,) * 3, std=(1.0,) * 3)
    network = From255(convolutional()) if wrong else convolutional()
    recipe = Recipe(module=network, architecture="planted", feature="planted", preprocessing=plain)
    warn_of_alike_features(freeze(recipe, "mine:net"))
    told = "mine:net embeds a black, a white and a noisy image nearly alike (mean cosine "
    assert (told in capsys.readouterr().err) == wrong


@pytest.mark.parametrize("name", ["demo", "pixels"])
def test_the_teachers_at_hand_are_not_warned_of(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    backbone = load_teacher(name)
    warn_of_alike_features(backbone)
    assert capsys.readouterr().err == ""
    images = torch.stack([backbone.preprocessing.transform(image) for image in different_images()])
    with torch.inference_mode():
        assert mean_cosine(backbone.module(images).numpy()) == pytest.approx(backbone.likeness)
