"""Milliseconds of a batch by networks in PyTorch, in ONNX Runtime, and in ONNX Runtime with int8 weights."""

import contextlib
import statistics
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray

from pipeline.errors import PipelineError
from pipeline.export.onnx import onnx_model
from pipeline.export.quantize import quantized
from pipeline.models.wide_resnet import WideResNet50
from tests.benchmarks.figure import Figure, interleaved, ratio
from tests.support.exported_run import calibrated

SIZE, BATCHES, CALIBRATION = 224, (1, 32), 16
TEACHER = "tests.benchmarks.bench_latency:resnet50x4"
STUDENTS = ("mobilenet_v2", "resnet18", "resnet50")


def resnet50x4() -> torch.nn.Module:
    """CompRess's teacher."""
    return WideResNet50(4)


def measure(folder: Path) -> Iterator[Figure]:
    """Time images of 224 px on all cores, with random weights, on which the time does not depend.

    The teacher is timed with one image.
    """
    for name in (*STUDENTS, TEACHER):  # the quick ones first
        network = calibrated(name, SIZE).network
        content = onnx_model(network, {"image_size": str(SIZE)}, half=False)
        graphs = {"ONNX Runtime": content}
        if name != TEACHER:
            with contextlib.suppress(
                PipelineError
            ):  # with random weights, MobileNetV2 is too far from float32
                graphs["ONNX Runtime, int8"], _ = quantized(content, images(CALIBRATION, 0), images(4, 1))
        sessions = {runtime: onnxruntime.InferenceSession(graph) for runtime, graph in graphs.items()}
        for batch in BATCHES if name != TEACHER else BATCHES[:1]:
            given = images(batch, 2)
            sides: dict[str, Callable[[], object]] = {
                "PyTorch": lambda network=network, given=given: in_torch(network, given),
                **{
                    runtime: lambda session=session, given=given: session.run(None, {"images": given})
                    for runtime, session in sessions.items()
                },
            }
            yield figure(
                name.rpartition(":")[2], batch, interleaved(sides, rounds=3 if name == TEACHER else 15)
            )


def figure(name: str, batch: int, seconds: dict[str, list[float]]) -> Figure:
    last = list(seconds)[-1]
    each = {runtime: statistics.median(of) * 1e3 for runtime, of in seconds.items()}
    return Figure(
        name=f"latency-{name}-{batch}",
        what=f"{name}, {SIZE} px, batch {batch}, in {last}",
        against="PyTorch in float32",
        ratio=ratio(seconds, "PyTorch", last),
        unit="x its speed",
        seconds=seconds,
        bound=f"{each[last]:.1f} ms against {each['PyTorch']:.1f}",
        details={"network": name, "batch": batch, "milliseconds": each},
    )


def in_torch(network: torch.nn.Module, given: NDArray[np.float32]) -> torch.Tensor:
    with torch.inference_mode():
        return network(torch.from_numpy(given))


def images(count: int, seed: int) -> NDArray[np.float32]:
    return torch.randn(count, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(seed)).numpy()
