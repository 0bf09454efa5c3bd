"""An exported ONNX file is a student like its run: the same embeddings in a store, another identity."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from pipeline.embedding.embed_command import embed_any
from pipeline.errors import PipelineError, WrongUse
from pipeline.export.export import export_student
from pipeline.models.student_file import load_run_student
from pipeline.settings.commands import EmbedConfig, ExportConfig
from pipeline.training.distill import distill
from tests.support.training_runs import settings


@pytest.fixture(scope="module")
def run(packed: Path, cached: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("onnx")
    distill(settings(packed, cached, folder / "run", epochs=1))
    for name, int8 in (("plain", False), ("int8", True)):
        export_student(ExportConfig(run=folder / "run", out=folder / f"{name}.onnx", int8=int8))
    return folder / "run"


def test_the_same_features_and_preprocessing(run: Path) -> None:
    file, folder = load_run_student(run.with_name("plain.onnx")), load_run_student(run)
    assert file.preprocessing == folder.preprocessing
    assert (file.dim, file.feature) == (folder.dim, folder.feature)
    assert file.architecture == f"{folder.architecture} in ONNX"
    size = folder.preprocessing.identity()["crop"]
    images = torch.randn(5, 3, size, size, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        torch.testing.assert_close(file.module(images), folder.module(images), rtol=1e-3, atol=1e-4)


def test_embeddings_of_each_can_be_compared(run: Path, packed: Path, tmp_path: Path) -> None:
    found = {}
    for source in (run, run.with_name("plain.onnx"), run.with_name("int8.onnx")):
        out = tmp_path / f"{source.stem}.npy"
        embed_any(EmbedConfig(data=packed, out=out, run=source))
        found[source.stem] = np.load(out).astype(np.float64)
    own, plain, int8 = found.values()
    assert (own * plain).sum(1).min() > 1 - 1e-4
    assert 0.98 < (own * int8).sum(1).mean() < (own * plain).sum(1).mean()


def test_each_file_has_an_identity_of_its_own(run: Path) -> None:
    sources = (run, run.with_name("plain.onnx"), run.with_name("int8.onnx"))
    assert len({load_run_student(source).weights_sha256 for source in sources}) == 3


def test_another_image_size_is_refused(run: Path) -> None:
    with pytest.raises(WrongUse, match=r"takes images of \d+ px and no others: leave --image-size out"):
        load_run_student(run.with_name("plain.onnx"), image_size=96)


def test_what_is_no_student_is_a_sentence(run: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(run.with_name("plain.onnx").read_bytes()[:500])
    with pytest.raises(PipelineError, match=r"broken\.onnx is damaged \(.*\); export it again"):
        load_run_student(broken)
    with pytest.raises(PipelineError, match=r"nowhere\.onnx does not exist"):
        load_run_student(tmp_path / "nowhere.onnx")
    bare = onnx.load(run.with_name("plain.onnx"))
    del bare.metadata_props[:]
    onnx.save(bare, tmp_path / "bare.onnx")
    with pytest.raises(
        PipelineError, match=r"bare\.onnx lacks the metadata of a student: KeyError\('student'\)"
    ):
        load_run_student(tmp_path / "bare.onnx")
