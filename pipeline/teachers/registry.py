"""The teacher registry: frozen backbones with their preprocessing, built by name and loaded strictly."""

from pathlib import Path

import torchvision
from torch import nn

from pipeline.errors import WrongUse, suggest
from pipeline.images.preprocessing import IMAGENET, Preprocessing, as_transform
from pipeline.models.architectures import Network, open_network
from pipeline.models.backbone import Backbone, Recipe, freeze, load_weights
from pipeline.models.state_dict_layout import Layout, own_names
from pipeline.models.weights_file import check_sha256
from pipeline.teachers.entry import TeacherEntry
from pipeline.teachers.lite0 import DEMO
from pipeline.teachers.published import PUBLISHED

RAW_PIXELS = Preprocessing(resize=32, crop=32, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))


def pixels_recipe() -> Recipe:
    """Return raw pixels in [0, 1], flattened: the baseline for every backbone."""
    return Recipe(module=nn.Flatten(), architecture="pixels", feature="pixels", preprocessing=RAW_PIXELS)


TEACHERS = {
    "demo": DEMO,
    "pixels": TeacherEntry(
        description="raw pixels, the baseline of every table",
        dim=3072,
        preprocessing=RAW_PIXELS,
        licence="none needed",
        weights=None,
        recipe=pixels_recipe,
    ),
    **PUBLISHED,
}


def load_teacher(name: str, weights: Path | None = None, *, image_size: int | None = None) -> Backbone:
    """Build a teacher in eval mode and load its weights strictly.

    name: one of TEACHERS, timm/NAME, torchvision/NAME or package.module:function. image_size: another crop size.
    Raises WrongUse for a wrong name or flag, PipelineError for weights that do not match or a failing function.
    """
    if weights is not None and not weights.is_file():
        raise WrongUse(f"the weights file {weights} does not exist")
    if weights is None and name in TEACHERS and (own := TEACHERS[name].own_weights):
        weights = own()
    recipe = _find_recipe(name, weights, image_size)
    if weights is not None:
        recipe = load_weights(recipe, weights, name)
    return freeze(recipe, name, image_size)


def untrained_teacher(name: str, *, image_size: int | None = None) -> Backbone:
    """Build a teacher without weights on the meta device, to estimate its cost before they are downloaded.

    name, image_size, WrongUse: as for load_teacher. Its weights_sha256 is a placeholder.
    """
    if name in TEACHERS:
        recipe = TEACHERS[name].recipe()
    elif name.startswith(("timm/", "torchvision/")):
        recipe = _library(name, Path(), image_size)
    else:
        recipe = _find_recipe(name, None, image_size)
    return freeze(recipe, name, image_size, device="meta")


def _find_recipe(name: str, weights: Path | None, image_size: int | None) -> Recipe:
    if name in TEACHERS:
        return _named(name, weights)
    if name.startswith(("timm/", "torchvision/")):
        if weights is None:
            raise WrongUse(f"{name} needs trained weights; download them and give --weights FILE")
        return _library(name, weights, image_size)
    if ":" in name:
        network = open_network(name)
        return Recipe(
            module=network.module,
            architecture=name,
            feature=network.feature,
            preprocessing=as_transform(network.settings, name),
            layouts=layouts_of(network),
            code=network.code,
        )
    known = f"; known are {', '.join(TEACHERS)}, timm/NAME, torchvision/NAME and package.module:function"
    raise WrongUse(f"unknown teacher {name!r}{suggest(name, TEACHERS) or known}")


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
        layouts=layouts_of(network),
    )


def _torchvision_preprocessing(name: str, weights: Path) -> Preprocessing:
    published = list(torchvision.models.get_model_weights(name))
    if not published:
        return IMAGENET
    # the sets of weights of one model may need different sizes; the file's published name tells which set it is
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
            f"{name} needs {height} x {width} px with crop mode {wanted['crop_mode']!r}, not a square centre crop; "
            "wrap it in a package.module:function with its own preprocessing"
        )
    return Preprocessing(
        resize=int(height / wanted["crop_pct"]),
        crop=height,
        interpolation=wanted["interpolation"],
        mean=tuple(wanted["mean"]),
        std=tuple(wanted["std"]),
    )


def layouts_of(network: Network) -> tuple[Layout]:
    """Return the layout of a network's own files, which may still contain the removed layers."""
    own = network.module.state_dict()
    return (own_names(*(head for head in network.heads if f"{head}.weight" not in own)),)
