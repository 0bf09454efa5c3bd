"""A frozen network with its preprocessing: a teacher's, or a student's after training."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image
from torch import nn

from pipeline.errors import PipelineError
from pipeline.images.preprocessing import Transform
from pipeline.models.architectures import feature_width
from pipeline.models.checkpoints import (
    load_state,
    load_strictly,
    weights_sha256,
)
from pipeline.models.state_dict_layout import Layout, choose, plain


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a backbone is made: its module, its preprocessing, and how a weights file becomes its state dict.

    layouts: of the files that it can be loaded from; the names in the file decide which.
    """

    module: nn.Module
    architecture: str
    feature: str
    preprocessing: Transform
    layouts: tuple[Layout, ...] = (plain(),)


NO_WEIGHTS = "0" * 64  # as long as a sha256


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


def load_weights(recipe: Recipe, weights: Path, name: str) -> None:
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


def freeze(recipe: Recipe, name: str, image_size: int | None = None, *, device: str = "cpu") -> Backbone:
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
