"""Entries of the teacher registry."""

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
    """A named teacher.

    dim: feature width. preprocessing: the one it was trained with. weights: where to get the file for --weights, or
    None if the teacher needs none. recipe: builds it. checksum: of that file, as published by its authors.
    own_weights: finds the file to use without --weights, if there is one.
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
        """Return size and normalization as text."""
        return describe_preprocessing(self.preprocessing)


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
    """Return an entry whose module is built on demand, on the meta device, since all its tensors come from a file."""

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


def describe_preprocessing(preprocessing: Preprocessing) -> str:
    """Return resize, crop, interpolation and normalization as text."""
    mean, std, crop, resize = preprocessing.mean, preprocessing.std, preprocessing.crop, preprocessing.resize
    if (mean, std) == (IMAGENET.mean, IMAGENET.std):
        values = "ImageNet's mean and std"
    elif set(mean + std) == {0.0, 1.0}:
        values = "[0, 1]"
    else:
        values = f"mean {' '.join(map(str, mean))}, std {' '.join(map(str, std))}"
    size = f"{crop} px" if crop == resize else f"{crop} of {resize} px"
    return f"{size}, {preprocessing.interpolation}, {values}"
