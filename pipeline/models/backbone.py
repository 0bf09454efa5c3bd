"""Frozen networks with their preprocessing: teachers, and students after training."""

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
from pipeline.models.state_dict_layout import Layout, closest_layout, own_names


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """The parts of a backbone: module, preprocessing, and the layouts of its checkpoints.

    layouts: naming schemes of the weights files it can be loaded from; the names in the file decide which applies.
    """

    module: nn.Module
    architecture: str
    feature: str
    preprocessing: Transform
    layouts: tuple[Layout, ...] = (own_names(),)


NO_WEIGHTS = "0" * 64  # placeholder of the length of a sha256


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
        """Return what defines its embeddings, as JSON values; part of the identity of every store it writes."""
        return {
            "architecture": self.architecture,
            "weights": self.weights_sha256,
            "feature": self.feature,
            "dim": self.dim,
            "preprocessing": self.preprocessing.identity(),
        }


def load_weights(recipe: Recipe, weights: Path, name: str) -> None:
    """Load a weights file strictly. Raises PipelineError if it does not match the network."""
    _materialize(recipe.module)
    state = load_state(weights)
    layout = closest_layout(recipe.layouts, state, recipe.module.state_dict())
    try:
        load_strictly(recipe.module, layout.rename_all(state), f"{name} in {weights}")
    except PipelineError as error:
        raise PipelineError(f"{error}; `teachers --check {weights}` shows what it contains") from error


def _materialize(module: nn.Module) -> None:
    """Move a module from the meta device to the CPU; batch counters, which a file may lack, start at zero."""
    if any(tensor.is_meta for tensor in module.state_dict().values()):
        module.to_empty(device="cpu")
        for name, buffer in module.named_buffers():
            if name.endswith("num_batches_tracked"):
                buffer.zero_()


def freeze(recipe: Recipe, name: str, image_size: int | None = None, *, device: str = "cpu") -> Backbone:
    """Turn a recipe into a backbone in eval mode that needs no gradients. image_size: another input size, in pixels."""
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
