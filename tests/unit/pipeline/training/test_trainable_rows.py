"""Training on a cache that is still being written: on its complete chunks, the same ones to the end."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cache.errors import IncompleteStore
from cache.layout import ChunkKey, SplitShape, Status
from cache.reader import open_store
from cache.writer import ChunkRows, create_split, create_store, normalize, write_chunk
from pipeline.errors import PipelineError
from pipeline.images.dataset import open_dataset
from pipeline.results.run_record import read_config
from pipeline.runtime.device import CPU
from pipeline.runtime.distributed import World
from pipeline.training.distill import distill
from pipeline.training.student_run import StudentRun
from pipeline.training.trainable_rows import (
    describe_excluded,
    trainable_rows,
    training_chunks,
    written_chunks,
)
from tests.support.tiny_store import create, write
from tests.support.training_runs import assert_same_run, distill_until_crash, settings
from tests.support.two_ranks import on_two_ranks

CHUNK, UNREADABLE, ZERO = 64, 5, 140


def write_chunks(packed: Path, cache: Path, *indices: int) -> None:
    """Write some of the three chunks of `packed`'s training rows, into a new cache or an existing one."""
    split = open_dataset(packed).splits["train"]
    create_store(cache, {"architecture": "planted", "dim": 24})
    made = {"dataset": split.identity, "labels": split.labels, "thumbs": split.thumbs}
    create_split(cache, "train", rows=split.rows, views=1, dim=24, **made)
    features = np.random.default_rng(1).normal(size=(split.rows, 24)).astype(np.float32)
    features[ZERO] = 0
    embedding, norm, status = normalize(features)
    embedding[UNREADABLE], norm[UNREADABLE], status[UNREADABLE] = np.nan, np.nan, Status.UNREADABLE
    crop = np.tile(np.float32([0, 0, 1, 1, 0]), (split.rows, 1))
    for index in indices:
        part = slice(index * CHUNK, (index + 1) * CHUNK)
        chunk = ChunkRows(embedding=embedding[part], norm=norm[part], crop=crop[part], status=status[part])
        write_chunk(cache, "train", ChunkKey(0, index), chunk)


@pytest.fixture
def growing(packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of `packed` with chunks 0 and 2 of 3: 96 of 160 rows, 94 of them trainable."""
    monkeypatch.setattr("cache.layout.LARGEST_CHUNK_ROWS", CHUNK)
    write_chunks(packed, tmp_path / "growing.zarr", 0, 2)
    return tmp_path / "growing.zarr"


def test_an_incomplete_cache_is_refused_with_how_much_is_there(
    packed: Path, growing: Path, tmp_path: Path
) -> None:
    with pytest.raises(IncompleteStore, match=r"has 2 of 3 chunks; .*, 96 of 160 rows, with --partial"):
        distill(settings(packed, growing, tmp_path / "run"))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("objective", ["1q", "crd", "cc"])
def test_only_rows_of_complete_chunks_are_trained_on(
    packed: Path,
    growing: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    objective: str,
) -> None:
    train_step, seen = StudentRun.train_step, set()

    def spy(self: StudentRun, batch, rate):  # type: ignore[no-untyped-def]
        seen.update(batch.rows.tolist())
        train_step(self, batch, rate)

    monkeypatch.setattr(StudentRun, "train_step", spy)
    config = settings(
        packed, growing, tmp_path / "run", objective=objective, batch_size=47, anchors=None, clusters=8
    )
    distill(replace(config, partial=True))
    assert seen == {*range(64), *range(128, 160)} - {UNREADABLE, ZERO}
    reasons = "64 in 1 of 3 chunks not cached yet, 1 unreadable, 1 with a zero or non-finite embedding"
    assert f"on 94 rows (left out: {reasons})" in capsys.readouterr().out
    record = read_config(tmp_path / "run")
    assert record["config"]["partial"]
    assert record["made_of"]["chunks"] == [0, 2]


def test_a_run_keeps_its_rows_while_the_cache_grows(packed: Path, growing: Path, tmp_path: Path) -> None:
    config = settings(packed, growing, tmp_path / "whole", batch_size=20, anchors=None, partial=True)
    distill(config)
    write_chunks(packed, growing, 1)
    # as a run that was killed before its first checkpoint left it
    (tmp_path / "killed").mkdir()
    shutil.copy(config.run / "config.json", tmp_path / "killed")
    distill(replace(config, run=tmp_path / "killed"))
    assert_same_run(config.run, tmp_path / "killed")
    with pytest.raises(PipelineError, match="partial: expected false, found true"):
        distill(replace(config, partial=False))
    distill(replace(config, run=tmp_path / "later"))
    assert json.loads((tmp_path / "later" / "config.json").read_text())["made_of"]["chunks"] == [0, 1, 2]


def test_a_run_whose_chunk_is_gone_does_not_resume(
    packed: Path, growing: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = settings(packed, growing, tmp_path / "run", batch_size=20, anchors=None, partial=True)
    distill_until_crash(config, monkeypatch)
    (growing / "train" / "embedding" / "c" / "0" / "2" / "0").unlink()
    with pytest.raises(IncompleteStore, match=r"began with chunks of .* that are missing \(2\)"):
        distill(config)


def test_a_cache_without_a_trainable_row_is_refused(packed: Path, tmp_path: Path) -> None:
    write_chunks(packed, tmp_path / "empty.zarr")
    split = open_store(tmp_path / "empty.zarr").split("train")
    assert written_chunks(split) == []
    with pytest.raises(PipelineError, match=r"no row .* to train with: 160 in 1 of 1 chunks not cached yet"):
        trainable_rows(split, [])


def test_a_complete_cache_has_no_excluded_rows(cached: Path) -> None:
    split = open_store(cached).split("train")
    assert describe_excluded(split, written_chunks(split)) == ""
    np.testing.assert_array_equal(trainable_rows(split, written_chunks(split)), split.eligible())


def agreed_chunks(rank: int, stores: list[Path], run: Path) -> list[int]:
    split = open_store(stores[rank]).split("train")
    return training_chunks(split, [run], World(rank=rank, size=2), CPU)


def test_ranks_agree_on_what_all_of_them_see(tmp_path: Path) -> None:
    shape, stores = (
        SplitShape(rows=2 * 4096 + 100, views=1, dim=8),
        [tmp_path / "0.zarr", tmp_path / "1.zarr"],
    )
    for store, indices in zip(stores, ([0, 2], [0, 1]), strict=True):
        create(store, shape)
        write(store, [ChunkKey(0, index) for index in indices], shape)
    assert on_two_ranks(agreed_chunks, tmp_path, stores, tmp_path / "run") == [[0], [0]]
