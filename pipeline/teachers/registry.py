"""Teachers: frozen backbones with their preprocessing, built by name and loaded strictly."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torchvision
from PIL import Image
from torch import nn

from pipeline.errors import PipelineError, WrongUse, suggest
from pipeline.images.preprocessing import IMAGENET, Preprocessing, Transform, as_transform
from pipeline.models.architectures import Network, feature_width, open_network
from pipeline.models.checkpoints import (
    check_sha256,
    load_safetensors,
    load_state,
    load_strictly,
    weights_sha256,
)
from pipeline.models.state_dict_layout import Layout, choose, plain
from pipeline.models.students import build_student
from pipeline.teachers.entry import Recipe, TeacherEntry
from pipeline.teachers.published import PUBLISHED

DEMO_WEIGHTS = Path(__file__).parents[2] / "assets" / "demo-teacher.safetensors"
NO_WEIGHTS = "0" * 64  # as long as a sha256
AS_THEY_ARE = Preprocessing(resize=32, crop=32, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))


@dataclass(frozen=True, kw_only=True)
class Backbone:
    """A frozen network in eval mode: images (B, 3, H, W) -> features (B, dim), not normalised."""

    name: str
    module: nn.Module
    dim: int
    preprocessing: Transform
    architecture: str
    weights_sha256: str
    feature: str

    def identity(self) -> dict[str, Any]:
        """What it is, as plain JSON values: a part of the identity of every store that it makes."""
        return {
            "architecture": self.architecture,
            "weights": self.weights_sha256,
            "feature": self.feature,
            "dim": self.dim,
            "preprocessing": self.preprocessing.identity(),
        }


def student_recipe(path: Path, image_size: int | None = None) -> Recipe:
    """A network that this project trained, from the safetensors file of its run or its export.

    Its input is that of its evaluation, at the size it was trained at or another; half precision becomes single.
    """
    state, metadata = load_safetensors(path)
    try:
        name, trained_at = metadata["student"], int(metadata["image_size"])
        mean, std = tuple(json.loads(metadata["mean"])), tuple(json.loads(metadata["std"]))
        feature = metadata["feature"]
    except (KeyError, ValueError, TypeError) as error:
        raise PipelineError(f"{path} does not say which student it holds: {error!r}") from error
    size = image_size or trained_at
    module = build_student(name, image_size=size, seed=0).network
    load_strictly(module, state, str(path))
    preprocessing = replace(IMAGENET, mean=mean, std=std).at(size)
    return Recipe(module=module, architecture=name, feature=feature, preprocessing=preprocessing)


def demo_recipe() -> Recipe:
    """The demo's teacher, which `pretrain` made and `export` wrote."""
    return student_recipe(DEMO_WEIGHTS)


def pixels_recipe() -> Recipe:
    """Raw pixels in [0, 1], flattened: what a backbone has to beat."""
    return Recipe(module=nn.Flatten(), architecture="pixels", feature="pixels", preprocessing=AS_THEY_ARE)


TEACHERS = {
    "demo": TeacherEntry(
        description="ResNet-34, SimCLR on Fashion-MNIST, of this project's own making",
        dim=512,
        preprocessing=IMAGENET.at(32),
        licence="MIT",
        weights=None,
        recipe=demo_recipe,
    ),
    "pixels": TeacherEntry(
        description="raw pixels, the baseline of every table",
        dim=3072,
        preprocessing=AS_THEY_ARE,
        licence="none needed",
        weights=None,
        recipe=pixels_recipe,
    ),
    **PUBLISHED,
}


def load_teacher(name: str, weights: Path | None = None, *, image_size: int | None = None) -> Backbone:
    """Build a teacher in eval mode and load its weights strictly.

    name: one of TEACHERS, timm/NAME, torchvision/NAME or package.module:function. image_size: another crop.
    Raises WrongUse for a wrong name or flag, PipelineError for misfitting weights or a failing function.
    """
    if weights is not None and not weights.is_file():
        raise WrongUse(f"the weights file {weights} does not exist")
    recipe = _find_recipe(name, weights, image_size)
    if weights is not None:
        _load_weights(recipe, weights, name)
    return _freeze(recipe, name, image_size)


def untrained_teacher(name: str, *, image_size: int | None = None) -> Backbone:
    """A teacher without its weights, on the meta device: what it costs is known before they are fetched.

    name, image_size: as for load_teacher, and WrongUse likewise. Its sha256 is none, but as long as one.
    """
    if name in TEACHERS:
        recipe = TEACHERS[name].recipe()
    elif name.startswith(("timm/", "torchvision/")):
        recipe = _library(name, Path(), image_size)
    else:
        recipe = _find_recipe(name, None, image_size)
    return _freeze(recipe, name, image_size, device="meta")


def load_run_student(run: Path, *, image_size: int | None = None) -> Backbone:
    """The student of a run folder, or of a .safetensors that `export` wrote, as it is evaluated.

    image_size: another than its own, in px. Raises WrongUse where there is neither.
    """
    if not run.is_dir() and run.suffix != ".safetensors":
        raise WrongUse(f"the run folder {run} does not exist; give one, or a .safetensors of `export`")
    recipe = student_recipe(run / "student.safetensors" if run.is_dir() else run, image_size)
    return _freeze(recipe, recipe.architecture)


def _find_recipe(name: str, weights: Path | None, image_size: int | None) -> Recipe:
    if name in TEACHERS:
        return _named(name, weights)
    if name.startswith(("timm/", "torchvision/")):
        if weights is None:
            raise WrongUse(
                f"{name} is nothing without trained weights; download them and give --weights FILE"
            )
        return _library(name, weights, image_size)
    if ":" in name:
        network = open_network(name)
        return Recipe(
            module=network.module,
            architecture=name,
            feature=network.feature,
            preprocessing=as_transform(network.settings, name),
            layouts=own_names(network),
        )
    known = f"; known are {', '.join(TEACHERS)}, timm/NAME, torchvision/NAME and package.module:function"
    raise WrongUse(f"no teacher is called {name!r}{suggest(name, TEACHERS) or known}")


def _named(name: str, weights: Path | None) -> Recipe:
    entry = TEACHERS[name]
    if entry.weights is None and weights is not None:
        raise WrongUse(f"the teacher {name} takes no weights file; leave --weights out")
    if entry.weights is not None and weights is None:
        raise WrongUse(
            f"the teacher {name} needs its weights; get them from {entry.weights} and give --weights FILE"
        )
    return entry.recipe()


def _library(name: str, weights: Path, image_size: int | None) -> Recipe:
    network = open_network(name, image_size)
    if name.startswith("timm/"):
        preprocessing = _timm_preprocessing(network.module, name)
    else:
        preprocessing = _torchvision_preprocessing(name.removeprefix("torchvision/"), weights)
    return Recipe(
        module=network.module,
        architecture=name,
        feature=network.feature,
        preprocessing=preprocessing,
        layouts=own_names(network),
    )


def _torchvision_preprocessing(name: str, weights: Path) -> Preprocessing:
    published = list(torchvision.models.get_model_weights(name))
    if not published:
        return IMAGENET
    # several sets of weights of one model want different sizes; the file's published name tells them apart
    own = [entry for entry in published if entry.url.rpartition("/")[2] == weights.name]
    if own:
        check_sha256(weights)
    wanted = (own or published)[0].transforms()
    return Preprocessing(
        resize=wanted.resize_size[0],
        crop=wanted.crop_size[0],
        interpolation=wanted.interpolation.value,
        mean=tuple(wanted.mean),
        std=tuple(wanted.std),
    )


def _timm_preprocessing(module: nn.Module, name: str) -> Preprocessing:
    from timm.data.config import resolve_model_data_config

    wanted = resolve_model_data_config(module)
    _, height, width = wanted["input_size"]
    if wanted["crop_mode"] != "center" or height != width:
        raise WrongUse(
            f"{name} wants {height} x {width} px cropped as {wanted['crop_mode']!r}, no square centre crop; "
            "wrap it in a package.module:function with its own preprocessing"
        )
    return Preprocessing(
        resize=int(height / wanted["crop_pct"]),
        crop=height,
        interpolation=wanted["interpolation"],
        mean=tuple(wanted["mean"]),
        std=tuple(wanted["std"]),
    )


def own_names(network: Network) -> tuple[Layout]:
    """The layout of a network's own files, which may still hold the layers that were left out."""
    own = network.module.state_dict()
    return (plain(*(head for head in network.heads if f"{head}.weight" not in own)),)


def _load_weights(recipe: Recipe, weights: Path, name: str) -> None:
    _give_memory(recipe.module)
    state = load_state(weights)
    layout = choose(recipe.layouts, state, recipe.module.state_dict())
    try:
        load_strictly(recipe.module, layout.read(state), f"{name} in {weights}")
    except PipelineError as error:
        raise PipelineError(f"{error}; `teachers --check {weights}` tells what it holds") from error


def _give_memory(module: nn.Module) -> None:
    """Put a module that was built on the meta device on the CPU; what a file need not hold is what it is at first."""
    if any(tensor.is_meta for tensor in module.state_dict().values()):
        module.to_empty(device="cpu")
        for name, buffer in module.named_buffers():
            if name.endswith("num_batches_tracked"):
                buffer.zero_()


def _freeze(recipe: Recipe, name: str, image_size: int | None = None, *, device: str = "cpu") -> Backbone:
    preprocessing = recipe.preprocessing if image_size is None else recipe.preprocessing.at(image_size)
    module = recipe.module.eval().requires_grad_(False).to(device)
    example = preprocessing.transform(Image.new("RGB", (256, 256))).to(device)
    return Backbone(
        name=name,
        module=module,
        dim=feature_width(module, example[None], name),
        preprocessing=preprocessing,
        architecture=recipe.architecture,
        weights_sha256=weights_sha256(module) if device == "cpu" else NO_WEIGHTS,
        feature=recipe.feature,
    )
