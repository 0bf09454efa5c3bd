"""Inputs of a backbone: bytes normalized on a GPU are what the preprocessing would have made of the image."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch._subclasses.fake_tensor import FakeTensorMode

from pipeline.embedding.inputs import ByteInputs, FloatInputs, inputs_for
from pipeline.images.preprocessing import IMAGENET, Preprocessing, Transform, UserPreprocessing
from pipeline.loading.staging import PinnedStaging
from pipeline.runtime.device import CPU
from tests.support.late_streams import LateCopies

CUDA = torch.device("cuda", 0)
OTHERS = Preprocessing(resize=0, crop=40, interpolation="bicubic", mean=(0.5, 0.4, 0.1), std=(0.3, 0.7, 0.9))


def images() -> list[Image.Image]:
    noise = np.random.default_rng(0).integers(0, 256, (3, 50, 36, 3), np.uint8)
    return [Image.fromarray(pixels) for pixels in noise]


@pytest.mark.parametrize("preprocessing", [IMAGENET, OTHERS])
def test_bytes_become_the_same_inputs_to_the_bit(
    preprocessing: Preprocessing, monkeypatch: pytest.MonkeyPatch
) -> None:
    LateCopies().install(monkeypatch)
    monkeypatch.setattr(PinnedStaging, "to_device", lambda self, tensors: tuple(tensors))
    floats, as_bytes = FloatInputs(preprocessing, "a teacher"), ByteInputs(preprocessing, CPU, 3)
    prepared = [as_bytes.prepare(image) for image in images()]
    assert {tensor.dtype for tensor in prepared} == {torch.uint8}
    expected = floats.batch([floats.prepare(image) for image in images()])
    assert torch.equal(as_bytes.batch(prepared), expected)


def test_a_gpu_normalizes_and_gets_the_layout_that_the_cpu_has(monkeypatch: pytest.MonkeyPatch) -> None:
    LateCopies().install(monkeypatch)
    with FakeTensorMode():
        inputs = inputs_for(IMAGENET, "a teacher", CUDA, 4)
        batch = inputs.batch([torch.empty(224, 224, 3, dtype=torch.uint8)] * 3)
        assert (batch.device, batch.dtype, batch.shape) == (CUDA, torch.float32, (3, 3, 224, 224))
        assert batch.is_contiguous()


@pytest.mark.parametrize(
    ("device", "preprocessing", "kind"),
    [
        (CPU, IMAGENET, FloatInputs),
        (CPU, UserPreprocessing(torch.ones_like), FloatInputs),
        (CUDA, UserPreprocessing(torch.ones_like), FloatInputs),
        (CUDA, IMAGENET, ByteInputs),
    ],
)
def test_only_a_gpu_gets_bytes_and_only_without_a_users_own_preprocessing(
    device: torch.device, preprocessing: Transform, kind: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    LateCopies().install(monkeypatch)
    with FakeTensorMode():
        assert type(inputs_for(preprocessing, "a teacher", device, 4)) is kind
