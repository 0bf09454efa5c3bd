"""What is known of a named teacher: what a person reads about it, and how it is made and loaded."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from pipeline.images.preprocessing import IMAGENET, Preprocessing
from pipeline.models.backbone import Recipe
from pipeline.models.state_dict_layout import Layout

POOLED = "global average pool"


@dataclass(frozen=True, kw_only=True)
class TeacherEntry:
    """A named teacher: what a person reads about it, and its recipe.

    dim: width of the feature. preprocessing: what it was trained with. weights: where to get the file for --weights;
    None when the teacher needs none. checksum: of that file, as its authors publish it. own_weights: finds the file
    that is used without --weights, if there is one.
    """

    description: str
    dim: int
    preprocessing: Preprocessing
    licence: str
    weights: str | None
    recipe: Callable[[], Recipe]
    checksum: str = ""
    own_weights: Callable[[], Path] | None = None

    @property
    def input(self) -> str:
        """Size and normalisation in words."""
        return in_words(self.preprocessing)


def published(
    description: str,
    *,
    build: Callable[[], nn.Module],
    architecture: str,
    dim: int,
    layouts: tuple[Layout, ...],
    licence: str,
    weights: str,
    preprocessing: Preprocessing = IMAGENET,
    feature: str = POOLED,
    checksum: str = "",
    own_weights: Callable[[], Path] | None = None,
) -> TeacherEntry:
    """An entry whose module is built when it is wanted, on the meta device, since all its tensors come from a file."""

    def recipe() -> Recipe:
        with torch.device("meta"):
            module = build()
        return Recipe(
            module=module,
            architecture=architecture,
            feature=feature,
            preprocessing=preprocessing,
            layouts=layouts,
        )

    return TeacherEntry(
        description=description,
        dim=dim,
        preprocessing=preprocessing,
        licence=licence,
        weights=weights,
        recipe=recipe,
        checksum=checksum,
        own_weights=own_weights,
    )


def in_words(wanted: Preprocessing) -> str:
    """Resize, crop, interpolation and normalisation of a preprocessing, in words."""
    if (wanted.mean, wanted.std) == (IMAGENET.mean, IMAGENET.std):
        normalised = "ImageNet's mean and std"
    elif set(wanted.mean + wanted.std) == {0.0, 1.0}:
        normalised = "[0, 1]"
    else:
        normalised = f"mean {' '.join(map(str, wanted.mean))}, std {' '.join(map(str, wanted.std))}"
    shown = f"{wanted.crop} px" if wanted.crop == wanted.resize else f"{wanted.crop} of {wanted.resize} px"
    return f"{shown}, {wanted.interpolation}, {normalised}"
