"""Published checkpoints: each layout loads into plain torchvision's network, and one wrong key is named."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torchvision
from torch import Tensor

from pipeline.errors import PipelineError
from pipeline.published import PUBLISHED, WideResNet50
from pipeline.teachers import load_teacher

State = dict[str, Tensor]
HEAD = {"weight": torch.zeros(2, 2), "bias": torch.zeros(2)}


def moco(state: State) -> dict[str, object]:
    own = {f"module.encoder_q.{name}": tensor for name, tensor in state.items()}
    keys = {f"module.encoder_k.{name}": tensor for name, tensor in state.items()}
    heads = {f"module.encoder_q.fc.{layer}.{kind}": t for layer in (0, 2) for kind, t in HEAD.items()}
    queue = {"module.queue": torch.zeros(3, 3), "module.queue_ptr": torch.zeros(1)}
    return {"epoch": 800, "arch": "resnet50", "state_dict": {**own, **keys, **heads, **queue}}


def moco_without_module(state: State) -> dict[str, object]:
    return {"state_dict": {f"encoder_q.{name}": tensor for name, tensor in state.items()}}


def swav(state: State) -> State:
    heads = {f"projection_head.{layer}.{kind}": t for layer in (0, 1, 3) for kind, t in HEAD.items()}
    every = {**state, **heads, "prototypes.weight": torch.zeros(3, 3)}
    return {f"module.{name}": tensor for name, tensor in every.items()}


@pytest.fixture(scope="module")
def state() -> State:
    torch.manual_seed(3)
    plain = torchvision.models.resnet50()
    return {name: tensor for name, tensor in plain.state_dict().items() if not name.startswith("fc.")}


LAYOUTS = [("moco_v2_resnet50", moco), ("moco_v2_resnet50", moco_without_module), ("swav_resnet50", swav)]


@pytest.mark.parametrize(("name", "layout"), LAYOUTS)
def test_a_published_layout_loads_as_the_plain_network(
    state: State, tmp_path: Path, name: str, layout: Callable[[State], dict[str, object]]
) -> None:
    torch.save(layout(state), tmp_path / "weights.pth")
    teacher = load_teacher(name, tmp_path / "weights.pth")
    plain = torchvision.models.resnet50()
    plain.fc = torch.nn.Identity()
    plain.load_state_dict(state)
    images = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert torch.equal(teacher.module(images), plain.eval()(images))
    assert teacher.dim == 2048


@pytest.mark.parametrize(("name", "layout"), [("moco_v2_resnet50", moco), ("swav_resnet50", swav)])
def test_a_missing_and_a_foreign_key_are_named(
    state: State, tmp_path: Path, name: str, layout: Callable[[State], dict[str, object]]
) -> None:
    other = {("layer1.0.conv9.weight" if key == "conv1.weight" else key): t for key, t in state.items()}
    torch.save(layout(other), tmp_path / "weights.pth")
    with pytest.raises(PipelineError, match=r"missing: conv1\.weight; unexpected: layer1\.0\.conv9\.weight"):
        load_teacher(name, tmp_path / "weights.pth")


def test_every_layer_of_a_wide_network_is_wider_and_named_as_torchvisions() -> None:
    with torch.device("meta"):
        plain, wide = WideResNet50(1), WideResNet50(4)
    shapes = {name: tensor.shape for name, tensor in plain.state_dict().items()}
    assert wide.state_dict().keys() == shapes.keys()
    assert wide.state_dict()["conv1.weight"].shape == (256, 3, 7, 7)
    assert wide.state_dict()["layer4.2.bn3.weight"].shape == (8192,)
    backbone = sum(tensor.numel() for tensor in wide.parameters())
    # the published network has 375 million parameters
    assert round(backbone / 1e6) == 375


@pytest.mark.parametrize(
    ("name", "mean", "std"),
    [
        ("moco_v2_resnet50", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ("swav_resnet50", (0.485, 0.456, 0.406), (0.228, 0.224, 0.225)),
        ("simclr_resnet50x4", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
    ],
)
def test_inputs_are_those_that_the_teachers_were_trained_with(
    monkeypatch: pytest.MonkeyPatch, name: str, mean: tuple[float, ...], std: tuple[float, ...]
) -> None:
    monkeypatch.setattr("pipeline.published.WideResNet50", lambda width: torch.nn.Identity())
    wanted = PUBLISHED[name].recipe().preprocessing.identity()
    assert (wanted["resize"], wanted["crop"]) == (256, 224)
    assert (tuple(wanted["mean"]), tuple(wanted["std"])) == (mean, std)
