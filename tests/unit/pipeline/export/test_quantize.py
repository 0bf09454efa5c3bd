"""Students in int8 for ONNX Runtime: near the float32 graph, smaller, and refused where they would not be."""

import re
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from pipeline.errors import PipelineError, WrongUse
from pipeline.export import quantize
from pipeline.export.export import export_student
from pipeline.export.onnx import onnx_model
from pipeline.export.quantize import mean_cosine, quantized
from pipeline.models.students import build_student
from pipeline.settings.commands import ExportConfig
from pipeline.training.distill import distill
from tests.support.training_runs import settings


def images(count: int, seed: int) -> np.ndarray:
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(seed)).numpy()


@pytest.fixture(scope="module")
def graph() -> bytes:
    student = build_student("resnet18", image_size=32, seed=0).eval()
    return onnx_model(student.network, {"image_size": "32", "student": "resnet18"}, half=False)


def test_a_quarter_of_the_size_and_the_same_directions(graph: bytes) -> None:
    content, cosine = quantized(graph, images(64, 0), images(32, 1))
    assert len(content) < 0.3 * len(graph)
    assert cosine > 0.99
    assert cosine == pytest.approx(mean_cosine(graph, content, images(32, 1)))
    kinds = {each.data_type for each in onnx.load_from_string(content).graph.initializer}
    assert onnx.TensorProto.INT8 in kinds


@pytest.mark.parametrize("count", [1, 6])
def test_any_number_of_images_calibrates(graph: bytes, count: int) -> None:
    _, cosine = quantized(graph, images(count, 0), images(count, 1))
    assert cosine > 0.9


def test_calibration_holds_the_activations_of_one_batch(graph: bytes) -> None:
    reader, seen = quantize.Batches(images(9, 0)), []
    for start in range(len(reader)):
        reader.set_range(start, start + 1)
        seen.append([len(batch["images"]) for batch in iter(reader.get_next, None)])
    assert seen == [[4], [4], [1]]
    assert all(settings["extra_options"]["CalibStridedMinMax"] == 1 for settings in quantize.CALIBRATIONS)


def test_its_metadata_is_kept(graph: bytes) -> None:
    content, _ = quantized(graph, images(16, 0), images(4, 1))
    found = {each.key: each.value for each in onnx.load_from_string(content).metadata_props}
    assert found["student"] == "resnet18"


def test_a_graph_that_int8_spoils_is_refused(graph: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantize, "mean_cosine", lambda *given: 0.5)
    with pytest.raises(PipelineError, match=r"in int8 the features have a mean cosine of 0\.500"):
        quantized(graph, images(16, 0), images(4, 1))


def test_what_cannot_be_quantized_is_a_sentence() -> None:
    with pytest.raises(
        PipelineError, match=r"ONNX Runtime cannot quantize this student \(.*\): leave --int8 out"
    ):
        quantized(b"no graph", images(4, 0), images(4, 1))


def test_export_calibrates_on_the_runs_images(
    packed: Path, cached: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    distill(settings(packed, cached, run, epochs=1))
    export_student(ExportConfig(run=run, out=tmp_path / "s.onnx", int8=True))
    assert re.search(r"int8, mean cosine (0\.99|1\.00)", capsys.readouterr().out)
    assert "in int8, calibrated on training images" in (tmp_path / "s.onnx.card.md").read_text()
    for changes in ({"half": True}, {"out": tmp_path / "s.safetensors"}):
        with pytest.raises(WrongUse, match="--int8 is for ONNX files, and not with --half"):
            export_student(ExportConfig(**{"run": run, "out": tmp_path / "t.onnx", "int8": True, **changes}))
