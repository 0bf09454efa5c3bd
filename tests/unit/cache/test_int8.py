"""Stores whose embeddings are int8 codes with a scale for each row."""

import json
from pathlib import Path

import numpy as np
import pytest

from cache.audit import audit
from cache.errors import FormatMismatch
from cache.int8 import quantized, widened
from cache.layout import INT8, ChunkKey, SplitShape, Status, encoding_of
from cache.reader import Split, open_store
from cache.restore import damaged_metadata
from cache.writer import create_split, create_store, write_chunk
from tests.support import tiny_store
from tests.support.tiny_store import TEACHER, chunk_of, dataset_of, labels_of, thumbs_of

SHAPE = SplitShape(rows=4096 + 100, views=2, dim=24, encoding=INT8)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("int8") / "cache.zarr"
    create_store(path, {**TEACHER, "dim": 24, "conversions": ["int8"]})
    create_split(
        path,
        "train",
        dataset=dataset_of(SHAPE),
        rows=SHAPE.rows,
        views=2,
        dim=24,
        labels=labels_of(SHAPE),
        thumbs=thumbs_of(SHAPE),
        encoding=INT8,
    )
    for key in SHAPE.chunk_keys:
        write_chunk(path, "train", key, chunk_of(SHAPE, key))
    return path


@pytest.fixture(scope="module")
def split(path: Path) -> Split:
    return open_store(path).split("train")


@pytest.mark.parametrize("view", [0, 1])
def test_gathered_rows_are_codes_times_scale_bit_for_bit(split: Split, view: int) -> None:
    embedding = tiny_store.column_of(SHAPE, "embedding")[view]
    expected = widened(*quantized(embedding))
    rows = np.random.default_rng(0).permutation(SHAPE.rows)
    found = split.gather(rows, view)
    np.testing.assert_array_equal(found.view(np.uint16), expected[rows].view(np.uint16))
    usable = tiny_store.column_of(SHAPE, "status")[view] == Status.OK
    np.testing.assert_array_equal(np.isfinite(expected).all(1), usable)


def test_a_row_keeps_its_direction_and_has_unit_length() -> None:
    draws = np.random.default_rng(0).normal(size=(500, 1280))
    rows = draws / np.linalg.norm(draws, axis=1, keepdims=True)
    codes, scale = quantized(rows)
    exact = codes.astype(np.float64) * scale[:, None].astype(np.float64)
    np.testing.assert_allclose(np.linalg.norm(exact, axis=1), 1, rtol=1e-6)
    # a step is 1/127 of the largest of 1,280 values, about 3.3 standard deviations: an error of 0.75 % of the length
    assert (exact * rows).sum(1).min() > 0.9999
    assert np.abs(codes).max(1).tolist() == [127] * 500


def test_rows_without_a_value_are_zero_codes_that_read_as_nan() -> None:
    codes, scale = quantized(np.array([[np.nan, np.nan], [0.6, -0.8]], np.float16))
    assert codes.tolist() == [[0, 0], [95, -127]]
    assert np.isnan(scale).tolist() == [True, False]
    assert np.isnan(widened(codes, scale)).tolist() == [[True, True], [False, False]]


@pytest.mark.parametrize("maps", [0, 1, 3])
def test_chunks_that_cannot_be_mapped_are_read(
    path: Path, split: Split, monkeypatch: pytest.MonkeyPatch, maps: int
) -> None:
    rows = np.random.default_rng(1).integers(0, SHAPE.rows, 300)
    with monkeypatch.context() as patch:
        patch.setattr("cache.unmapped_rows.maps_left", lambda: maps)
        found = open_store(path).split("train").gather(rows, 1)
    np.testing.assert_array_equal(found.view(np.uint16), split.gather(rows, 1).view(np.uint16))


def test_half_the_bytes_and_every_byte_is_checked(path: Path, split: Split) -> None:
    file = path / "train/embedding/c/0/0/0"
    assert file.stat().st_size == 4096 * 24 + 4
    assert audit(path).faults == ()
    scale = path / "train/scale/c/1/1"
    before = scale.read_bytes()
    try:
        scale.write_bytes(bytes([before[0] ^ 1]) + before[1:])
        assert [fault.file for fault in audit(path).faults] == ["scale/c/1/1"]
    finally:
        scale.write_bytes(before)


def test_a_lost_zarr_json_is_known_from_the_teacher(path: Path) -> None:
    file = path / "train/embedding/zarr.json"
    before = file.read_bytes()
    try:
        file.write_bytes(b"{}")
        assert damaged_metadata(path, "train", [dataset_of(SHAPE)], SHAPE.rows) == {
            "embedding/zarr.json": before
        }
    finally:
        file.write_bytes(before)
    assert json.loads(before)["data_type"] == "int8"
    assert encoding_of({"conversions": ["int8", "float16"]}) == "float16"


def test_an_encoding_of_a_later_version_is_refused(path: Path) -> None:
    file = path / "train/zarr.json"
    before = file.read_bytes()
    try:
        file.write_bytes(before.replace(b'"int8"', b'"int2"'))
        with pytest.raises(FormatMismatch, match="encoded as 'int2', which this version cannot read"):
            open_store(path).split("train")
    finally:
        file.write_bytes(before)


def test_a_shape_has_a_known_encoding() -> None:
    with pytest.raises(ValueError, match="expected one of the encodings float16, int8"):
        SplitShape(rows=1, views=1, dim=1, encoding="int2")
    assert SHAPE.rows_of(ChunkKey(0, 1)) == range(4096, 4196)
