"""An exported student runs without this project, by the code on its card."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import torchvision
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load_file

from cache.reader import open_store
from pipeline.embedding.embed_command import embed_any
from pipeline.errors import PipelineError, WrongUse
from pipeline.export.export import export_student
from pipeline.models.student_file import load_run_student
from pipeline.settings.commands import EmbedConfig, ExportConfig
from pipeline.training.distill import distill
from tests.support.exported_run import calibrated, distilled
from tests.support.training_runs import settings

TINY = "tests.support.tiny_student:plain"
STUDENTS = {
    "resnet18": 32,
    "mobilenet_v2": 40,
    "timm/vit_tiny_patch16_224": 32,
    TINY: 24,
}
# Runs the code of each card in one process, the ONNX file's first, and keeps what it calls `features`.
OTHER_PROGRAM = """
import runpy, sys
import numpy
for place, code in enumerate(sys.argv[1:]):
    features = runpy.run_path(code)["features"]
    assert place or "torch" not in sys.modules
    numpy.save(code + ".npy", features)
assert not {name.partition(".")[0] for name in sys.modules} & {"pipeline", "cache"}
"""
BY_TIMM = """
import timm, torch
from safetensors.torch import load_file
model = timm.create_model("resnet18", num_classes=0)
model.load_state_dict(load_file("resnet18.safetensors"))
images = torch.ones(1, 3, 32, 32)
with torch.inference_mode():
    features = model.eval()(images)
"""


def code_of(card: Path) -> str:
    (code,) = re.findall(r"```python\n(.*?)```", card.read_text(), re.DOTALL)
    return code


def expected(run: Path, path: Path) -> NDArray[np.float32]:
    backbone = load_run_student(run)
    with Image.open(path) as image, torch.inference_mode():
        return backbone.module(backbone.preprocessing.transform(image.convert("RGB"))[None]).numpy()


@pytest.mark.long
def test_the_cards_code_gives_the_students_features_without_this_project(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (61, 50, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "image.jpg")
    runs = {}
    for name, size in STUDENTS.items():
        file = name.replace("/", "-")
        runs[file] = distilled(tmp_path / "runs" / file, calibrated(name, size))
        form = "onnx" if file == TINY else "safetensors"
        export_student(ExportConfig(run=runs[file], out=tmp_path / f"{file}.{form}"))
    codes = [f"{TINY}.onnx", *(f"{file}.safetensors" for file in runs if file != TINY)]
    for code in codes:
        (tmp_path / f"{code}.py").write_text(code_of(tmp_path / f"{code}.card.md"))
    (tmp_path / "by-timm.py").write_text(BY_TIMM)
    scripts = [*(f"{code}.py" for code in codes), "by-timm.py"]
    subprocess.run([sys.executable, "-I", "-c", OTHER_PROGRAM, *scripts], cwd=tmp_path, check=True)
    for code in codes:
        wanted = expected(runs[code.rpartition(".")[0]], tmp_path / "image.jpg")
        # float32 sums in another order
        np.testing.assert_allclose(np.load(tmp_path / f"{code}.py.npy"), wanted, rtol=1e-3, atol=1e-4)
    with torch.inference_mode():
        ones = load_run_student(runs["resnet18"]).module(torch.ones(1, 3, 32, 32)).numpy()
    np.testing.assert_allclose(np.load(tmp_path / "by-timm.py.npy"), ones, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("half", [False, True])
def test_the_exported_student_is_torchvisions_network(tmp_path: Path, half: bool) -> None:
    student = calibrated("resnet18", 32)
    run = distilled(tmp_path / "run", student)
    export_student(ExportConfig(run=run, out=tmp_path / "out.safetensors", half=half))
    plain = torchvision.models.resnet18()
    plain.fc = torch.nn.Identity()
    plain.load_state_dict(load_file(tmp_path / "out.safetensors"))
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    # half precision keeps 11 bits of each weight; features of this net are about 1
    tolerance = 2e-2 if half else 0
    torch.testing.assert_close(plain.eval()(images), student(images), atol=tolerance, rtol=tolerance)


def test_an_exported_file_embeds_as_its_run_does(pictures: Path, tmp_path: Path) -> None:
    run = distilled(tmp_path / "run", calibrated("tests.support.tiny_student:plain", 16))
    export_student(ExportConfig(run=run, out=tmp_path / "student.safetensors"))
    folder = pictures / "val" / "class-1"
    embed_any(EmbedConfig(data=folder, out=tmp_path / "e.parquet", run=tmp_path / "student.safetensors"))
    embed_any(EmbedConfig(data=folder, out=tmp_path / "e.npy", run=run))
    table, array = pq.read_table(tmp_path / "e.parquet"), np.load(tmp_path / "e.npy")
    assert array.shape == (10, 32)
    np.testing.assert_array_equal(np.float32(table["embedding"].to_pylist()), array)
    assert table["path"].to_pylist() == (tmp_path / "e.names.txt").read_text().splitlines()
    assert sorted(table["path"].to_pylist()) == sorted(f"{number}.png" for number in range(10))


def test_a_runs_own_student_is_not_written_over(tmp_path: Path) -> None:
    run = distilled(tmp_path / "run", calibrated("tests.support.tiny_student:plain", 16))
    before = (run / "student.safetensors").read_bytes()
    with pytest.raises(
        WrongUse, match=r"run/student\.safetensors is the student of a run, which would be lost"
    ):
        export_student(ExportConfig(run=run, out=run / "student.safetensors", half=True))
    assert (run / "student.safetensors").read_bytes() == before


def test_what_is_no_run_and_no_exported_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        WrongUse, match=r"run folder .*student.pt does not exist; give a run folder, or a file written by"
    ):
        load_run_student(tmp_path / "student.pt")
    for name in ("absent.safetensors", "absent.onnx"):
        with pytest.raises(PipelineError, match=f"{name} does not exist"):
            load_run_student(tmp_path / name)


@pytest.mark.parametrize(
    ("out", "form", "expected"),
    [
        ("out.bin", None, r"'.bin': expected .safetensors or .onnx"),
        ("out", None, r"'': expected .safetensors or .onnx"),
        ("out.onnx", "safetensors", r"'.onnx': expected .safetensors; rename"),
        ("out.safetensors", "onnx", r"'.safetensors': expected .onnx; rename"),
    ],
)
def test_another_suffix_is_refused(tmp_path: Path, out: str, form: str | None, expected: str) -> None:
    with pytest.raises(WrongUse, match=expected):
        export_student(ExportConfig(run=tmp_path, out=tmp_path / out, format=form))
    assert not list(tmp_path.iterdir())


def test_the_lineage_reaches_the_card_from_the_cache(packed: Path, cached: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    distill(settings(packed, cached, run, student=TINY, epochs=0))
    export_student(ExportConfig(run=run, out=tmp_path / "out.safetensors"))
    card = (tmp_path / "out.safetensors.card.md").read_text()
    split = open_store(cached).split("train")
    assert f"160 of `train`, 4 classes; id {split.dataset['images'][:16]}" in card
    assert "| teacher's architecture | planted |" in card
    assert f"| cache of embeddings | id {open_store(cached).id[:16]} |" in card
    assert "| teacher | not recorded |" in card  # the planted cache has no name
