"""Sources of images: which rows, names, labels and classes folders and parquet files have."""

import hashlib
import json
import os
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import PipelineError, WrongUse
from pipeline.images.file_names import escape, unescape
from pipeline.images.sources import RecordedSource, open_sources, reopen


def plant(folder, *paths):
    """Write files whose content is their own path: a source reads any bytes."""
    for path in paths:
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(os.fsencode(path))
    return folder


def read_all(source):
    return [source.read(row) for row in range(len(source.names))]


def write_parquet(path, rows, *, labels=None, metadata=None, group=3):
    image = pa.array(rows, pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
    columns = {"image": image} if labels is None else {"image": image, "label": pa.array(labels, pa.int64())}
    table = pa.table(columns)
    if metadata is not None:
        table = table.replace_schema_metadata({b"huggingface": json.dumps(metadata).encode()})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, row_group_size=group)


def images(count, prefix="p"):
    return [{"bytes": f"{prefix}{i}".encode(), "path": f"{prefix}{i}.png"} for i in range(count)]


def test_train_and_val_folders_share_the_union_of_classes(tmp_path):
    plant(tmp_path, "train/dog/1.png", "train/cat/2.jpg", "train/cat/1.jpg", "val/eel/1.png", "val/cat/9.png")
    (tmp_path / "train/ant").mkdir()  # empty: no class
    sources = open_sources(tmp_path)
    assert list(sources) == ["train", "val"]
    assert sources["train"].names == ["cat/1.jpg", "cat/2.jpg", "dog/1.png"]
    assert sources["train"].labels.tolist() == [0, 0, 1]
    assert sources["val"].labels.tolist() == [0, 2]
    assert sources["train"].classes == sources["val"].classes == ("cat", "dog", "eel")
    assert read_all(sources["train"]) == [b"train/cat/1.jpg", b"train/cat/2.jpg", b"train/dog/1.png"]


def test_validation_is_val_and_there_may_be_test(tmp_path):
    plant(tmp_path, "train/a/1.png", "validation/a/1.png", "test/1.png")
    sources = open_sources(tmp_path)
    assert {split: source.labels.tolist() for split, source in sources.items()} == {
        "train": [0],
        "val": [0],
        "test": [-1],
    }


def test_class_folders_alone_are_train_at_any_depth(tmp_path):
    sources = open_sources(plant(tmp_path, "b/1.png", "a/deep/er/1.png", "a/2.png"))
    assert list(sources) == ["train"]
    assert sources["train"].names == ["a/2.png", "a/deep/er/1.png", "b/1.png"]
    assert sources["train"].labels.tolist() == [0, 0, 1]


def test_images_beside_class_folders_have_no_label_and_the_others_keep_theirs(tmp_path):
    sources = open_sources(plant(tmp_path, "z.png", "b/1.png", "a/2.png"))
    assert sources["train"].names == ["a/2.png", "b/1.png", "z.png"]
    assert sources["train"].labels.tolist() == [0, 1, -1]
    assert sources["train"].labels.dtype == np.int64
    assert sources["train"].classes == ("a", "b")


def test_a_split_may_be_flat(tmp_path):
    sources = open_sources(plant(tmp_path, "train/2.png", "train/1.png", "val/cat/1.png"))
    assert sources["train"].names == ["1.png", "2.png"]
    assert sources["train"].labels.tolist() == [-1, -1]
    assert sources["val"].labels.tolist() == [0]


def test_order_is_that_of_code_points(tmp_path):
    names = ["a/Z.png", "a/a.png", "a/é.png", "a/日本.png", "a/😀.png", "a-b/1.png", "B/1.png"]
    sources = open_sources(plant(tmp_path, *reversed(names)))
    assert sources["train"].names == ["B/1.png", "a-b/1.png", *names[:5]]
    assert sources["train"].classes == ("B", "a", "a-b")
    assert sources["train"].labels.tolist() == [0, 2, 1, 1, 1, 1, 1]


def test_names_that_are_not_utf8_survive(tmp_path):
    raw = os.fsencode(tmp_path) + b"/caf\xe9"
    os.mkdir(raw)
    with open(raw + b"/\xff\\1.png", "wb") as file:
        file.write(b"here")
    source = pickle.loads(pickle.dumps(open_sources(tmp_path)["train"]))
    assert source.names == ["caf\udce9/\udcff\\1.png"]
    assert source.read(0) == b"here"
    assert source.classes == (r"caf\xe9",)
    assert escape(source.names[0]) == r"caf\xe9/\xff\\1.png"
    assert unescape(escape(source.names[0])) == source.names[0]


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=30))
def test_escaped_names_are_text_and_come_back(raw):
    name = raw.decode("utf-8", "surrogateescape")
    text = escape(name)
    assert unescape(text) == name
    assert text.encode("utf-8").decode("utf-8") == text


def test_hidden_and_other_files_are_skipped(tmp_path):
    plant(tmp_path, "a/1.PNG", "a/._1.png", "a/.hidden/2.png", ".git/3.png", "a/notes.txt", "a/png")
    (tmp_path / "a/folder.png").mkdir()
    os.mkfifo(tmp_path / "a/pipe.png")
    assert open_sources(tmp_path)["train"].names == ["a/1.PNG"]


def test_links_are_followed_but_not_in_circles(tmp_path):
    data = plant(tmp_path / "data", "a/1.png")
    elsewhere = plant(tmp_path / "elsewhere", "2.png", "deep/3.png")
    (data / "b").symlink_to(elsewhere)
    (data / "a/up").symlink_to(data)
    (elsewhere / "deep/self").symlink_to(elsewhere)
    (data / "a/4.png").symlink_to(elsewhere / "2.png")
    (data / "a/lost.png").symlink_to(elsewhere / "nothing.png")
    (data / "a/ring.png").symlink_to("ring.png")
    source = open_sources(data)["train"]
    assert source.names == ["a/1.png", "a/4.png", "a/lost.png", "a/ring.png", "b/2.png", "b/deep/3.png"]
    assert source.read(1) == b"2.png"
    for row in (2, 3):  # broken links keep their rows
        with pytest.raises(OSError, match="png"):
            source.read(row)


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        ([], "there are no images in .*expected train/ and val/ folders"),
        (["notes.txt", ".hidden/1.png"], "there are no images in .*expected train/ and val/ folders"),
        (["train/a/1.png", "val/notes.txt"], "there are no images in .*val"),
        (["train/a/1.png", "val/a/1.png", "validation/a/1.png"], "both val/ and validation/"),
        (["train/1.png", "car/1.png", "bus/1.png"], "images in bus/ beside it"),
    ],
)
def test_empty_and_ambiguous_folders_are_refused(tmp_path, paths, message):
    with pytest.raises(WrongUse, match=message):
        open_sources(plant(tmp_path, *paths))


def test_other_folders_beside_train_and_val_are_skipped(tmp_path):
    plant(tmp_path, "train/a/1.png", "val/a/1.png", "docs/figure.png")
    assert list(open_sources(tmp_path)) == ["train", "val"]


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(WrongUse, match=r"there is no folder .*nowhere"):
        open_sources(tmp_path / "nowhere")
    with pytest.raises(WrongUse, match=r"there is no folder .*1\.png"):
        open_sources(plant(tmp_path, "1.png") / "1.png")


def test_parquet_rows_labels_and_names(tmp_path):
    write_parquet(tmp_path / "train.parquet", images(8), labels=[0, 1, 2, 0, 1, 2, None, -1])
    write_parquet(tmp_path / "validation-00000-of-00001.parquet", images(2, "v"), labels=[1, 1])
    sources = open_sources(tmp_path)
    assert list(sources) == ["train", "val"]
    train = sources["train"]
    assert train.names == [f"p{i}.png" for i in range(8)]
    assert train.labels.tolist() == [0, 1, 2, 0, 1, 2, -1, -1]
    assert train.classes == sources["val"].classes == ("0", "1", "2")
    assert read_all(train) == [f"p{i}".encode() for i in range(8)]


def test_parquet_in_parts_is_read_in_any_order_and_by_threads(tmp_path):
    for part, group in enumerate((2, 5, 100)):
        write_parquet(tmp_path / f"train-{part:05}-of-00003.parquet", images(11, f"{part}-"), group=group)
    source = open_sources(tmp_path)["train"]
    expected = [f"{part}-{i}".encode() for part in range(3) for i in range(11)]
    rows = np.random.default_rng(0).permutation(33).tolist()
    assert [source.read(row) for row in rows] == [expected[row] for row in rows]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(source.read, rows * 5)) == [expected[row] for row in rows] * 5
    assert read_all(pickle.loads(pickle.dumps(source))) == expected
    again = reopen(tmp_path, source.place, source.names, source.labels, source.classes)
    assert read_all(again) == expected


def test_parquet_class_names_from_hugging_face_then_from_a_list(tmp_path):
    features = {"info": {"features": {"label": {"names": ["cat", "dog"], "_type": "ClassLabel"}}}}
    (tmp_path / "classes.txt").write_text("ant\nbee\n", "utf-8")
    write_parquet(tmp_path / "train.parquet", images(2), labels=[0, 1])
    assert open_sources(tmp_path)["train"].classes == ("ant", "bee")
    write_parquet(tmp_path / "train.parquet", images(2), labels=[0, 1], metadata=features)
    assert open_sources(tmp_path)["train"].classes == ("cat", "dog")


def test_parquet_paths_that_are_not_unique_are_replaced(tmp_path):
    twice = [{"bytes": b"0", "path": "x.png"}, {"bytes": b"1", "path": "x.png"}]
    none = [{"bytes": b"0", "path": None}]
    write_parquet(tmp_path / "train.parquet", twice)
    write_parquet(tmp_path / "val.parquet", none)
    sources = open_sources(tmp_path)
    assert sources["train"].names == ["train.parquet/00000000", "train.parquet/00000001"]
    assert sources["val"].names == ["val.parquet/00000000"]
    assert sources["train"].labels.tolist() == [-1, -1]


def test_a_parquet_row_without_bytes_says_so(tmp_path):
    write_parquet(tmp_path / "train.parquet", [{"bytes": None, "path": "a.png"}, None, *images(1)])
    source = open_sources(tmp_path)["train"]
    for row in (0, 1):
        with pytest.raises(OSError, match="the row has a path and no bytes"):
            source.read(row)
    assert source.read(2) == b"p0"


def test_a_parquet_file_that_is_rewritten_is_read_anew(tmp_path):
    write_parquet(tmp_path / "train.parquet", images(3))
    source = open_sources(tmp_path)["train"]
    assert source.read(1) == b"p1"
    write_parquet(tmp_path / "train.parquet", images(3, "new"))
    assert source.read(1) == b"new1"


def test_other_parquet_files_are_refused(tmp_path):
    def refused(message):
        with pytest.raises(WrongUse, match=message):
            open_sources(tmp_path)

    write_parquet(tmp_path / "train-00000-of-00002.parquet", images(1))
    refused("expected 2 files of train, found 1")
    write_parquet(tmp_path / "train-00001-of-00002.parquet", images(1), labels=[5])
    (tmp_path / "classes.txt").write_text("ant\nbee\n", "utf-8")
    refused("names 2 classes, but a label is 5")
    pq.write_table(pa.table({"x": [1]}), tmp_path / "train-00001-of-00002.parquet")
    refused("expected a column image with fields bytes and path, found x")
    table = pa.table({"image": pa.array(images(1)), "label": [["cat"]]})
    pq.write_table(table, tmp_path / "train-00001-of-00002.parquet")
    refused("column label: expected whole numbers or words, found list")
    table = pa.table({"image": pa.array(images(1)), "label": ["cat"]})
    pq.write_table(table, tmp_path / "train-00001-of-00002.parquet")
    write_parquet(tmp_path / "train-00000-of-00002.parquet", images(1), labels=[1])
    refused("words in some files and numbers in others")
    (tmp_path / "train-00001-of-00002.parquet").write_bytes(b"PAR1 nonsense PAR1")
    refused("cannot read .* as parquet")
    write_parquet(tmp_path / "part-0.parquet", images(1))
    refused("part-0.parquet names no split")


@pytest.mark.parametrize("place", [6, 40])  # in the header of the first page, and in its data
def test_rows_of_a_damaged_row_group_cannot_be_read_but_others_can(tmp_path, place):
    rows = [{"bytes": bytes([i]) * 500, "path": f"{i}.png"} for i in range(6)]
    write_parquet(tmp_path / "train.parquet", rows)
    source = open_sources(tmp_path)["train"]
    with (tmp_path / "train.parquet").open("r+b") as stream:
        stream.seek(place)
        stream.write(b"\xff" * 10)
    with pytest.raises(OSError, match=r"."):
        source.read(0)
    assert source.read(3) == bytes([3]) * 500


def test_a_recorded_source_returns_the_recorded_bytes_or_raises(tmp_path):
    plain = open_sources(plant(tmp_path, "1.png", "2.png", "3.png"))["train"]
    digests = [hashlib.sha256(data).digest() for data in (*read_all(plain)[:2], b"")]
    source = RecordedSource(source=plain, sha256=np.frombuffer(b"".join(digests), np.uint8).reshape(-1, 32))
    assert source.read(0) == b"1.png"
    (tmp_path / "1.png").write_bytes(b"another")
    with pytest.raises(PipelineError, match=r"row 0, 1\.png, has changed"):
        source.read(0)
    (tmp_path / "2.png").unlink()
    with pytest.raises(PipelineError, match=r"row 1, 2\.png, can no longer be read"):
        source.read(1)
    (tmp_path / "3.png").unlink()
    assert source.read(2) == b""  # it could not be read when it was recorded either
