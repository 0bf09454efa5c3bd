"""A student's ONNX file as a backbone, computed by ONNX Runtime: what a device will run can be evaluated here."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from torch import Tensor, nn

from pipeline.errors import PipelineError, WrongUse
from pipeline.images.preprocessing import IMAGENET
from pipeline.models.backbone import Recipe


class OnnxNetwork(nn.Module):
    """An exported graph: images (B, 3, size, size) -> features (B, dim), both float32; computed on the CPU.

    session: `images` -> `features`. content: of the file, which is the network's only state, and so its identity.
    """

    file: Tensor

    def __init__(self, session: onnxruntime.InferenceSession, content: bytes) -> None:
        super().__init__()
        self.session = session
        self.register_buffer("file", torch.from_numpy(np.frombuffer(content, np.uint8).copy()))

    def forward(self, images: Tensor) -> Tensor:
        (features,) = self.session.run(["features"], {"images": images.float().cpu().numpy()})
        return torch.from_numpy(features).to(images.device)


def onnx_recipe(path: Path, image_size: int | None = None) -> Recipe:
    """Read a student from an ONNX file that `export` wrote.

    It computes with as many threads as PyTorch. Raises PipelineError for a damaged file or one without `export`'s
    metadata, WrongUse for another image_size than the graph's.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    try:
        content = path.read_bytes()
        session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except FileNotFoundError as error:
        raise PipelineError(f"{path} does not exist") from error
    except OSError as error:
        raise PipelineError(f"{path} cannot be read: {error.strerror or error}") from error
    except Exception as error:  # ONNX Runtime raises many types
        raise PipelineError(f"{path} is damaged ({' '.join(str(error).split())}); export it again") from error
    metadata = session.get_modelmeta().custom_metadata_map
    try:
        name, size, feature = metadata["student"], int(metadata["image_size"]), metadata["feature"]
        mean, std = tuple(json.loads(metadata["mean"])), tuple(json.loads(metadata["std"]))
    except (KeyError, ValueError, TypeError) as error:
        raise PipelineError(f"{path} lacks the metadata of a student: {error!r}") from error
    if image_size not in (None, size):
        raise WrongUse(
            f"{path} takes images of {size} px and no others: leave --image-size out, or give the run's folder"
        )
    return Recipe(
        module=OnnxNetwork(session, content),
        architecture=f"{name} in ONNX",
        feature=feature,
        preprocessing=replace(IMAGENET, mean=mean, std=std).at(size),
    )
