"""Frozen networks with their preprocessing: teachers, and students after training."""

import multiprocessing
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from pipeline.errors import PipelineError
from pipeline.images.preprocessing import Transform
from pipeline.models.architectures import example_features
from pipeline.models.checkpoints import load_strictly, weights_sha256
from pipeline.models.resampled_positions import RESAMPLED, resample_positions
from pipeline.models.state_dict_layout import Layout, best_reading, fitting_parts, own_names
from pipeline.models.weights_file import open_weights
from pipeline.runtime.code_identity import is_same_python
from pipeline.runtime.distributed import is_main_process


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """The parts of a backbone: module, preprocessing, and the layouts of its checkpoints.

    layouts: naming schemes of the weights files it can be loaded from; the names in the file decide which applies.
    code: of a user's own network, a hash of everything but its weights.
    """

    module: nn.Module
    architecture: str
    feature: str
    preprocessing: Transform
    layouts: tuple[Layout, ...] = (own_names(),)
    code: str = ""


NO_WEIGHTS = "0" * 64  # placeholder of the length of a sha256


@dataclass(frozen=True, kw_only=True)
class Backbone:
    """A frozen network in eval mode: images (B, 3, H, W) -> features (B, dim), not normalised.

    likeness: mean cosine between its features of `different_images`.
    """

    name: str
    module: nn.Module
    dim: int
    preprocessing: Transform
    architecture: str
    weights_sha256: str
    feature: str
    code: str = ""
    likeness: float = 0.0

    def identity(self) -> dict[str, Any]:
        """Return what defines its embeddings, as JSON values; part of the identity of every store it writes."""
        return {
            "architecture": self.architecture,
            "weights": self.weights_sha256,
            "feature": self.feature,
            "dim": self.dim,
            "preprocessing": self.preprocessing.identity(),
            **({"code": self.code} if self.code else {}),
        }


def comparable(identity: Mapping[str, Any], recorded: Mapping[str, Any]) -> dict[str, Any]:
    """Return an identity with the code hashes of a recorded one where the two cannot be compared.

    Earlier versions recorded no code, and other versions of Python compile the same code differently.
    """
    compared = dict(identity)
    if not isinstance(recorded, Mapping):
        return compared
    if "code" in compared and not is_same_python(recorded.get("code")):
        del compared["code"]
        if "code" in recorded:
            compared["code"] = recorded["code"]
    for field, value in compared.items():
        if isinstance(value, Mapping) and isinstance(recorded.get(field), Mapping):
            compared[field] = comparable(value, recorded[field])
    return compared


def load_weights(recipe: Recipe, weights: Path, name: str) -> Recipe:
    """Load a weights file strictly and return the recipe, whose feature then names any resampling.

    Prefixes of wrappers are removed if every name then fits, with a note on stderr. Raises PipelineError if the file
    does not match the network.
    """
    _materialize(recipe.module)
    state = open_weights(weights).state
    own = recipe.module.state_dict()
    reading = best_reading(recipe.layouts, state, own)
    tensors = reading.tensors
    if set(reading.problems) == {"of another shape"}:
        resampled = resample_positions(recipe.architecture, recipe.module, tensors)
        if resampled is not None:
            recipe, tensors = replace(recipe, feature=recipe.feature + RESAMPLED), resampled
    try:
        load_strictly(recipe.module, tensors, f"{name} in {weights}")
    except PipelineError as error:
        raise PipelineError(f"{error}; {_advice(recipe, state, own, weights)}") from error
    if reading.prefix:
        note(f"note: {weights}: removed the prefix {reading.prefix!r} from its names")
    return recipe


def _advice(recipe: Recipe, state: Mapping[str, Tensor], own: Mapping[str, Tensor], weights: Path) -> str:
    parts = [repr(part) for part in fitting_parts(recipe.layouts, state, own)]
    if parts:
        return f"the tensors under {' or '.join(parts)} alone would fit: write a file with these"
    return f"`python cli.py teachers --check {shlex.quote(str(weights))}` shows what it contains"


def note(line: str) -> None:
    """Print a line to stderr, once for all processes of a command."""
    if multiprocessing.parent_process() is None and is_main_process():
        print(line, file=sys.stderr)


def _materialize(module: nn.Module) -> None:
    """Move a module from the meta device to the CPU; batch counters, which a file may lack, start at zero."""
    if any(tensor.is_meta for tensor in module.state_dict().values()):
        module.to_empty(device="cpu")
        for name, buffer in module.named_buffers():
            if name.endswith("num_batches_tracked"):
                buffer.zero_()


def freeze(recipe: Recipe, name: str, image_size: int | None = None, *, device: str = "cpu") -> Backbone:
    """Turn a recipe into a backbone in eval mode that needs no gradients. image_size: another input size, in pixels.

    It is tried on images that nobody would confuse. Raises WrongUse or PipelineError if it fails on them.
    """
    preprocessing = recipe.preprocessing if image_size is None else recipe.preprocessing.at(image_size)
    module = recipe.module.eval().requires_grad_(False).to(device)
    examples = stack_images([preprocessing.transform(image) for image in different_images()], name)
    features = example_features(module, examples.to(device), name)
    if device == "cpu" and not features.isfinite().all(1).any():
        raise PipelineError(
            f"{name} gives no finite feature for a black, a white and a noisy image; check its weights"
        )
    return Backbone(
        name=name,
        module=module,
        dim=features.shape[1],
        preprocessing=preprocessing,
        architecture=recipe.architecture,
        weights_sha256=weights_sha256(module) if device == "cpu" else NO_WEIGHTS,
        feature=recipe.feature,
        code=recipe.code,
        likeness=mean_cosine(features.float().numpy()) if device == "cpu" else 0.0,
    )


def different_images() -> list[Image.Image]:
    """Return a black, a white and a noisy image of 256 x 256 px."""
    noise = np.random.default_rng(0).integers(0, 256, (256, 256, 3), dtype=np.uint8)
    return [Image.new("RGB", (256, 256)), Image.new("RGB", (256, 256), "white"), Image.fromarray(noise)]


def stack_images(images: Sequence[Tensor], name: str) -> Tensor:
    """Return preprocessed images as one batch. Raises PipelineError if their shapes differ. name: of the backbone."""
    shapes = sorted({tuple(image.shape) for image in images})
    if len(shapes) > 1:
        raise PipelineError(
            f"the preprocessing of {name} returns images of different shapes, {shapes[0]} and {shapes[1]}: resize and "
            "crop all to one"
        )
    return torch.stack(list(images))


def mean_cosine(rows: NDArray[np.floating[Any]]) -> float:
    """Return the mean cosine over the pairs of distinct rows of (B, D), without those that are zero or not finite.

    It is (|s|^2 - B) / (B (B - 1)), with s the sum of the unit rows; 0 for fewer than two rows.
    """
    lengths = np.linalg.norm(rows.astype(np.float64), axis=1)
    usable = np.isfinite(lengths) & (lengths > 0)
    unit, count = rows[usable].astype(np.float64) / lengths[usable, None], int(usable.sum())
    total = float(np.square(unit.sum(0)).sum())
    return (total - count) / (count * (count - 1)) if count > 1 else 0.0
