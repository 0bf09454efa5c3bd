"""The demo in a small form: the three verbs of the Makefile, from images to a table."""

import json
import subprocess
from pathlib import Path

import pytest

from pipeline.images.demo_data import demo_data
from tests.support import drawn_clip_art

pytestmark = pytest.mark.long

TINY = "--image-size 32 --epochs 2 --batch-size 64 --anchors 64 --device cpu"


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo")
    with pytest.MonkeyPatch.context() as patch:
        drawn_clip_art.install(patch, drawn_clip_art.write_drawings(folder / "package", 40))
        return demo_data(folder / "drawings")


def make(images: Path, *arguments: str) -> str:
    folder = images.parent
    places = [f"{name}={folder}/{name.lower()}" for name in ("DATASET", "RUN")]
    command = ["make", f"DATA={images}", f"CACHE={folder}/cache.zarr", *places, *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_three_verbs_lead_from_images_to_a_table(images: Path) -> None:
    cache = images.parent / "cache.zarr"
    make(images, "cache-teacher")
    before = {file: file.stat().st_mtime_ns for file in cache.rglob("*")}
    make(images, "distill", "STUDENT=mobilenet_v2", f"RUN={images.parent}/other", f"DISTILL_ARGS={TINY}")
    make(images, "distill", "STUDENT=resnet18", f"DISTILL_ARGS={TINY}")
    assert {file: file.stat().st_mtime_ns for file in cache.rglob("*")} == before
    table = make(images, "eval", f"EVAL_ARGS={images.parent}/run {images.parent}/other --device cpu")
    for row in ("teacher EfficientNet-Lite0", "resnet18 1q", "mobilenet_v2 1q"):
        assert row in table
    metrics = json.loads((images.parent / "run" / "metrics.json").read_text())
    assert set(metrics["metrics"]) == {"nn1", "nn20", "linear", "ca", "ca_std"}
    # three classes of another shape and colour each: even a network that hardly learned anything is far from chance
    assert metrics["metrics"]["nn1"] > 0.6
    assert metrics["provenance"]["commit"]
