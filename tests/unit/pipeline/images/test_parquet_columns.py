"""Parquet files of the hub: images and labels in other columns, other types, and below data/."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.errors import WrongUse
from pipeline.images.sources import open_sources, reopen
from pipeline.images.tables import Choice

IMAGES = [
    {"bytes": b"0", "path": "0.png"},
    {"bytes": b"1", "path": "1.png"},
    {"bytes": b"2", "path": "2.png"},
]


def write(path: Path, table: pa.Table, features: dict[str, Any] | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if features:
        table = table.replace_schema_metadata(
            {b"huggingface": json.dumps({"info": {"features": features}}).encode()}
        )
    pq.write_table(table, path)


def labels_of(tmp_path: Path, labels: pa.Array) -> tuple[list[int], tuple[str, ...]]:
    write(tmp_path / "train.parquet", pa.table({"image": IMAGES, "label": labels}))
    source = open_sources(tmp_path)["train"]
    return source.labels.tolist(), source.classes


@pytest.mark.parametrize(
    "kind",
    [pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64(), pa.int8(), pa.int16(), pa.int32(), pa.float64()],
)
def test_labels_may_be_numbers_of_any_type(tmp_path: Path, kind: pa.DataType) -> None:
    assert labels_of(tmp_path, pa.array([1, None, 0], kind)) == ([1, -1, 0], ("0", "1"))


def test_labels_may_be_missing_words_or_truth_values(tmp_path: Path) -> None:
    assert labels_of(tmp_path, pa.array([1.0, float("nan"), 0.0])) == ([1, -1, 0], ("0", "1"))
    assert labels_of(tmp_path, pa.array(["dog", None, "cat"])) == ([1, -1, 0], ("cat", "dog"))
    assert labels_of(tmp_path, pa.array(["b", "a", "b"]).dictionary_encode()) == ([1, 0, 1], ("a", "b"))
    assert labels_of(tmp_path, pa.array([True, False, None])) == ([1, 0, -1], ("false", "true"))
    assert labels_of(tmp_path, pa.nulls(3)) == ([-1, -1, -1], ())


@pytest.mark.parametrize("missing", [None, pa.nulls(3), pa.nulls(3, pa.string()), pa.nulls(3, pa.int64())])
def test_a_split_without_labels_may_stand_beside_words(tmp_path: Path, missing: pa.Array | None) -> None:
    write(tmp_path / "train.parquet", pa.table({"image": IMAGES, "label": ["dog", "cat", None]}))
    other = {"image": IMAGES} if missing is None else {"image": IMAGES, "label": missing}
    write(tmp_path / "test.parquet", pa.table(other))
    found = open_sources(tmp_path)
    assert found["train"].classes == found["test"].classes == ("cat", "dog")
    assert (found["train"].labels.tolist(), found["test"].labels.tolist()) == ([1, 0, -1], [-1] * 3)


@pytest.mark.long
@pytest.mark.parametrize("is_struct", [False, True])
def test_a_row_group_may_hold_more_than_2_gib(tmp_path: Path, is_struct: bool) -> None:
    rows = 4400
    image = pa.DictionaryArray.from_arrays(
        pa.array(np.arange(rows) % 2, pa.int32()), pa.array([b"a" * 500_000, b"b" * 500_000])
    )
    schema = pa.schema({"image": pa.struct({"bytes": pa.binary()}) if is_struct else pa.binary()})
    with pq.ParquetWriter(tmp_path / "train.parquet", schema) as writer:
        parts = [image.slice(start, 1100).cast(pa.binary()) for start in range(0, rows, 1100)]
        column = pa.chunked_array(parts)
        if is_struct:
            column = pa.chunked_array([pa.StructArray.from_arrays([part], ["bytes"]) for part in parts])
        writer.write_table(pa.table({"image": column}, schema=schema), row_group_size=rows)
    assert pq.read_metadata(tmp_path / "train.parquet").num_row_groups == 1
    source = open_sources(tmp_path)["train"]
    assert [source.read(row)[:1] for row in (0, 1, rows - 2, rows - 1)] == [b"a", b"b", b"a", b"b"]


@pytest.mark.parametrize(
    "labels",
    [
        pa.array([0.5, 1, 2]),
        pa.array([2**63, 0, 0], pa.uint64()),
        pa.array([[0], [1], [2]]),
        pa.array([b"a", b"b", b"c"]),
    ],
)
def test_other_labels_are_refused_in_a_sentence(tmp_path: Path, labels: pa.Array) -> None:
    with pytest.raises(WrongUse, match="column label: expected whole numbers"):
        labels_of(tmp_path, labels)


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary()])
def test_images_may_be_plain_bytes_in_the_only_such_column(tmp_path: Path, kind: pa.DataType) -> None:
    table = pa.table({"img": pa.array([b"x", b"y", None], kind), "label": [0, 1, 1]})
    write(tmp_path / "train.parquet", table)
    source = open_sources(tmp_path)["train"]
    assert source.place == {"files": ["train.parquet"], "column": "img"}
    again = reopen(tmp_path, source.place, source.names, source.labels, source.classes)
    for each in (source, again):
        assert [each.read(0), each.read(1)] == [b"x", b"y"]
        with pytest.raises(OSError, match="a path and no bytes"):
            each.read(2)


def test_columns_may_be_chosen_and_several_are_not_guessed(tmp_path: Path) -> None:
    names = {"fine_label": {"names": ["a", "b", "c"]}, "coarse_label": {"names": ["x", "y"]}}
    table = pa.table({"img": IMAGES, "mask": IMAGES, "fine_label": [2, 0, 1], "coarse_label": [0, 1, 0]})
    write(tmp_path / "train.parquet", table, names)
    with pytest.raises(WrongUse, match=r"has images in img, mask; choose one with --image-column"):
        open_sources(tmp_path)
    source = open_sources(tmp_path, Choice(image_column="img"))["train"]
    assert (source.labels.tolist(), source.classes) == ([-1, -1, -1], ())
    source = open_sources(tmp_path, Choice(image_column="img", label_column="fine_label"))["train"]
    assert (source.labels.tolist(), source.classes) == ([2, 0, 1], ("a", "b", "c"))
    for choice in (Choice(image_column="imgs"), Choice(image_column="img", label_column="fine_labels")):
        with pytest.raises(WrongUse, match=r"has no column .*did you mean"):
            open_sources(tmp_path, choice)
    write(tmp_path / "train.parquet", table.drop(["mask", "coarse_label"]), names)
    source = open_sources(tmp_path)["train"]
    assert (source.labels.tolist(), source.classes) == ([2, 0, 1], ("a", "b", "c"))


def test_a_repository_of_the_hub_has_its_files_in_data_and_test_may_be_val(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("")
    write(tmp_path / "data/train-00000-of-00001.parquet", pa.table({"image": IMAGES}))
    write(tmp_path / "data/test-00000-of-00001.parquet", pa.table({"image": IMAGES[:1]}))
    assert list(open_sources(tmp_path)) == ["train", "test"]
    sources = open_sources(tmp_path, Choice(val="test"))
    assert sources["val"].place == {"files": ["data/test-00000-of-00001.parquet"]}
    assert sources["train"].read(2) == b"2"
    with pytest.raises(WrongUse, match=r"--val-split validation: .* has no files of validation"):
        open_sources(tmp_path, Choice(val="validation"))
