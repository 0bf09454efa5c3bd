"""A student's ONNX graph with int8 weights and activations, for ONNX Runtime, calibrated on training images."""

import contextlib
import io
import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_static,
)
from onnxruntime.quantization.shape_inference import quant_pre_process

from pipeline.errors import PipelineError, WrongUse
from pipeline.images.dataset import DatasetSplit
from pipeline.images.decode import UnreadableImage, decode
from pipeline.images.preprocessing import Transform

IMAGES, BATCH = 256, 4  # of calibration; more change little
LOWEST_COSINE = 0.98
# Ranges of activations that are tried: all that occurs, or without the largest thousandth. Which is better depends on
# the student: large values that are rare carry nothing in one and much in another.
# One batch at a time: ONNX Runtime would keep the activations of all images in memory, 21 GB for a ResNet-50 at 224 px.
BY_BATCH = {"CalibStridedMinMax": 1}
CALIBRATIONS: tuple[dict[str, Any], ...] = (
    {"calibrate_method": CalibrationMethod.MinMax, "extra_options": BY_BATCH},
    {
        "calibrate_method": CalibrationMethod.Percentile,
        "extra_options": BY_BATCH | {"CalibPercentile": 99.9},
    },
)

Pixels = NDArray[np.float32]


class Batches(CalibrationDataReader):
    """Images (n, 3, H, W) in batches, as ONNX Runtime asks for them: all, or a range of batches."""

    def __init__(self, images: Pixels) -> None:
        self.images = images
        self.set_range(0, len(self))

    def __len__(self) -> int:
        return -(-len(self.images) // BATCH)

    def set_range(self, start_index: int, end_index: int) -> None:
        starts = range(start_index * BATCH, min(end_index * BATCH, len(self.images)), BATCH)
        self.batches = iter([{"images": self.images[start : start + BATCH]} for start in starts])

    def get_next(self) -> dict[str, Pixels] | None:
        return next(self.batches, None)


def quantized(content: bytes, calibration: Pixels, held_out: Pixels) -> tuple[bytes, float]:
    """Return the bytes of an int8 graph, and the mean cosine between its features and the float32 graph's.

    content: of the float32 ONNX file. calibration, held_out: preprocessed images (n, 3, H, W); the first choose the
    ranges of activations, the cosine is of the second. Weights have 7 bits, so that sums do not overflow on processors
    without VNNI. Raises PipelineError if ONNX Runtime cannot quantize the graph, or the cosine is below 0.98.
    """
    try:
        with quiet():
            graphs = [with_metadata(graph, content) for graph in int8_graphs(content, calibration)]
        found = max(graphs, key=lambda graph: np.nan_to_num(mean_cosine(content, graph, calibration), nan=-1))
        cosine = mean_cosine(content, found, held_out)
    except Exception as error:  # ONNX Runtime raises many types
        reason = " ".join(str(error).split())[:200]
        raise PipelineError(
            f"ONNX Runtime cannot quantize this student ({reason}): leave --int8 out"
        ) from error
    if not cosine >= LOWEST_COSINE:
        raise PipelineError(
            f"in int8 the features have a mean cosine of {cosine:.3f} to those in float32, expected at least "
            f"{LOWEST_COSINE}: leave --int8 out, or export with --half"
        )
    return found, cosine


def int8_graphs(content: bytes, calibration: Pixels) -> Iterator[onnx.ModelProto]:
    """Yield a graph with int8 weights and activations for each of CALIBRATIONS."""
    with tempfile.TemporaryDirectory() as folder:
        original, prepared, result = (str(Path(folder) / f"{name}.onnx") for name in ("a", "b", "c"))
        Path(original).write_bytes(content)
        quant_pre_process(original, prepared)
        for settings in CALIBRATIONS:
            quantize_static(
                prepared,
                result,
                Batches(calibration),
                quant_format=QuantFormat.QDQ,
                per_channel=True,
                reduce_range=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                **settings,
            )
            yield onnx.load(result)


def with_metadata(model: onnx.ModelProto, content: bytes) -> bytes:
    """Return the bytes of a model with the metadata of another file, which quantization drops."""
    del model.metadata_props[:]
    model.metadata_props.extend(onnx.load_from_string(content).metadata_props)
    return bytes(model.SerializeToString(deterministic=True))


def mean_cosine(content: bytes, other: bytes, images: Pixels) -> float:
    """Return the mean cosine between the features that two ONNX files compute of images."""
    one, two = (
        np.concatenate([session.run(None, batch)[0] for batch in iter(Batches(images).get_next, None)])
        for session in (
            onnxruntime.InferenceSession(each, providers=["CPUExecutionProvider"])
            for each in (content, other)
        )
    )
    return float(((one * two).sum(1) / np.linalg.norm(one, axis=1) / np.linalg.norm(two, axis=1)).mean())


def sample(split: DatasetSplit, preprocessing: Transform) -> Pixels:
    """Return at most 256 random readable images of a split, preprocessed. WrongUse if there are none."""
    rows = np.random.default_rng(0).permutation(np.flatnonzero(split.readable))[:IMAGES]
    images = []
    for row in rows:
        with contextlib.suppress(UnreadableImage):
            images.append(preprocessing.transform(decode(split.source.read(int(row)))))
    if not images:
        raise WrongUse(f"--int8: the split {split.name} has no readable image to calibrate on")
    return torch.stack(images).numpy()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep what ONNX Runtime prints and logs while it quantizes from the user."""
    previous = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(previous)
