"""Build networks without classifier by name: torchvision/NAME, timm/NAME or package.module:function."""

import importlib
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torchvision
from torch import Tensor, nn

from pipeline.errors import PipelineError, WrongUse, first_line, suggest
from pipeline.runtime.code_identity import code_sha256
from pipeline.runtime.out_of_memory import is_out_of_memory


@dataclass(frozen=True, kw_only=True)
class Network:
    """A feature extractor.

    module: (B, 3, H, W) -> (B, dim). heads: names of the removed layers, whose weight and bias a checkpoint may
    still contain. feature: which layer the features are. settings: the second value returned by a user's function, a
    preprocessing, or None. code: of a user's own network, a hash of everything but its weights.
    """

    module: nn.Module
    heads: tuple[str, ...]
    feature: str
    settings: object = None
    code: str = ""


def open_network(name: str, image_size: int | None = None) -> Network:
    """Build torchvision/NAME, timm/NAME or package.module:function with random weights."""
    if name.startswith("torchvision/"):
        return torchvision_network(name.removeprefix("torchvision/"))
    if name.startswith("timm/"):
        return timm_network(name.removeprefix("timm/"), image_size)
    return function_network(name)


def torchvision_network(name: str) -> Network:
    """Build a torchvision model without its last linear layer and without dropout. Downloads nothing."""
    known = torchvision.models.list_models(module=torchvision.models)
    if name not in known:
        raise WrongUse(f"torchvision has no classification model {name!r}{suggest(name, known)}")
    # these two warn about their random weights unless they are told how to draw them
    drawn = {"init_weights": True} if name in ("googlenet", "inception_v3") else {}
    module = torchvision.models.get_model(name, weights=None, **drawn)
    head = [key for key, layer in module.named_modules() if isinstance(layer, nn.Linear)][-1:]
    if not head:
        raise WrongUse(
            f"torchvision/{name} has no linear classifier to remove; wrap it in a package.module:function"
        )
    parent, _, child = head[0].rpartition(".")
    setattr(module.get_submodule(parent), child, nn.Identity())
    for layer in module.modules():
        if isinstance(layer, nn.Dropout):
            layer.p = 0.0  # it belongs to the classifier
    return Network(module=module, heads=(head[0],), feature="input of the classifier")


def timm_network(name: str, image_size: int | None = None) -> Network:
    """Build a timm model with num_classes=0. `image_size` sets the input size of models that fix it."""
    import timm

    if not timm.is_model(name):
        raise WrongUse(f"timm has no model {name!r}{suggest(name, timm.list_models())}")
    configuration = timm.get_pretrained_cfg(name)
    settings: dict[str, Any] = {}
    if image_size is not None and configuration is not None and configuration.fixed_input_size:
        settings["img_size"] = image_size
    try:
        module = timm.create_model(name, pretrained=False, num_classes=0, **settings)
    except Exception as error:
        raise WrongUse(f"timm cannot build {name!r}: {error}") from error
    removed = (configuration and configuration.classifier) or ()
    heads = (removed,) if isinstance(removed, str) else tuple(removed)
    return Network(module=module, heads=heads, feature="pooled feature")


def function_network(spec: str) -> Network:
    """Call the user's own package.module:function(), which returns a module or (module, preprocessing)."""
    result = call_function(spec)
    module, settings = result if isinstance(result, tuple) and len(result) == 2 else (result, None)
    if not isinstance(module, nn.Module):
        raise PipelineError(
            f"{spec} returned {describe(result)}; expected an nn.Module or a tuple of an nn.Module and a preprocessing"
        )
    heads, code = ("fc", "classifier"), network_code(module)
    return Network(module=module, heads=heads, feature="output", settings=settings, code=code)


def network_code(module: nn.Module) -> str:
    """Hash a network's code and settings, but not the values of its state dict: see `code_sha256`."""
    saved = module.state_dict()
    tensors = [
        *module.named_parameters(remove_duplicate=False),
        *module.named_buffers(remove_duplicate=False),
    ]
    weights = [tensor for name, tensor in tensors if name in saved]
    return code_sha256(module, weights=weights, strict=False)


def imported_function(spec: str) -> Callable[..., Any]:
    """Import package.module, also from the current folder, and return the function that `spec` names in it.

    Raises WrongUse if there is no such module or function, PipelineError if importing it fails.
    """
    module_name, _, function_name = spec.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise WrongUse(f"{spec} cannot be imported from here: {error}") from error
    except Exception as error:
        raise PipelineError(f"{spec} cannot be imported: {type(error).__name__}: {error}") from error
    function = getattr(module, function_name, None)
    if not callable(function):
        near = suggest(function_name, vars(module))
        raise WrongUse(f"module {module_name} has no function {function_name!r}{near}")
    return function


def call_function(spec: str) -> object:
    """Import a user's function, see `imported_function`, and call it without arguments."""
    function = imported_function(spec)
    try:
        return function()
    except Exception as error:
        raise PipelineError(f"{spec} failed with {type(error).__name__}: {error}") from error


def feature_width(module: nn.Module, examples: Tensor, name: str) -> int:
    """Return the width of a module's features for some examples (B, 3, H, W); switches the module to eval mode.

    Raises WrongUse if the module does not accept the image size, PipelineError if its output is not (B, width).
    """
    return example_features(module, examples, name).shape[1]


def example_features(module: nn.Module, examples: Tensor, name: str) -> Tensor:
    """Return a module's features (B, width) of examples (B, 3, H, W); raises and switches as `feature_width`."""
    module.eval()
    try:
        with torch.inference_mode():
            feature = module(examples)
    except PipelineError:
        raise
    except Exception as error:
        if is_out_of_memory(error):
            raise
        raise WrongUse(
            f"{name} does not accept images of shape {tuple(examples.shape[1:])}: {error}"
        ) from error
    if not isinstance(feature, Tensor) or feature.ndim != 2 or len(feature) != len(examples):
        raise PipelineError(
            f"{name} returns {describe(feature)} for {len(examples)} images; expected features of shape "
            f"({len(examples)}, width): pool and flatten them inside the module"
        )
    return feature


def guarded_call(module: nn.Module, images: Tensor, name: str) -> object:
    """Return a module's output. Raises PipelineError if the module fails; running out of memory passes through."""
    try:
        return module(images)
    except PipelineError:
        raise
    except Exception as error:
        if is_out_of_memory(error):
            raise
        reason = f"{type(error).__name__}: {first_line(error)}"
        raise PipelineError(f"{name} failed on images of shape {tuple(images.shape)}: {reason}") from error


def checked_features(output: object, images: int, dim: int, name: str) -> Tensor:
    """Return a network's output if it is a float tensor (images, dim): one of another shape might be broadcast.

    Raises PipelineError for anything else.
    """
    fits = isinstance(output, Tensor) and output.shape == (images, dim) and output.is_floating_point()
    if not isinstance(output, Tensor) or not fits:
        raise PipelineError(
            f"{name} returns {describe(output)} for a batch of {images} images; "
            f"expected features of shape ({images}, {dim})"
        )
    return output


def describe(value: object) -> str:
    """Describe a value for an error message: its type, and the shape of a tensor."""
    if isinstance(value, Tensor):
        dtype = "" if value.is_floating_point() else f" and {value.dtype}"
        return f"a tensor of shape {tuple(value.shape)}{dtype}"
    return f"a {type(value).__name__}"
