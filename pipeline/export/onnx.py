"""A student as an ONNX graph with a dynamic batch size, verified in ONNX Runtime against PyTorch."""

from collections.abc import Mapping, Sequence

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pipeline.errors import PipelineError, first_line

LARGEST = 2**31 - 1  # bytes that a protobuf message can hold
CHECKED_BATCHES = (1, 3)
# Norm of the difference relative to the features' norm, by `half`: float32 sums are computed in another order, float16
# keeps 11 bits of each product. A broken graph is far off. 0.02 is an angle of about 1 degree.
TOLERANCE = {False: 1e-4, True: 2e-2}


class HalfInside(nn.Module):
    """A network in float16 with float32 input and output."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network.half()

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images.half()).float()


def onnx_model(network: nn.Module, metadata: Mapping[str, str], *, half: bool) -> bytes:
    """Return the bytes of an ONNX file: `images` (batch, 3, size, size) -> `features` (batch, dim), both float32.

    network: in eval mode, on the CPU; with `half` it is converted to float16 in place. metadata: written to the file;
    its image_size is the input size in px. Raises PipelineError when the graph cannot be exported, is larger than 2 GB,
    or computes other features than PyTorch.
    """
    size = int(metadata["image_size"])
    batches = [torch.randn(count, 3, size, size, generator=_seeded()) for count in CHECKED_BATCHES]
    with torch.inference_mode():
        expected = [network(images).numpy() for images in batches]
    content = _graph(HalfInside(network) if half else network, size, metadata)
    for features, found in zip(expected, _run(content, batches), strict=True):
        worst = float((np.linalg.norm(found - features, axis=1) / np.linalg.norm(features, axis=1)).max())
        if not worst <= TOLERANCE[half]:
            remedy = "leave --half out" if half else "export safetensors"
            raise PipelineError(
                f"ONNX Runtime's features differ from PyTorch's by {worst:.1e} of their norm, expected at most "
                f"{TOLERANCE[half]:.0e}: {remedy}"
            )
    return content


def _graph(network: nn.Module, size: int, metadata: Mapping[str, str]) -> bytes:
    if sum(tensor.nbytes for tensor in network.state_dict().values()) > LARGEST:
        raise PipelineError("an ONNX file holds at most 2 GB, and the student is larger: export safetensors")
    try:
        program = torch.onnx.export(
            network.requires_grad_(False).eval(),
            (torch.zeros(2, 3, size, size),),
            input_names=["images"],
            output_names=["features"],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            dynamo=True,
            verbose=False,
        )
    except torch.onnx.OnnxExporterError as error:
        raise PipelineError(
            f"PyTorch cannot export this student as an ONNX graph ({first_line(error)}): export safetensors"
        ) from error
    assert program is not None
    program.model.metadata_props.update(metadata)
    for graph in (program.model.graph, *(function.graph for function in program.model.functions.values())):
        for node in graph.all_nodes():
            node.metadata_props.clear()  # stack traces with paths of this machine
    return program.model_proto.SerializeToString(deterministic=True)


def _run(content: bytes, batches: Sequence[Tensor]) -> list[NDArray[np.float32]]:
    """Return ONNX Runtime's features of each batch. Raises PipelineError, also for a graph of a fixed batch size."""
    try:
        session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
        return [session.run(None, {"images": images.numpy()})[0] for images in batches]
    except Exception as error:
        reason = " ".join(str(error).split())
        raise PipelineError(f"ONNX Runtime cannot run the graph ({reason}): export safetensors") from error


def _seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)
