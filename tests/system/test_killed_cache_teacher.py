"""`cache-teacher` killed as a whole, or one of its workers."""

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from cache.reader import open_store
from pipeline.embedding.cache_teacher import embed
from pipeline.errors import PipelineError
from pipeline.images.dataset import Dataset
from pipeline.teachers.backbone_spec import BackboneSpec
from tests.support.mixed_images import WHITE_ALWAYS, packed_mixed_images
from tests.support.tiny_store import states

pytestmark = pytest.mark.long

CHUNK = 64  # rows of 131,072 float16, near 16 MiB
EMBED_SLOWLY = """
import sys
from pathlib import Path
from pipeline.embedding.cache_teacher import embed
from pipeline.images.dataset import open_dataset
from pipeline.teachers.backbone_spec import BackboneSpec

if __name__ == "__main__":
    spec = BackboneSpec(kind="teacher", name="tests.support.tiny_teacher:slow")
    embed(spec, open_dataset(Path(sys.argv[1])), Path(sys.argv[2]), workers=1, batch_size=16)
"""


def teacher(function: str) -> BackboneSpec:
    return BackboneSpec(kind="teacher", name=f"tests.support.tiny_teacher:{function}")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return packed_mixed_images(tmp_path_factory.mktemp("mixed"))


@pytest.fixture(scope="module")
def whole(dataset: Dataset, scheduler: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store written without an interruption."""
    out = tmp_path_factory.mktemp("store") / "whole.zarr"
    embed(teacher("wide"), dataset, out, workers=1, batch_size=16, scheduler=scheduler)
    return out


def test_a_killed_command_resumes_to_the_same_bytes(
    dataset: Dataset, whole: Path, scheduler: str, tmp_path: Path
) -> None:
    out = tmp_path / "s.zarr"
    process = subprocess.Popen(
        [sys.executable, "-c", EMBED_SLOWLY, str(dataset.path), str(out)],
        env={**os.environ, "SLOW_TEACHER": "0.5"},
    )
    wait_for(out / "train" / "embedding" / "c" / "0" / "0" / "0", process)
    children = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.wait()
    assert children
    assert not psutil.wait_procs(children, timeout=10)[1], "a worker outlived its parent"
    before = states(out)
    report = embed(teacher("slow"), dataset, out, workers=1, batch_size=16, scheduler=scheduler)
    after = states(out)
    # a chunk whose write was cut short has left its temporary file, which counts for nothing
    chunks = [name for name in before if name.startswith("train/embedding/c/")]
    done = [name for name in chunks if not name.endswith(".tmp")]
    assert 0 < len(done) == 4 - report.chunks
    assert all(after[name] == before[name] for name in done)
    assert comparable(out) == comparable(whole)


def comparable(store: Path) -> dict[str, bytes]:
    """Return the files of a store's splits, without the store's attributes and ledgers, which name the teacher."""
    files = {name: data for name, (_, data) in states(store).items()}
    return {name: data for name, data in files.items() if "/" in name and "checksum" not in name}


def wait_for(path: Path, process: subprocess.Popen[bytes]) -> None:
    while not path.exists():
        assert process.poll() is None
        time.sleep(0.05)


def test_a_chunk_that_kills_two_workers_is_named_and_the_rest_is_computed(
    dataset: Dataset, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DEADLY_RECORD", str(tmp_path / "record"))
    environment = os.environ.copy()
    named = r"3 of 4 chunks were computed; train chunk 2 \(rows 128 to 159\): it killed 2 workers"
    with pytest.raises(PipelineError, match=named):
        embed(teacher("deadly"), dataset, tmp_path / "s.zarr", workers=1, batch_size=16)
    assert sorted((tmp_path / "record").read_text().split()) == ["always", "always", "once"]
    assert os.environ == environment
    split = open_store(tmp_path / "s.zarr").split("train")
    assert [key.index for key in split.absent] == [WHITE_ALWAYS // CHUNK] == [2]
    rows = np.arange(2 * CHUNK)
    np.testing.assert_array_equal(split.gather(rows), open_store(whole).split("train").gather(rows))
