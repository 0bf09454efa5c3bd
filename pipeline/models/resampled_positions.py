"""Weights of timm's networks at another image size than they were trained at, with positions resampled by timm."""

import sys
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from pipeline.models.architectures import open_network
from pipeline.models.state_dict_layout import load_problems

RESAMPLED = (
    ", position embeddings resampled by timm"  # appended to the feature's name, a part of the identity
)


def resample_positions(
    name: str, module: nn.Module, tensors: Mapping[str, Tensor], trained_at: int | None = None
) -> dict[str, Tensor] | None:
    """Return tensors that fit the module, built for another image size, or None if its size is not what differs.

    name: timm/NAME. tensors: of the same network at `trained_at` px, by default its own size; they must fit it
    strictly. timm's own function for pretrained weights resamples what depends on the size.
    """
    if not name.startswith("timm/"):
        return None
    with torch.device("meta"):
        trained = open_network(name, trained_at).module.state_dict()
    convert = getattr(sys.modules[type(module).__module__], "checkpoint_filter_fn", None)
    if convert is None or load_problems(trained, tensors):
        return None
    try:
        resampled = dict(convert(dict(tensors), module))
    except RuntimeError:  # an image smaller than a patch has no positions
        return None
    return None if load_problems(module.state_dict(), resampled) else resampled
