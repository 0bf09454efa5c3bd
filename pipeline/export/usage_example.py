"""The usage example of a model card: Python that runs an exported student without this project. The tests run it."""

from collections.abc import Mapping
from typing import Any

from pipeline.models.architectures import open_network
from pipeline.models.students import STUDENTS

TORCH = """\
import torch
{imports}
from PIL import Image
from safetensors.torch import load_file
from torchvision import transforms

model = {model}
model.load_state_dict(load_file({file!r}))
model.eval()
transform = transforms.Compose([
    transforms.Resize({resize}, transforms.InterpolationMode.{method}),
    transforms.CenterCrop({crop}),
    transforms.ToTensor(),
    transforms.Normalize({mean}, {std}),
])
images = transform(Image.open("image.jpg").convert("RGB"))[None]  # (1, 3, {crop}, {crop})
with torch.inference_mode():
    features = model(images)  # (1, {dim})
"""

ONNX = """\
import numpy as np
import onnxruntime
from PIL import Image

image = Image.open("image.jpg").convert("RGB")
size = [int({resize} * side / min(image.size)) for side in image.size]
image = image.resize(size, Image.Resampling.{method})
left, top = (round((side - {crop}) / 2) for side in image.size)
image = image.crop((left, top, left + {crop}, top + {crop}))
mean, std = np.float32({mean}), np.float32({std})
images = ((np.asarray(image, np.float32) / 255 - mean) / std).transpose(2, 0, 1)[None]  # (1, 3, {crop}, {crop})
session = onnxruntime.InferenceSession({file!r})
(features,) = session.run(["features"], {{"images": images}})  # (1, {dim})
"""


def usage_example(file: str, student: Mapping[str, str], preprocessing: Mapping[str, Any]) -> str:
    """Return code that computes the features of an image with a .safetensors or .onnx file.

    student: the file's metadata. preprocessing: the identity of its centre crop.
    """
    view = {**preprocessing, "method": preprocessing["interpolation"].upper(), "dim": student["dim"]}
    if file.endswith(".onnx"):
        return ONNX.format(file=file, **view)
    imports, model = network_code(student["student"], int(student["image_size"]))
    return TORCH.format(file=file, imports=imports, model=model, **view)


def network_code(name: str, image_size: int) -> tuple[str, str]:
    """Return the import and the expression that build a student's network with its own library, without classifier."""
    if name.startswith("timm/"):
        return "import timm", timm_code(name.removeprefix("timm/"), image_size)
    if ":" in name:
        module, _, function = name.partition(":")
        return f"from {module} import {function}", f"{function}()"
    full_name = f"torchvision/{name}" if name in STUDENTS else name
    (head,) = open_network(full_name).heads
    model = f"torchvision.models.get_model({full_name.removeprefix('torchvision/')!r})"
    return "import torchvision", f"{model}\nmodel.set_submodule({head!r}, torch.nn.Identity())"


def timm_code(name: str, image_size: int) -> str:
    """Return timm's create_model call, with the image size for models that have a fixed one."""
    import timm

    configuration = timm.get_pretrained_cfg(name)
    fixed = configuration is not None and configuration.fixed_input_size
    return f"timm.create_model({name!r}, num_classes=0{f', img_size={image_size}' if fixed else ''})"
