"""Neighbours of an image that is not in the dataset: it is embedded by each side's own backbone."""

import threading
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from cache.errors import StoreError
from cache.user_folder import as_typed
from pipeline.browse.gallery import Gallery
from pipeline.errors import PipelineError
from pipeline.images.decode import UnreadableImage, decode
from pipeline.models.backbone import Backbone
from pipeline.models.student_file import load_run_student
from pipeline.teachers.teacher_of_cache import open_teacher_of_cache


class OwnImages:
    """Finds neighbours of images that are dropped in. Each backbone is loaded when the first one is."""

    def __init__(self, gallery: Gallery, weights: Path | None = None) -> None:
        self._gallery, self._weights = gallery, weights
        self._backbones: dict[int, Backbone | str] = {}
        self._lock = threading.Lock()  # one image at a time: backbones use all cores, pixels much memory

    def neighbours(self, data: bytes) -> list[dict[str, Any]]:
        """Return for each side {"found": [(index, cosine), ...]}, or {"why": a sentence} where it cannot embed.

        Raises PipelineError if the bytes are not a usable image.
        """
        with self._lock:
            try:
                image = decode(data)
            except UnreadableImage as error:
                raise PipelineError(
                    f"this file cannot be shown: {error}; drop in a JPEG, PNG or WebP image"
                ) from error
            return [self._on_side(number, image) for number in range(len(self._gallery.sides))]

    def _on_side(self, number: int, image: Image.Image) -> dict[str, Any]:
        backbone = self._backbone(number)
        if isinstance(backbone, str):
            return {"why": backbone}
        try:
            return {"found": self._gallery.nearest(number, embedded(backbone, image))}
        except PipelineError as error:
            return {"why": as_typed(error)}

    def _backbone(self, number: int) -> Backbone | str:
        """Return a side's backbone, or a sentence that says why there is none."""
        if number not in self._backbones:
            side = self._gallery.sides[number]
            try:
                self._backbones[number] = (
                    load_run_student(side.run)
                    if side.run
                    else open_teacher_of_cache(side.store, weights=self._weights)[1]
                )
            except (PipelineError, StoreError) as error:
                self._backbones[number] = as_typed(error)
        return self._backbones[number]


def embedded(backbone: Backbone, image: Image.Image) -> NDArray[np.float32]:
    """Return the embedding (D,) of an image's centre crop, at unit length. Raises PipelineError if it has none."""
    pixels = backbone.preprocessing.transform(image)[None]
    with torch.inference_mode():
        features: NDArray[np.float32] = backbone.module(pixels)[0].float().numpy()
    norm = float(np.linalg.norm(features))
    if not np.isfinite(norm) or norm == 0:
        raise PipelineError(f"{backbone.name} gives no embedding of this image; try another one")
    return features / norm
