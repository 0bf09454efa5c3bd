from pathlib import Path

import pytest
import torch
import torchvision
from torch import Tensor, nn

from cache.layout import SplitShape
from pipeline.errors import PipelineError, WrongUse
from pipeline.models.checkpoints import weights_sha256
from pipeline.models.students import STUDENTS, Student, build_student, require_trainable
from pipeline.objectives.compress import Compress2q
from pipeline.objectives.registry import build_objective
from pipeline.settings.training import DistillConfig
from pipeline.training.distill import distill
from tests.support.tiny_store import written
from tests.support.training_runs import settings


@pytest.mark.parametrize("name", STUDENTS)
def test_the_feature_has_the_registered_width_at_the_smallest_input(name: str) -> None:
    size = STUDENTS[name].smallest
    student = build_student(name, image_size=size, seed=0).eval()
    with torch.inference_mode():
        assert student(torch.rand(2, 3, size, size)).shape == (2, STUDENTS[name].dim)
    assert student.dim == STUDENTS[name].dim


@pytest.mark.parametrize("name", STUDENTS)
def test_a_smaller_image_is_refused_in_words(name: str) -> None:
    size = STUDENTS[name].smallest - 1
    with pytest.raises(WrongUse, match=rf"{name} needs images of at least {size + 1} px, found {size} px"):
        build_student(name, image_size=size, seed=0)


@pytest.mark.parametrize(
    ("name", "classifier"),
    [("resnet18", "fc"), ("resnet50", "fc"), ("mobilenet_v2", "classifier.1"), ("alexnet", "classifier.6")],
)
def test_a_student_is_torchvisions_network_before_its_classifier(name: str, classifier: str) -> None:
    student = build_student(name, image_size=70, seed=0).eval()
    whole = torchvision.models.get_model(name, weights=None).eval()
    whole.set_submodule(classifier, torch.nn.Identity())
    whole.load_state_dict(student.network.state_dict())
    images = torch.rand(2, 3, 70, 70, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        assert torch.equal(student(images), whole(images))


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2"])
@pytest.mark.parametrize("size", [17, 45])
def test_a_student_takes_odd_sizes_also_in_training(name: str, size: int) -> None:
    student = build_student(name, image_size=size, seed=0)
    assert student(torch.rand(2, 3, size, size)).shape == (2, STUDENTS[name].dim)


def test_2q_compares_resnet50_with_simclrs_4x_in_its_width(tmp_path: Path) -> None:
    split = written(tmp_path / "cache.zarr", SplitShape(rows=60, views=1, dim=8192))
    config = DistillConfig(
        dataset=Path(), cache=Path(), run=Path(), objective="2q", head_dim=8192, anchors="10", tau=0.04
    )
    objective = build_objective(config, STUDENTS["resnet50"].dim, split, split.eligible())
    head = objective.head()
    assert isinstance(objective, Compress2q)
    assert isinstance(head, torch.nn.Linear)
    assert (head.in_features, head.out_features) == (2048, 8192)
    assert objective.bank.keys.shape == objective.bank.teacher.shape == (10, 8192)


def test_alexnet_is_the_papers_form() -> None:
    student = build_student("alexnet", image_size=64, seed=0)
    kinds = {type(layer) for layer in student.modules()}
    assert torch.nn.BatchNorm2d not in kinds
    widths = [layer.out_channels for layer in student.modules() if isinstance(layer, torch.nn.Conv2d)]
    assert widths == [64, 192, 384, 256, 256]
    dropouts = [layer.p for layer in student.modules() if isinstance(layer, torch.nn.Dropout)]
    assert set(dropouts) == {0.0}
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        feature = student(images)
        assert torch.equal(feature, student(images))
    assert feature.min() == 0
    assert feature.max() > 0


def test_initialisation_follows_the_seed_and_leaves_the_callers_random_state() -> None:
    torch.manual_seed(7)
    before = torch.get_rng_state()
    first, again, other = (build_student("resnet18", image_size=32, seed=seed) for seed in (3, 3, 4))
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    assert not torch.equal(first.network.conv1.weight, other.network.conv1.weight)
    assert first.training


@pytest.mark.parametrize(
    ("name", "dim"),
    [
        ("torchvision/mobilenet_v3_small", 1024),
        ("timm/resnet18", 512),
        ("timm/vit_tiny_patch16_224", 192),
        ("tests.support.tiny_teacher:convolutional", 8),
    ],
)
def test_other_architectures_are_measured(name: str, dim: int) -> None:
    student = build_student(name, image_size=32, seed=0)
    assert student.dim == dim
    assert student(torch.rand(2, 3, 32, 32)).shape == (2, dim)
    twin = build_student(name, image_size=32, seed=0)
    assert all(torch.equal(a, b) for a, b in zip(student.parameters(), twin.parameters(), strict=True))


@pytest.mark.parametrize(
    ("name", "size", "dim"),
    [
        ("timm/resnet10t", 33, 512),
        ("timm/mobilenetv3_small_050", 45, 1024),
        ("timm/convnext_atto", 37, 320),
        ("timm/efficientnet_lite0", 29, 1280),
        ("timm/vit_tiny_patch16_224", 50, 192),
    ],
)
def test_timms_networks_take_odd_sizes(name: str, size: int, dim: int) -> None:
    student = build_student(name, image_size=size, seed=0)
    assert student.dim == dim
    assert student(torch.rand(2, 3, size, size)).shape == (2, dim)


@pytest.mark.parametrize(
    ("name", "size"),
    [("timm/convnext_atto", 16), ("timm/inception_v3", 48), ("timm/vit_tiny_patch16_224", 8)],
)
def test_a_size_that_an_architecture_does_not_take_is_a_sentence(name: str, size: int) -> None:
    with pytest.raises(WrongUse, match=rf"{name} does not accept images of shape \(3, {size}, {size}\)"):
        build_student(name, image_size=size, seed=0)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet81", "did you mean 'resnet18'"),
        ("zebra", "known are resnet18, resnet50"),
        ("timm/resnt18", "did you mean 'resnet18'"),
        ("torchvision/alexnt", "did you mean 'alexnet'"),
        ("torchvision/vit_b_16", r"torchvision/vit_b_16 does not accept images of shape \(3, 32, 32\)"),
        ("tests.support.tiny_teacher:convolutionl", "did you mean 'convolutional'"),
        ("tests.no_such_module:build", "cannot be imported"),
        ("tests.support.tiny_teacher:with_mapping", "return only the module"),
    ],
)
def test_a_wrong_name_is_a_sentence(name: str, message: str) -> None:
    with pytest.raises(WrongUse, match=message):
        build_student(name, image_size=32, seed=0)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("broken", "failed with RuntimeError: the moon is full"),
        ("nothing", "returned a str; expected an nn.Module"),
        ("unpooled", r"returns a tensor of shape \(2, 8, 30, 30\) for 2 images"),
    ],
)
def test_a_failing_function_is_a_sentence(function: str, message: str) -> None:
    with pytest.raises(PipelineError, match=message):
        build_student(f"tests.support.tiny_teacher:{function}", image_size=32, seed=0)


class FirstRow(nn.Module):
    """Features of the first image alone: for one image they look right."""

    def forward(self, images: Tensor) -> Tensor:
        return images.mean((2, 3))[:1]


def test_a_users_network_is_checked_at_every_batch() -> None:
    student = Student(FirstRow(), name="mine:student", image_size=8, dim=3, feature="planted")
    assert student(torch.rand(1, 3, 8, 8)).shape == (1, 3)
    message = r"mine:student returns a tensor of shape \(1, 3\) for a batch of 4 images; expected .* \(4, 3\)"
    with pytest.raises(PipelineError, match=message):
        student(torch.rand(4, 3, 8, 8))


class Normalized(nn.Module):
    """Features after batch normalization, which cannot train on one image."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(3)

    def forward(self, images: Tensor) -> Tensor:
        return self.norm(images.mean((2, 3)))


class Moody(nn.Module):
    """In training mode, return another width."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, images: Tensor) -> Tensor:
        feature = images.mean((2, 3)) * self.scale
        return feature[:, :2] if self.training else feature


class Detached(Normalized):
    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images).detach()


class Counted(Normalized):
    """Return integers."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images).long()


class FailingOnMany(Normalized):
    def forward(self, images: Tensor) -> Tensor:
        if len(images) > 3:
            raise KeyError("boom")
        return super().forward(images)


def planted(network: nn.Module) -> Student:
    return Student(network, name="mine:student", image_size=8, dim=3, feature="planted")


def test_a_users_student_that_fails_later_is_a_sentence() -> None:
    student = Student(
        FailingOnMany(), name="mine:student", image_size=8, dim=3, feature="planted", code="3.11:0"
    )
    require_trainable(student, 4)
    with pytest.raises(
        PipelineError, match=r"mine:student failed on images of shape \(4, 3, 8, 8\): KeyError: 'boom'"
    ):
        student(torch.zeros(4, 3, 8, 8))


def test_a_student_is_tried_in_training_mode_and_stays_as_it_was() -> None:
    student = planted(Normalized())
    before, random_state = weights_sha256(student.network), torch.get_rng_state()
    for images in (2, 256):
        require_trainable(student, images)
    with pytest.raises(
        WrongUse, match=r"cannot be trained on 1 image per step and rank: .*; give a larger --batch-size"
    ):
        require_trainable(student, 1)
    assert weights_sha256(student.network) == before
    assert torch.equal(torch.get_rng_state(), random_state)
    assert student.training
    student = build_student("resnet18", image_size=32, seed=0)
    with pytest.raises(WrongUse, match="resnet18 cannot be trained on 1 image"):  # its last map is one pixel
        require_trainable(student, 1)
    require_trainable(build_student("resnet18", image_size=64, seed=0), 1)


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (Normalized().requires_grad_(False), "mine:student has no parameter to train: all are frozen"),
        (nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()), "mine:student has no parameter to train"),
        (
            Moody(),
            r"in training mode mine:student returns a tensor of shape \(2, 2\) .* expected .* \(2, 3\)",
        ),
        (Detached(), "mine:student passes on no gradient: its forward must not use no_grad or detach"),
        (
            Counted(),
            r"mine:student returns a tensor of shape \(2, 3\) and torch.int64 for a batch of 2 images",
        ),
    ],
)
def test_a_student_that_cannot_train_is_refused(network: nn.Module, message: str) -> None:
    with pytest.raises(WrongUse, match=message):
        require_trainable(planted(network), 4)


@pytest.mark.parametrize(("name", "size"), [("googlenet", 32), ("inception_v3", 75)])
@pytest.mark.filterwarnings("error")
def test_auxiliary_outputs_are_left_out(name: str, size: int) -> None:
    student = build_student(f"torchvision/{name}", image_size=size, seed=0)
    require_trainable(student, 2)
    assert not any(key.lower().startswith("aux") for key in student.network.state_dict())


def test_a_batch_of_one_leaves_no_run_folder(packed: Path, cached: Path, tmp_path: Path) -> None:
    with pytest.raises(WrongUse, match="cannot be trained on 1 image"):
        distill(settings(packed, cached, tmp_path / "run", student="resnet18", batch_size=1))
    assert not (tmp_path / "run" / "config.json").exists()
