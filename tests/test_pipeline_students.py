import pytest
import torch
import torchvision

from pipeline.errors import PipelineError, WrongUse
from pipeline.students import STUDENTS, build_student


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
    with pytest.raises(
        WrongUse, match=rf"{name} needs images of at least {size + 1} px, but they are {size} px"
    ):
        build_student(name, image_size=size, seed=0)


def test_resnet18_is_torchvisions_before_its_classifier() -> None:
    student = build_student("resnet18", image_size=32, seed=0).eval()
    whole = torchvision.models.resnet18(weights=None).eval()
    whole.fc = torch.nn.Identity()
    whole.load_state_dict(student.network.state_dict())
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        assert torch.equal(student(images), whole(images))


def test_alexnet_is_the_papers_form() -> None:
    student = build_student("alexnet", image_size=64, seed=0)
    kinds = {type(layer) for layer in student.modules()}
    assert torch.nn.BatchNorm2d not in kinds
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
        ("tests.tiny_teacher:convolutional", 8),
    ],
)
def test_other_architectures_are_measured(name: str, dim: int) -> None:
    student = build_student(name, image_size=32, seed=0)
    assert student.dim == dim
    assert student(torch.rand(2, 3, 32, 32)).shape == (2, dim)
    twin = build_student(name, image_size=32, seed=0)
    assert all(torch.equal(a, b) for a, b in zip(student.parameters(), twin.parameters(), strict=True))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet81", "did you mean 'resnet18'"),
        ("zebra", "known are resnet18, resnet50"),
        ("timm/resnt18", "did you mean 'resnet18'"),
        ("torchvision/alexnt", "did you mean 'alexnet'"),
        ("torchvision/vit_b_16", r"torchvision/vit_b_16 does not take images of shape \(3, 32, 32\)"),
        ("tests.tiny_teacher:convolutionl", "did you mean 'convolutional'"),
        ("tests.no_such_module:build", "cannot be imported"),
        ("tests.tiny_teacher:with_mapping", "return the module alone"),
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
        ("unpooled", r"returns a tensor of shape \(1, 8, 30, 30\)"),
    ],
)
def test_a_failing_function_is_a_sentence(function: str, message: str) -> None:
    with pytest.raises(PipelineError, match=message):
        build_student(f"tests.tiny_teacher:{function}", image_size=32, seed=0)
