import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import torchvision
from PIL import Image
from torch import Tensor, nn
from torchvision import transforms

from cache.identity import identity_difference
from pipeline.errors import PipelineError, WrongUse
from pipeline.export.export import to_float16
from pipeline.images.preprocessing import IMAGENET, Preprocessing, UserPreprocessing, from_mapping
from pipeline.models.backbone import comparable
from pipeline.models.checkpoints import load_safetensors, save_safetensors, weights_sha256
from pipeline.models.student_file import load_run_student, save_student, student_recipe
from pipeline.models.students import build_student
from pipeline.runtime.code_identity import PYTHON, code_sha256
from pipeline.teachers.registry import TEACHERS, load_teacher
from tests.support import tiny_teacher
from tests.support.tiny_teacher import brightness, convolutional

PLAIN = Preprocessing(resize=8, crop=8, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))


def noise(width: int, height: int) -> Image.Image:
    pixels = np.random.default_rng(width * height).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


@pytest.mark.parametrize(("width", "height"), [(30, 20), (20, 30), (21, 21), (8, 9), (5, 11)])
@pytest.mark.parametrize("resize", [8, 12])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_the_transform_is_resize_centre_crop_and_normalisation(
    width: int, height: int, resize: int, interpolation: str
) -> None:
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.25, 2.0)
    wanted = Preprocessing(resize=resize, crop=8, interpolation=interpolation, mean=mean, std=std)
    image = noise(width, height)
    scale = resize / min(width, height)
    size = (int(width * scale + 1e-9), int(height * scale + 1e-9))
    resized = np.asarray(image.resize(size, Image.Resampling[interpolation.upper()]), np.float64) / 255
    top, left = round((size[1] - 8) / 2), round((size[0] - 8) / 2)
    expected = (resized[top : top + 8, left : left + 8] - mean) / std
    found = wanted.transform(image)
    assert found.dtype == torch.float32
    assert found.shape == (3, 8, 8)
    # float32 arithmetic on values of at most 2 in size
    np.testing.assert_allclose(found.numpy().transpose(1, 2, 0), expected, atol=1e-6)
    box = (top / size[1], left / size[0], 8 / size[1], 8 / size[0])
    assert wanted.box(width, height) == pytest.approx(box, abs=1e-12)


def test_without_resize_the_centre_is_shown_as_it_is() -> None:
    wanted = from_mapping({"resize": None, "crop": 4, "mean": [0, 0, 0], "std": [1, 1, 1]}, "x")
    image = noise(10, 6)
    expected = np.asarray(image)[1:5, 3:7].transpose(2, 0, 1) / 255
    np.testing.assert_allclose(wanted.transform(image).numpy(), expected, atol=1e-7)
    assert wanted.box(10, 6) == (1 / 6, 0.3, 4 / 6, 0.4)


@pytest.mark.parametrize("length", [3, 4, 5, 6])
def test_an_image_smaller_than_the_crop_has_a_box_around_it(length: int) -> None:
    wanted = Preprocessing(resize=0, crop=7, mean=(0.0,) * 3, std=(1.0,) * 3)
    shown = wanted.transform(Image.new("RGB", (length, length), "white"))[0]
    first = int(shown.any(1).nonzero()[0])
    top, left, height, width = wanted.box(length, length)
    assert (round(top * length), round(left * length)) == (-first, -first)
    assert (height, width) == (7 / length, 7 / length)


@pytest.mark.parametrize(
    ("preprocessing", "size", "resize"),
    [(IMAGENET, 224, 256), (IMAGENET, 160, 183), (IMAGENET, 96, 96), (IMAGENET, 127, 127), (PLAIN, 128, 128)],
)
def test_another_image_size_keeps_the_share_that_is_seen(
    preprocessing: Preprocessing, size: int, resize: int
) -> None:
    other = preprocessing.at(size)
    assert (other.resize, other.crop) == (resize, size)
    assert (other.mean, other.std) == (preprocessing.mean, preprocessing.std)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"resize": 7}, "crop of 8 px does not fit into images resized to 7 px"),
        ({"interpolation": "nearest"}, "expected 'bilinear' or 'bicubic'"),
        ({"std": (1, 0, 1)}, "std above 0"),
        ({"mean": (1, 0)}, "three numbers each"),
        ({"croop": 8}, "no field 'croop'; did you mean 'crop'"),
    ],
)
def test_a_preprocessing_that_cannot_be_is_a_sentence(change: dict, message: str) -> None:
    fields = {"resize": 8, "crop": 8, "mean": (0, 0, 0), "std": (1, 1, 1), **change}
    with pytest.raises(WrongUse, match=message):
        from_mapping(fields, "x")


def test_pixels_are_pixels() -> None:
    pixels = load_teacher("pixels", image_size=8)
    image = noise(8, 8)
    with torch.inference_mode():
        feature = pixels.module(pixels.preprocessing.transform(image)[None])
    assert pixels.dim == 192
    np.testing.assert_allclose(
        feature[0].numpy(), np.asarray(image).transpose(2, 0, 1).ravel() / 255, atol=1e-7
    )
    assert load_teacher("pixels").dim == 32 * 32 * 3


def test_an_exported_student_is_a_teacher_again(tmp_path: Path) -> None:
    student = build_student("resnet18", image_size=32, seed=1).eval()
    save_student(tmp_path, student, {})
    tensors, metadata = load_safetensors(tmp_path / "student.safetensors")
    save_safetensors(tmp_path / "half.safetensors", to_float16(tensors), metadata)
    recipe = student_recipe(tmp_path / "half.safetensors")
    for name, tensor in recipe.module.state_dict().items():
        original = student.network.state_dict()[name]
        assert torch.equal(
            tensor, original.half().to(original.dtype) if original.is_floating_point() else original
        )
    assert (recipe.architecture, recipe.feature) == ("resnet18", "global average pool")
    assert recipe.preprocessing.identity()["crop"] == 32


def test_a_file_without_a_students_description_is_a_sentence(tmp_path: Path) -> None:
    save_safetensors(tmp_path / "demo.safetensors", {}, {"student": "resnet18", "image_size": "thirty"})
    with pytest.raises(PipelineError, match=r"demo\.safetensors lacks the metadata of a student"):
        student_recipe(tmp_path / "demo.safetensors")


@pytest.fixture(scope="module")
def resnet_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(2)
    path = tmp_path_factory.mktemp("weights") / "resnet18.pth"
    torch.save(torchvision.models.resnet18(weights=None).state_dict(), path)
    return path


def test_torchvision_weights_load_and_their_head_is_left_over(resnet_file: Path) -> None:
    teacher = load_teacher("torchvision/resnet18", resnet_file, image_size=64)
    whole = torchvision.models.resnet18(weights=None).eval()
    whole.load_state_dict(torch.load(resnet_file, weights_only=True))
    whole.fc = nn.Identity()
    images = torch.rand(2, 3, 64, 64)
    with torch.inference_mode():
        assert torch.equal(teacher.module(images), whole(images))
    assert teacher.dim == 512
    assert teacher.weights_sha256 == weights_sha256(whole)
    assert not teacher.module.training
    assert not any(parameter.requires_grad for parameter in teacher.module.parameters())
    assert teacher.preprocessing.identity() == IMAGENET.at(64).identity()


def test_timm_weights_come_with_timms_preprocessing(tmp_path: Path) -> None:
    torch.manual_seed(3)
    whole = timm.create_model("resnet10t", pretrained=False).eval()
    torch.save({"state_dict": whole.state_dict()}, tmp_path / "w.pt")
    teacher = load_teacher("timm/resnet10t", tmp_path / "w.pt")
    images = torch.rand(1, 3, 176, 176)
    with torch.inference_mode():
        expected = whole.forward_head(whole.forward_features(images), pre_logits=True)
        assert torch.equal(teacher.module(images), expected)
    assert teacher.dim == 512
    assert teacher.preprocessing.identity() == {
        "resize": 201,  # 176 / 0.875
        "crop": 176,
        "interpolation": "bicubic",
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
    }


def test_the_files_published_name_decides_the_preprocessing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checked: list[Path] = []
    monkeypatch.setattr(
        "pipeline.teachers.registry.check_sha256", checked.append
    )  # these files hold other values
    state = torchvision.models.resnet50(weights=None).state_dict()
    second = torchvision.models.ResNet50_Weights.IMAGENET1K_V2.url.rpartition("/")[2]
    for name, resize in (("own.pth", 256), (second, 232)):
        torch.save(state, tmp_path / name)
        assert (
            load_teacher("torchvision/resnet50", tmp_path / name).preprocessing.identity()["resize"] == resize
        )
    assert checked == [tmp_path / second]


def test_a_file_that_is_not_what_its_published_name_says_is_refused(
    tmp_path: Path, resnet_file: Path
) -> None:
    name = torchvision.models.ResNet18_Weights.IMAGENET1K_V1.url.rpartition("/")[2]
    (tmp_path / name).symlink_to(resnet_file)
    with pytest.raises(PipelineError, match="is not the published file"):
        load_teacher("torchvision/resnet18", tmp_path / name)


@pytest.mark.parametrize(
    ("prefix", "key"),
    [
        ("_orig_mod.", "state_dict"),
        ("module.", "model"),
        ("module._orig_mod.", "model_state_dict"),
        ("model._orig_mod.module.", "checkpoint.net"),
        ("net.backbone.", ""),
    ],
)
def test_weights_load_as_training_wrapped_them(
    prefix: str, key: str, tmp_path: Path, resnet_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = torch.load(resnet_file, weights_only=True)
    held = {prefix + name: tensor for name, tensor in state.items()}
    for part in reversed(key.split(".") if key else []):
        held = {part: held, "best": np.float64(0.5), "optimizer": {"state": {"w": torch.zeros(2)}}}
    torch.save(held, tmp_path / "w.pt")
    found = load_teacher("torchvision/resnet18", tmp_path / "w.pt", image_size=32)
    assert (
        found.weights_sha256
        == load_teacher("torchvision/resnet18", resnet_file, image_size=32).weights_sha256
    )
    note = f"note: {tmp_path / 'w.pt'}: removed the prefix '{prefix}' from its names\n"
    assert capsys.readouterr().err == note


def test_a_part_that_would_fit_is_named(tmp_path: Path, resnet_file: Path) -> None:
    state = torch.load(resnet_file, weights_only=True)
    both = {f"model.{which}.{name}": tensor for which in ("online", "ema") for name, tensor in state.items()}
    torch.save({"state_dict": {**both, "model.head.weight": torch.zeros(2)}}, tmp_path / "w.pt")
    with pytest.raises(
        PipelineError,
        match=r"the tensors under 'model\.online\.' or 'model\.ema\.' alone would fit: write a file",
    ):
        load_teacher("torchvision/resnet18", tmp_path / "w.pt", image_size=32)


@pytest.mark.parametrize(("name", "size"), [("vit_tiny_patch16_224", 96), ("test_vit", 128)])
def test_a_timm_network_at_another_size_is_what_timm_makes_of_its_weights(
    name: str, size: int, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    path = tmp_path / "w.pth"
    torch.save(timm.create_model(name).state_dict(), path)
    overlay = {"file": str(path), "hf_hub_id": None}
    expected = timm.create_model(
        name, pretrained=True, pretrained_cfg_overlay=overlay, img_size=size, num_classes=0
    ).eval()
    teacher, own = load_teacher(f"timm/{name}", path, image_size=size), load_teacher(f"timm/{name}", path)
    images = torch.rand(2, 3, size, size)
    with torch.inference_mode():
        assert torch.equal(teacher.module(images), expected(images))
    assert teacher.feature == f"{own.feature}, position embeddings resampled by timm"
    assert teacher.weights_sha256 != own.weights_sha256
    with pytest.raises(PipelineError, match="do not fit its architecture"):
        load_teacher("timm/vit_small_patch16_224", path, image_size=size)
    with pytest.raises((PipelineError, WrongUse)):  # smaller than a patch
        load_teacher(f"timm/{name}", path, image_size=8)


def test_a_transformer_student_is_opened_at_another_size(tmp_path: Path) -> None:
    name = "timm/vit_tiny_patch16_224"
    student = build_student(name, image_size=64, seed=1).eval()
    save_student(tmp_path, student, {})
    path = tmp_path / "plain.pth"
    torch.save(student.network.state_dict(), path)
    resampled = timm.layers.resample_abs_pos_embed(
        student.network.pos_embed.detach(), new_size=[6, 6], num_prefix_tokens=1
    )
    expected = build_student(name, image_size=96, seed=2).eval()
    expected.network.load_state_dict({**student.network.state_dict(), "pos_embed": resampled})
    backbone = load_run_student(tmp_path, image_size=96)
    images = torch.rand(2, 3, 96, 96)
    with torch.inference_mode():
        assert torch.equal(backbone.module(images), expected(images))
    assert backbone.feature == "pooled feature, position embeddings resampled by timm"
    assert load_run_student(tmp_path).feature == "pooled feature"


def test_weights_that_do_not_fit_are_named(tmp_path: Path, resnet_file: Path) -> None:
    state = torch.load(resnet_file, weights_only=True)
    state["encoder.extra"] = state.pop("conv1.weight")
    torch.save(state, tmp_path / "w.pt")
    with pytest.raises(PipelineError) as caught:
        load_teacher("torchvision/resnet18", tmp_path / "w.pt", image_size=64)
    assert "missing: conv1.weight; unexpected: encoder.extra" in str(caught.value)
    with pytest.raises(PipelineError, match=r"missing: features\.0\.weight.*unexpected: conv1\.weight"):
        load_teacher("torchvision/alexnet", resnet_file, image_size=64)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("pixel", "did you mean 'pixels'"),
        ("zebra", "known are demo, pixels, .*timm/NAME"),
        ("torchvision/resnet18", "needs trained weights; download them"),
        ("timm/resnet18", "needs trained weights; download them"),
        ("tests.support.tiny_teacher:with_typo", "did you mean 'interpolation'"),
        (
            "tests.support.tiny_teacher:with_hidden_settings",
            "cannot be recorded in the cache: a builtins.generator",
        ),
        ("tests.support.tiny_teacher:broken", "RuntimeError: the moon is full"),
        ("tests.support.tiny_teacher:nothing", "returned a str"),
        ("tests.support.tiny_teacher:unpooled", "pool and flatten"),
        ("tests.support.tiny_teacher:no_such", "has no function 'no_such'"),
    ],
)
def test_a_wrong_teacher_is_a_sentence(name: str, message: str) -> None:
    with pytest.raises(PipelineError, match=message):
        load_teacher(name)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"mean": 0.5}, "mean is 0.5; expected three numbers"),
        ({"mean": "abc"}, "mean is 'abc'; expected three numbers"),
        ({"std": (0.5, None, 0.5)}, r"std is \(0.5, None, 0.5\); expected three numbers"),
        ({"crop": "8"}, "crop is '8'; expected an integer"),
        ({"resize": 8.5}, "resize is 8.5; expected an integer"),
        ({"interpolation": 3}, "interpolation is 3; expected 'bilinear' or 'bicubic'"),
        ({"mean": (123.7, 116.3, 103.5), "std": (58.4, 57.1, 57.4)}, "from 0 to 255, divide both by 255"),
        ({"mean": (0.5, 0.5, 127.5)}, "cannot be those of pixels from 0 to 1"),
        ({"std": (255.0,) * 3}, "cannot be those of pixels from 0 to 1"),
        ({"mean": (-0.5,) * 3}, "cannot be those of pixels from 0 to 1"),
    ],
)
def test_a_wrong_field_of_a_preprocessing_is_a_sentence(fields: dict[str, object], message: str) -> None:
    right = {"resize": 8, "crop": 8, "mean": np.full(3, 0.5), "std": torch.ones(3)}
    assert from_mapping(right, "x").identity()["mean"] == [0.5, 0.5, 0.5]
    assert (
        from_mapping({**right, "std": (1 / 255,) * 3}, "x").std[0] == 1 / 255
    )  # for networks that take 0 to 255
    with pytest.raises(WrongUse, match=message):
        from_mapping({**right, **fields}, "x")


def test_wrong_flags_are_sentences(tmp_path: Path, resnet_file: Path) -> None:
    with pytest.raises(WrongUse, match="takes no weights file"):
        load_teacher("pixels", resnet_file)
    with pytest.raises(WrongUse, match="does not exist"):
        load_teacher("torchvision/resnet18", tmp_path / "absent.pt")
    with pytest.raises(WrongUse, match="decides the image size"):
        load_teacher("tests.support.tiny_teacher:with_callable", image_size=64)


def test_a_function_gives_module_and_preprocessing() -> None:
    bare = load_teacher("tests.support.tiny_teacher:convolutional")
    assert bare.preprocessing == IMAGENET
    assert bare.dim == 8
    mapped = load_teacher("tests.support.tiny_teacher:with_mapping")
    assert mapped.preprocessing.identity()["crop"] == 16
    assert mapped.weights_sha256 == bare.weights_sha256
    own = load_teacher("tests.support.tiny_teacher:with_callable")
    assert own.preprocessing.identity() == {
        "callable": "tests.support.tiny_teacher.brightness",
        "code": code_sha256(brightness),
    }
    assert np.isnan(own.preprocessing.box(20, 10)).all()
    assert own.preprocessing.transform(Image.new("RGB", (9, 9), "white")).unique().tolist() == [1.0]


def test_preprocessings_of_one_name_are_told_apart_by_what_they_do() -> None:
    def composed(function: Callable) -> UserPreprocessing:
        return UserPreprocessing(transforms.Compose([transforms.ToTensor(), transforms.Lambda(function)]))

    plain, inverted = composed(lambda x: x), composed(lambda x: 1 - x)
    assert plain.identity()["callable"] == inverted.identity()["callable"]
    assert plain.identity() != inverted.identity()
    assert (
        " at 0x"
        not in load_teacher("tests.support.tiny_teacher:with_lambda").preprocessing.identity()["callable"]
    )


def test_networks_of_one_name_are_told_apart_by_their_code(monkeypatch: pytest.MonkeyPatch) -> None:
    class Cut(nn.Sequential):
        def forward(self, images: Tensor) -> Tensor:
            return super().forward(images)[:, :4].repeat(1, 2)

    name = "tests.support.tiny_teacher:convolutional"
    first, again = load_teacher(name).identity(), load_teacher(name).identity()
    monkeypatch.setattr(tiny_teacher, "convolutional", lambda: Cut(*convolutional()))
    assert first == again
    assert identity_difference(first, load_teacher(name).identity()) == [
        f"code: expected {json.dumps(first['code'])}, found {json.dumps(load_teacher(name).code)}"
    ]


def test_code_is_compared_where_it_can_be() -> None:
    new = {
        "weights": "w",
        "code": f"{PYTHON}:new",
        "preprocessing": {"callable": "f", "code": f"{PYTHON}:new"},
    }
    old = {"weights": "w", "preprocessing": {"callable": "f"}}
    assert comparable(new, old) == old
    foreign = {**new, "code": "2.7:abc"}
    assert comparable(new, foreign) == foreign
    other = {**new, "code": f"{PYTHON}:other"}
    assert comparable(new, other) == new


def test_a_functions_weights_may_come_from_a_file(tmp_path: Path) -> None:
    state = {
        "0.weight": torch.full((8, 3, 3, 3), 0.5),
        "0.bias": torch.zeros(8),
        "fc.weight": torch.zeros(2, 8),
        "fc.bias": torch.zeros(2),
    }
    torch.save(state, tmp_path / "w.pt")
    teacher = load_teacher("tests.support.tiny_teacher:convolutional", tmp_path / "w.pt")
    with torch.inference_mode():
        assert torch.equal(teacher.module(torch.ones(1, 3, 8, 8)), torch.full((1, 8), 13.5))
    torch.save({**state, "fc.2.weight": torch.zeros(1)}, tmp_path / "w.pt")
    with pytest.raises(PipelineError, match=r"unexpected: fc\.2\.weight;"):
        load_teacher("tests.support.tiny_teacher:convolutional", tmp_path / "w.pt")


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda image: 3, "returned no float tensor"),
        (lambda image: image.no_such, "failed with AttributeError"),
    ],
)
def test_a_failing_preprocessing_is_a_sentence(function: object, message: str) -> None:
    class Named:
        def __call__(self, image: Image.Image) -> object:
            return function(image)

        def __repr__(self) -> str:
            return "Named(3)"

    with pytest.raises(PipelineError, match=rf"preprocessing Named\(3\) {message}"):
        UserPreprocessing(Named()).transform(Image.new("RGB", (2, 2)))


@pytest.mark.parametrize(("image_size", "resize"), [(32, 32), (128, 146)])
def test_a_runs_student_comes_back(tmp_path: Path, image_size: int, resize: int) -> None:
    student = build_student("resnet18", image_size=image_size, seed=4).eval()
    save_student(tmp_path, student, {})
    backbone = load_run_student(tmp_path)
    images = torch.rand(2, 3, image_size, image_size)
    with torch.inference_mode():
        assert torch.equal(backbone.module(images), student(images))
    assert (backbone.architecture, backbone.dim, backbone.feature) == ("resnet18", 512, "global average pool")
    assert backbone.preprocessing == Preprocessing(
        resize=resize, crop=image_size, mean=IMAGENET.mean, std=IMAGENET.std
    )


def test_a_teacher_that_gives_no_finite_feature_is_refused_before_the_work() -> None:
    with pytest.raises(PipelineError, match="gives no finite feature for a black, a white and a noisy image"):
        load_teacher("tests.support.tiny_teacher:blind")


def test_a_run_without_student_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(WrongUse, match=r"run folder .* does not exist"):
        load_run_student(tmp_path / "absent")
    with pytest.raises(
        WrongUse, match=f"the run {tmp_path} has no student yet.*: repeat its command, or give"
    ):
        load_run_student(tmp_path)
    save_safetensors(tmp_path / "student.safetensors", {"w": torch.ones(1)}, {})
    with pytest.raises(PipelineError, match="lacks the metadata of a student"):
        load_run_student(tmp_path)


def test_every_entry_says_what_a_person_must_know() -> None:
    for entry in TEACHERS.values():
        assert all((entry.description, entry.licence, entry.input, entry.dim))
    for name in ("demo", "pixels"):
        assert load_teacher(name).dim == TEACHERS[name].dim
