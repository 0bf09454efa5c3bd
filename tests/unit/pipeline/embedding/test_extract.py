"""Batches of an extraction, and the formats and precisions they run in."""

import itertools
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from cache.layout import Status
from pipeline.embedding.extract import (
    ExtractionSettings,
    extract,
    forward,
    move_to_device,
    to_chunk_rows,
)
from pipeline.errors import PipelineError
from pipeline.images.decode import UnreadableImage, decode
from pipeline.images.preprocessing import IMAGENET, UserPreprocessing
from pipeline.images.sources import open_sources
from pipeline.models.backbone import Backbone
from pipeline.runtime.device import CPU
from pipeline.teachers.registry import load_teacher
from tests.support.mixed_images import UNREADABLE

SETTINGS = ExtractionSettings(device=CPU, precision="fp32", batch_size=4, threads=1)


def backbone(name: str) -> Backbone:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 5)]
    return Backbone(
        name=name,
        module=nn.Sequential(*layers).eval(),
        dim=5,
        preprocessing=IMAGENET,
        architecture=name,
        weights_sha256="0" * 64,
        feature="planted",
    )


@pytest.mark.parametrize(("name", "last"), [("torchvision/planted", True), ("package.module:planted", False)])
def test_channels_go_last_except_in_a_users_own_model(name: str, last: bool) -> None:
    moved, plain = backbone(name), backbone(name)
    move_to_device(moved, CPU)
    assert moved.module[0].weight.is_contiguous(memory_format=torch.channels_last) == last
    images = torch.randn(4, 3, 9, 9, generator=torch.Generator().manual_seed(1))
    # sums of 27 and 32 products in float32, in another order
    np.testing.assert_allclose(forward(moved, images, SETTINGS), forward(plain, images, SETTINGS), atol=1e-5)


def settings(batch_size: int, precision: str = "fp32") -> ExtractionSettings:
    return ExtractionSettings(device=CPU, precision=precision, batch_size=batch_size, threads=1)


def test_batches_begin_at_the_first_row_and_pass_over_the_unreadable(images: Path) -> None:
    source, seen = open_sources(images)["train"], []
    backbone = load_teacher("tests.support.tiny_teacher:with_mapping")
    backbone.module.register_forward_pre_hook(lambda module, inputs: seen.append(len(inputs[0])))
    done: list[int] = []
    features = extract(backbone, source.read, range(64, 90), settings(10), done.append)
    assert seen == [9, 10, 6]
    assert done == [10, 20, 26]
    alone = extract(backbone, source.read, range(80, 81), settings(10))
    # another batch size may round otherwise
    np.testing.assert_allclose(features.feature[16], alone.feature[0], rtol=1e-5)
    assert (~features.readable).nonzero()[0].tolist() == [UNREADABLE - 64]


def test_a_batch_without_a_readable_image_needs_no_model() -> None:
    def read(row: int) -> bytes:
        raise UnreadableImage("gone")

    rows = to_chunk_rows(
        extract(load_teacher("tests.support.tiny_teacher:with_mapping"), read, range(3), settings(2))
    )
    assert rows.status.tolist() == [Status.UNREADABLE] * 3
    assert np.isnan(rows.embedding).all()


def test_bf16_is_near_fp32_and_not_the_same(images: Path) -> None:
    source = open_sources(images)["val"]
    backbone = load_teacher("tests.support.tiny_teacher:with_mapping")
    fp32, bf16 = (
        extract(backbone, source.read, range(5), settings(5, kind)).feature for kind in ("fp32", "bf16")
    )
    assert not np.array_equal(fp32, bf16)
    # bf16 keeps 8 bits
    np.testing.assert_allclose(fp32, bf16, rtol=0.03)


def test_features_are_those_of_plain_batches_to_the_bit(images: Path) -> None:
    source = open_sources(images)["train"]
    backbone = load_teacher("tests.support.tiny_teacher:with_mapping")
    found = extract(backbone, source.read, range(10, 60), settings(16)).feature
    inputs = [backbone.preprocessing.transform(decode(source.read(row))) for row in range(10, 60)]
    expected = [
        forward(backbone, torch.stack(inputs[start : start + 16]), settings(16)) for start in range(0, 50, 16)
    ]
    np.testing.assert_array_equal(found, np.concatenate(expected))


def test_a_batch_starts_before_the_features_of_the_one_before_are_fetched(
    images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []

    def start(backbone: Backbone, images: Tensor, settings: ExtractionSettings) -> Callable[[], np.ndarray]:
        calls.append(f"start {len(images)}")
        return lambda: calls.append(f"fetch {len(images)}") or np.zeros((len(images), 5), np.float32)

    monkeypatch.setattr("pipeline.embedding.extract.start_forward", start)
    source = open_sources(images)["train"]
    found = extract(
        backbone("mine:model"), source.read, range(9), settings(4), lambda done: calls.append(f"{done}")
    )
    assert calls == ["start 4", "start 4", "fetch 4", "4", "start 1", "fetch 4", "8", "fetch 1", "9"]
    assert found.readable.all()


class FirstRow(nn.Module):
    """Features (1, 5) whatever the batch: alone, an image looks right."""

    def forward(self, images: Tensor) -> Tensor:
        return images.mean((2, 3))[:1].repeat(1, 2)[:, :5]


class Widening(nn.Module):
    """Features whose width is the number of images."""

    def forward(self, images: Tensor) -> Tensor:
        return images.new_zeros(len(images), len(images))


@pytest.mark.parametrize(
    ("module", "dim", "found"),
    [
        (FirstRow(), 5, "a tensor of shape (1, 5)"),
        (Widening(), 1, "a tensor of shape (4, 4)"),
        (nn.Identity(), 5, "a tensor of shape (4, 3, 9, 9)"),
    ],
)
def test_features_of_another_shape_are_refused_at_every_batch(
    module: nn.Module, dim: int, found: str
) -> None:
    wrong = replace(backbone("mine:model"), module=module, dim=dim)
    message = f"mine:model returns {found} for a batch of 4 images; expected features of shape (4, {dim})"
    with pytest.raises(PipelineError, match=re.escape(message)):
        forward(wrong, torch.rand(4, 3, 9, 9), SETTINGS)


def test_a_backbone_or_preprocessing_that_fails_on_a_batch_is_a_sentence(images: Path) -> None:
    class Failing(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            raise KeyError("missing")

    failing = replace(backbone("mine:model"), module=Failing())
    with pytest.raises(
        PipelineError, match=r"mine:model failed on images of shape \(2, 3, 9, 9\): KeyError: 'missing'"
    ):
        forward(failing, torch.rand(2, 3, 9, 9), SETTINGS)
    widths = itertools.cycle((8, 9))
    preprocessing = UserPreprocessing(lambda image: torch.zeros(3, 8, next(widths)))
    ragged = replace(backbone("mine:model"), preprocessing=preprocessing)
    source = open_sources(images)["train"]
    with pytest.raises(
        PipelineError, match=r"returns images of different shapes, \(3, 8, 8\) and \(3, 8, 9\): resize"
    ):
        extract(ragged, source.read, range(8), SETTINGS)
