"""Published files with random values: features equal those of plain networks that hold the same tensors."""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import torchvision
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.errors import PipelineError
from pipeline.models.dino_vit import resample_positions
from pipeline.teachers.published import PUBLISHED
from pipeline.teachers.registry import load_teacher
from tests.support.published_files import (
    Held,
    State,
    bare,
    compress,
    compress_alexnet_feats,
    dino_full,
    dinov2,
    moco,
    moco_without_module,
    simclr_flat,
    swav,
    with_classifier,
)


def randomised(module: nn.Module, seed: int) -> State:
    """The module's state dict with values that tell every tensor from the next; scales keep features near 1."""
    draws = torch.Generator().manual_seed(seed)
    state = {}
    for name, tensor in module.state_dict().items():
        if name.endswith("num_batches_tracked"):
            state[name] = torch.tensor(7)
        elif tensor.ndim > 1 and "_embed" not in name:
            fan = tensor[0].numel()
            state[name] = torch.randn(tensor.shape, generator=draws) * (2 / fan) ** 0.5
        elif name.endswith(("bn3.weight", "gamma")):  # a residual branch adds little, as in trained networks
            state[name] = 0.1 + 0.2 * torch.rand(tensor.shape, generator=draws)
        else:
            state[name] = 0.5 + torch.rand(tensor.shape, generator=draws)
    return state


def noise(side: int, images: int = 1) -> Tensor:
    return torch.rand(images, 3, side, side, generator=torch.Generator().manual_seed(0))


def assert_same_features(name: str, held: Held, plain: nn.Module, path: Path, side: int = 64) -> None:
    torch.save(held, path)
    teacher = load_teacher(name, path)
    with torch.inference_mode():
        found, expected = teacher.module(noise(side)), plain.eval()(noise(side))
    assert expected.std() > 1e-3
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)  # float32, 50 layers deep
    assert teacher.dim == found.shape[1] == PUBLISHED[name].dim


def without_classifier(name: str) -> nn.Module:
    module = torchvision.models.get_model(name, weights=None)
    if name == "alexnet":
        module.classifier = nn.Sequential(*list(module.classifier)[:-1])
    elif name == "mobilenet_v2":
        module.classifier = nn.Identity()
    else:
        module.fc = nn.Identity()
    return module


@pytest.fixture(scope="module")
def resnet50() -> nn.Module:
    plain = without_classifier("resnet50")
    plain.load_state_dict(randomised(plain, 3))
    return plain


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("moco_v2_resnet50", moco),
        ("moco_v2_resnet50", moco_without_module),
        ("swav_resnet50", swav),
        ("simclr_resnet50x1", with_classifier),
        ("simclr_resnet50x1", simclr_flat),
        ("dino_resnet50", bare),
        ("dino_resnet50", dino_full),
        ("compress_resnet50", compress),
    ],
)
def test_a_published_resnet50_is_torchvisions(
    resnet50: nn.Module, tmp_path: Path, name: str, file: Callable[[State], Held]
) -> None:
    assert_same_features(name, file(dict(resnet50.state_dict())), resnet50, tmp_path / "weights.pth.tar")


@pytest.mark.parametrize(
    ("student", "file"),
    [
        ("resnet18", compress),
        ("mobilenet_v2", compress),
        ("alexnet", compress_alexnet_feats),
    ],
)
def test_a_student_of_compress_is_torchvisions(
    tmp_path: Path, student: str, file: Callable[[State], Held]
) -> None:
    plain = without_classifier(student)
    plain.load_state_dict(randomised(plain, 4))
    assert_same_features(f"compress_{student}", file(dict(plain.state_dict())), plain, tmp_path / "ckpt.pth")


@pytest.mark.parametrize("file", [bare, dino_full])
def test_dinos_transformer_is_timms(tmp_path: Path, file: Callable[[State], Held]) -> None:
    network = timm.create_model("vit_small_patch16_224", pretrained=False, num_classes=0)
    network.load_state_dict(randomised(network, 5))
    state = dict(network.state_dict())
    assert_same_features("dino_vits16", file(state), network, tmp_path / "w.pth", side=224)


def test_dinov2s_transformer_is_timms_with_the_authors_positions(tmp_path: Path) -> None:
    state = randomised(PUBLISHED["dinov2_vits14"].recipe().module, 6)
    network = timm.create_model("vit_small_patch14_dinov2", pretrained=False, num_classes=0, img_size=224)
    network.load_state_dict({**state, "pos_embed": resample_positions(state["pos_embed"], 16, 16)})
    assert_same_features("dinov2_vits14", dinov2(state), network, tmp_path / "w.pth", side=224)


def by_names(state: Mapping[str, Tensor], images: Tensor) -> Tensor:
    """ResNet-50's features from its tensors' names alone, of any width."""

    def norm(maps: Tensor, name: str) -> Tensor:
        kinds = ("running_mean", "running_var", "weight", "bias")
        return F.batch_norm(maps, *(state[f"{name}.{kind}"] for kind in kinds))

    def block(maps: Tensor, name: str, stride: int) -> Tensor:
        inner = F.relu(norm(F.conv2d(maps, state[f"{name}.conv1.weight"]), f"{name}.bn1"))
        inner = F.conv2d(inner, state[f"{name}.conv2.weight"], stride=stride, padding=1)
        inner = F.conv2d(F.relu(norm(inner, f"{name}.bn2")), state[f"{name}.conv3.weight"])
        shortcut = state.get(f"{name}.downsample.0.weight")
        if shortcut is not None:
            maps = norm(F.conv2d(maps, shortcut, stride=stride), f"{name}.downsample.1")
        return F.relu(norm(inner, f"{name}.bn3") + maps)

    maps = F.relu(norm(F.conv2d(images, state["conv1.weight"], stride=2, padding=3), "bn1"))
    maps = F.max_pool2d(maps, 3, stride=2, padding=1)
    for stage, blocks in enumerate((3, 4, 6, 3), start=1):
        for place in range(blocks):
            maps = block(maps, f"layer{stage}.{place}", 2 if place == 0 and stage > 1 else 1)
    return maps.mean((2, 3))


def test_a_wide_network_is_the_function_of_its_tensors(tmp_path: Path) -> None:
    state = randomised(PUBLISHED["simclr_resnet50x2"].recipe().module, 6)
    torch.save(simclr_flat(state), tmp_path / "wide.pth")
    teacher = load_teacher("simclr_resnet50x2", tmp_path / "wide.pth")
    with torch.inference_mode():
        expected = by_names(state, noise(64))
        torch.testing.assert_close(teacher.module(noise(64)), expected, rtol=1e-4, atol=1e-5)
    assert teacher.dim == 4096


def test_the_widest_simclr_sees_one_image() -> None:
    recipe = PUBLISHED["simclr_resnet50x4"].recipe()
    module = recipe.module.to_empty(device="cpu").eval()
    draws = torch.Generator().manual_seed(7)
    for name, tensor in module.state_dict().items():
        if tensor.ndim == 4:  # He's bound; norms that change nothing but for the last of a block
            tensor.uniform_(-1, 1, generator=draws).mul_((6 / tensor[0].numel()) ** 0.5)
        else:
            tensor.fill_(
                0.2 if name.endswith("bn3.weight") else not name.endswith(("bias", "mean", "tracked"))
            )
    assert module.conv1.out_channels == 256
    assert round(sum(tensor.numel() for tensor in module.parameters()) / 1e6) == 375
    pixels = np.random.default_rng(0).integers(0, 256, (300, 260, 3), dtype=np.uint8)
    shown = recipe.preprocessing.transform(Image.fromarray(pixels))
    assert shown.shape == (3, 224, 224)
    assert 0 <= shown.min() < 0.05 < 0.95 < shown.max() <= 1  # not standardised
    with torch.inference_mode():
        feature = module(shown[None])
    assert feature.shape == (1, 8192)
    assert feature.isfinite().all()
    assert feature.min() >= 0
    assert feature.std() > 0.01


def test_one_wrong_name_in_a_file_is_told_with_the_command_that_helps(
    resnet50: nn.Module, tmp_path: Path
) -> None:
    state = {("conv9" if key == "conv1.weight" else key): t for key, t in resnet50.state_dict().items()}
    torch.save(swav(state), tmp_path / "w.pth")
    with pytest.raises(
        PipelineError, match=r"missing: conv1\.weight; unexpected: conv9; .*teachers --check .*w\.pth"
    ):
        load_teacher("swav_resnet50", tmp_path / "w.pth")


@pytest.mark.parametrize(
    ("name", "mean", "std", "interpolation"),
    [
        ("moco_v2_resnet50", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), "bilinear"),
        ("swav_resnet50w4", (0.485, 0.456, 0.406), (0.228, 0.224, 0.225), "bilinear"),
        ("simclr_resnet50x4", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), "bilinear"),
        ("dino_vitb8", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), "bicubic"),
        ("dinov2_vitg14", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), "bicubic"),
        ("compress_alexnet", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), "bilinear"),
    ],
)
def test_inputs_are_those_that_the_teachers_were_trained_with(
    name: str, mean: tuple[float, ...], std: tuple[float, ...], interpolation: str
) -> None:
    assert PUBLISHED[name].recipe().preprocessing.identity() == {
        "resize": 256,
        "crop": 224,
        "interpolation": interpolation,
        "mean": list(mean),
        "std": list(std),
    }
