"""Golden files of format 1: this version reads them, continues from them, and writes the same."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cache.layout import ChunkKey
from cache.reader import open_store
from cache.writer import ChunkRows, create_split, create_store, write_chunk
from pipeline.errors import PipelineError
from pipeline.images.beton_writer import check_beton
from pipeline.images.dataset import open_dataset
from pipeline.images.pack import pack
from pipeline.settings.commands import PackConfig
from pipeline.settings.training import DistillConfig
from pipeline.training.distill import distill
from tests.golden.values import values
from tests.support.golden_copy import GOLDEN, golden_copy
from tests.support.tiny_store import contents

EXPECTED = json.loads((GOLDEN / "expected.json").read_text())
ROWS = {"train": 8, "val": 4}


@pytest.fixture(scope="module")
def golden(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return golden_copy(tmp_path_factory.mktemp("golden"))


@pytest.fixture(scope="module")
def found(golden: Path) -> dict[str, Any]:
    return values(golden)


@pytest.mark.parametrize("split", ROWS)
def test_a_dataset_holds_what_it_held(found: dict[str, Any], split: str) -> None:
    now, then = dict(found["dataset"][split]), dict(EXPECTED["dataset"][split])
    # JPEG decoders round differently: one level of 255 is 0.018 of a channel's std
    assert np.allclose(now.pop("pixels"), then.pop("pixels"), atol=0.02)
    assert now == then
    assert now["rows"] == list(range(ROWS[split]))


def test_a_store_holds_what_it_held_to_the_last_bit(found: dict[str, Any]) -> None:
    assert found["store"] == EXPECTED["store"]


def test_a_store_has_a_row_of_every_status() -> None:
    assert {status for row in EXPECTED["store"]["splits"]["train"]["status"] for status in row} == {1, 2, 3}


@pytest.mark.parametrize(("split", "rows"), ROWS.items())
def test_a_chunk_file_is_plain_memory(split: str, rows: int) -> None:
    file = GOLDEN / "teacher.zarr" / split / "embedding" / "c" / "0" / "0" / "0"
    held = np.fromfile(file, "<f2", count=rows * 24).reshape(rows, 24)
    then = np.array(EXPECTED["store"]["splits"][split]["embedding"], np.float64)
    assert np.array_equal(held.astype(np.float64), then, equal_nan=True)
    assert file.stat().st_size == 4096 * 24 * 2 + 4


def test_a_store_is_sound_and_complete(golden: Path) -> None:
    for name in ROWS:
        split = open_store(golden / "teacher.zarr").split(name)
        assert split.complete
        assert split.verify()


def test_a_run_gives_the_features_it_gave(found: dict[str, Any]) -> None:
    now, then = dict(found["run"]), dict(EXPECTED["run"])
    # another build sums convolutions in another order: float32 to 5 digits
    assert np.allclose(now.pop("features"), then.pop("features"), rtol=1e-5, atol=1e-6)
    assert now == then


def test_a_beton_holds_row_i_at_sample_i(golden: Path) -> None:
    for split in open_dataset(golden / "dataset").splits.values():
        check_beton(split.beton, split.labels)
        with pytest.raises(PipelineError, match="row i at sample i"):
            check_beton(split.beton, split.labels[::-1])


def test_pack_finds_the_images_of_the_dataset_unchanged(golden: Path) -> None:
    before = contents(golden / "dataset")
    pack(PackConfig(data=golden / "pictures", out=golden / "dataset", workers=1))
    after = contents(golden / "dataset")
    assert before.keys() == after.keys()
    assert {name for name in after if after[name] != before[name]} <= {
        "dataset.json"
    }  # the folder of the images


@pytest.mark.parametrize("inexact", [True, False])  # its versions and threads need not be those of today
def test_a_finished_run_is_known_as_finished(
    golden: Path, capsys: pytest.CaptureFixture[str], inexact: bool
) -> None:
    before = contents(golden / "run")
    plain = DistillConfig(dataset=golden / "dataset", cache=golden / "teacher.zarr", run=golden / "run")
    given = EXPECTED["run"]["config"] | {"dataset": plain.dataset, "cache": plain.cache, "run": plain.run}
    given |= {"crop_scale": tuple(given["crop_scale"]), "inexact": inexact}
    distill(DistillConfig(**given))
    assert "is finished: 4 steps" in capsys.readouterr().out
    after = contents(golden / "run")
    after.pop(".lock", None)
    assert after == before


def test_the_writer_writes_the_same_files(tmp_path: Path) -> None:
    then = EXPECTED["store"]
    create_store(tmp_path / "teacher.zarr", then["teacher"], then["origin"])
    for name, split in then["splits"].items():
        write_split(tmp_path / "teacher.zarr", name, split)
    now, golden = contents(tmp_path / "teacher.zarr"), contents(GOLDEN / "teacher.zarr")
    assert now.keys() >= golden.keys()  # a later version may write more files
    for name in golden:
        if name.endswith("zarr.json"):  # another version of zarr may format its JSON differently
            assert json.loads(now[name]) == json.loads(golden[name]), name
        else:
            assert now[name] == golden[name], name


def write_split(store: Path, name: str, split: dict[str, Any]) -> None:
    labels, thumbs = np.array(split["label"], np.int64), np.array(split["thumb"], np.uint64)
    shape = {"rows": ROWS[name], "views": 1, "dim": 24}
    create_split(store, name, dataset=split["dataset"], labels=labels, thumbs=thumbs, **shape)
    rows = ChunkRows(
        embedding=np.array(split["embedding"], np.float64).astype(np.float16),
        norm=np.array(split["norm"][0], np.float32),
        crop=np.array(split["crop"][0], np.float32),
        status=np.array(split["status"][0], np.uint8),
    )
    write_chunk(store, name, ChunkKey(0, 0), rows)
