"""In ONNX Runtime, an exported graph computes PyTorch's features for any batch size."""

from collections.abc import Callable

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from pipeline.errors import PipelineError
from pipeline.export import onnx as onnx_export
from pipeline.export.onnx import onnx_model
from tests.support.exported_run import calibrated


def images_of(size: int, count: int) -> Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(count))


def session_of(content: bytes) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])


@pytest.mark.parametrize(("name", "size"), [("resnet18", 32), ("mobilenet_v2", 48), ("alexnet", 63)])
def test_the_runtime_agrees_with_torch_for_one_and_for_three_images(name: str, size: int) -> None:
    student = calibrated(name, size)
    session = session_of(onnx_model(student.network, {"image_size": str(size)}, half=False))
    for count in (1, 3):
        images = images_of(size, count)
        (found,) = session.run(["features"], {"images": images.numpy()})
        with torch.inference_mode():
            wanted = student(images).numpy()
        assert found.shape == (count, student.dim)
        # float32 sums in another order
        np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-4 * np.abs(wanted).max())


def test_the_file_has_its_metadata_and_nothing_of_the_machine() -> None:
    student = calibrated("tests.support.tiny_student:plain", 32)
    metadata = {"student": "plain", "image_size": "32", "mean": "[0.485, 0.456, 0.406]", "teacher": "a|b"}
    content = onnx_model(student.network, metadata, half=False)
    session = session_of(content)
    assert session.get_modelmeta().custom_metadata_map == metadata
    (images,), (features,) = session.get_inputs(), session.get_outputs()
    assert images.shape == ["batch", 3, 32, 32]
    assert features.shape == ["batch", 32]
    assert b".py" not in content
    assert content == onnx_model(student.network, metadata, half=False)


def test_half_is_half_as_large_and_takes_and_gives_float32() -> None:
    network = calibrated("resnet18", 32).network
    images = images_of(32, 5)
    with torch.inference_mode():
        wanted = network(images)
    whole = sum(tensor.nbytes for tensor in network.state_dict().values())
    half = onnx_model(network, {"image_size": "32"}, half=True)
    assert len(half) < 0.51 * whole
    (found,) = session_of(half).run(None, {"images": images.numpy()})
    assert found.dtype == np.float32
    # 11 bits of each weight and product: an angle of about 0.01
    assert torch.cosine_similarity(torch.from_numpy(found), wanted).min() > 0.999


class Random(nn.Module):
    """Not a function of its images, so that no runtime can agree with torch about it."""

    def forward(self, images: Tensor) -> Tensor:
        return images.mean((2, 3)) + torch.rand_like(images).mean((2, 3))


class OfTwo(nn.Module):
    """Counts its images in Python, which ties the graph to one number of them."""

    def forward(self, images: Tensor) -> Tensor:
        return images.mean((2, 3)) + torch.ones(len(images), 3)


class Branching(nn.Module):
    """Depends on a pixel's value in Python, which no graph can hold."""

    def forward(self, images: Tensor) -> Tensor:
        return images.mean((2, 3)) if images[0, 0, 0, 0].item() > 0 else images.amax((2, 3))


@pytest.mark.parametrize(
    ("network", "reason"),
    [
        (Random, "features differ from PyTorch's by .*: export safetensors"),
        (OfTwo, "Runtime cannot run the graph .*Got: 1 Expected: 2"),
        (Branching, "cannot export this student as an ONNX graph"),
    ],
)
def test_a_graph_that_is_not_the_network_is_not_given_out(
    network: Callable[[], nn.Module], reason: str
) -> None:
    with pytest.raises(PipelineError, match=reason):
        onnx_model(network().eval(), {"image_size": "16"}, half=False)


def test_a_network_that_no_file_can_hold_is_refused_before_any_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_export, "LARGEST", 100)
    with pytest.raises(PipelineError, match=r"at most 2 GB"):
        onnx_model(
            calibrated("tests.support.tiny_student:plain", 16).network, {"image_size": "16"}, half=False
        )
