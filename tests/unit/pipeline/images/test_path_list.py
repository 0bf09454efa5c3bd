"""Lists of paths in CSV and parquet files, and what Hugging Face's save_to_disk writes."""

import io
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipeline.errors import WrongUse
from pipeline.images.dataset import open_dataset
from pipeline.images.pack import pack
from pipeline.images.sources import open_sources, reopen
from pipeline.images.tables import Choice
from pipeline.settings.commands import PackConfig


def listing(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_a_list_names_paths_labels_and_splits(tmp_path: Path) -> None:
    (tmp_path / "b.jpg").write_bytes(b"B")
    file = listing(
        tmp_path / "list.csv", "path,label,split\nb.jpg,dog,train\na/1.jpg,cat,val\na/2.jpg,,train\n"
    )
    sources = open_sources(file)
    assert list(sources) == ["train", "val"]
    train, val = sources["train"], sources["val"]
    assert (train.names, train.labels.tolist()) == (["b.jpg", "a/2.jpg"], [1, -1])
    assert (val.names, val.labels.tolist(), val.classes) == (["a/1.jpg"], [0], ("cat", "dog"))
    again = reopen(tmp_path, train.place, train.names, train.labels, train.classes)
    assert again.read(0) == train.read(0) == b"B"


@pytest.mark.parametrize("suffix", ["csv", "tsv", "parquet"])
def test_other_names_of_columns_and_kinds_of_files(tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"list.{suffix}"
    if suffix == "parquet":
        pq.write_table(pa.table({"image": ["x.png", "y.png"], "target": [1, 0]}), file)
    else:
        mark = "," if suffix == "csv" else "\t"
        listing(file, f"filename{mark}class\nx.png{mark}1\ny.png{mark}0\n")
    source = open_sources(file)["train"]
    assert (source.names, source.labels.tolist(), source.classes) == (["x.png", "y.png"], [1, 0], ("0", "1"))


def test_columns_and_val_by_choice(tmp_path: Path) -> None:
    file = listing(tmp_path / "list.csv", "where,kind,split\na.png,x,train\nb.png,y,test\n")
    sources = open_sources(file, Choice(image_column="where", label_column="kind", val="test"))
    assert (sources["val"].names, sources["val"].classes) == (["b.png"], ("x", "y"))


@pytest.mark.parametrize(
    ("text", "choice", "message"),
    [
        ("a,b\n1,2\n", {}, "has the columns a, b; expected one of paths, called path"),
        ("path\n", {}, "lists no images"),
        ("path,label\na.png,1\n,2\n", {}, "a row has no path"),
        ("path\na.png\na.png\n", {}, "a.png is listed twice in train"),
        (
            "path,split\na.png,train\nb.png,holdout\n",
            {},
            "expected the splits train, val and test, found 'holdout'",
        ),
        ("path,split\na.png,val\n", {}, "has the splits val; expected one called train"),
        ("path\na.png\n", {"val": "test"}, "has no column split"),
        ("path,split\na.png,train\n", {"val": "test"}, "has the splits train"),
        ("path\na.png\n", {"image_column": "pth"}, "has no column 'pth'; it has path; did you mean 'path'"),
        ("path,label\na.png,1.5\n", {}, "column label: expected whole numbers"),
        ("path,label\na,b,c\n", {}, "cannot read the list"),
    ],
)
def test_what_is_refused(tmp_path: Path, text: str, choice: dict[str, str], message: str) -> None:
    with pytest.raises(WrongUse, match=message):
        open_sources(listing(tmp_path / "list.csv", text), Choice(**choice))


def test_a_parquet_file_of_images_is_no_list(tmp_path: Path) -> None:
    image = pa.array(
        [{"bytes": b"1", "path": "x"}], pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    )
    pq.write_table(pa.table({"image": image}), tmp_path / "train.parquet")
    with pytest.raises(WrongUse, match="holds images and not paths; give the folder that it is in"):
        open_sources(tmp_path / "train.parquet")


def test_a_million_paths_are_listed_soon(tmp_path: Path) -> None:
    lines = "".join(
        f"images/{number // 1000:04}/{number:08}.jpg,{number % 1000}\n" for number in range(1_000_000)
    )
    file, start = listing(tmp_path / "list.csv", "path,label\n" + lines), time.monotonic()
    source = open_sources(file)["train"]
    assert (len(source.names), len(source.classes)) == (1_000_000, 1000)
    # seconds here; the limit is one for any machine
    assert time.monotonic() - start < 60


def jpeg(seed: int) -> bytes:
    image = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 255, (40, 30, 3), np.uint8)
    Image.fromarray(pixels).save(image, "JPEG")
    return image.getvalue()


def save_to_disk(folder: Path, splits: dict[str, list[list[int]]], single: bool = False) -> Path:
    """Write arrow files as Hugging Face's `datasets` does. splits: for each file, the number of rows of its batches."""
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    features = {"label": {"names": ["cat", "dog"], "_type": "ClassLabel"}, "image": {"_type": "Image"}}
    metadata = {b"huggingface": json.dumps({"info": {"features": features}}).encode()}
    schema = pa.schema([("image", kind), ("label", pa.int64())], metadata=metadata)
    folder.mkdir(parents=True)
    if not single:
        (folder / "dataset_dict.json").write_text(json.dumps({"splits": list(splits)}))
    for split, files in splits.items():
        place, row, parts = folder if single else folder / split, 0, []
        place.mkdir(exist_ok=True)
        for number, batches in enumerate(files):
            name = f"data-{number:05}-of-{len(files):05}.arrow"
            parts.append({"filename": name})
            with pa.OSFile(str(place / name), "wb") as sink, pa.ipc.new_stream(sink, schema) as writer:
                for count in batches:
                    rows = range(row, row + count)
                    images = pa.array([{"bytes": jpeg(each), "path": None} for each in rows], kind)
                    labels = pa.array([each % 2 for each in rows], pa.int64())
                    writer.write_batch(pa.record_batch([images, labels], schema=schema))
                    row += count
        (place / "state.json").write_text(json.dumps({"_data_files": parts}))
    return folder


def test_what_save_to_disk_wrote_is_read_as_it_is(tmp_path: Path) -> None:
    sources = open_sources(save_to_disk(tmp_path / "saved", {"train": [[3, 2], [4]], "validation": [[2]]}))
    train = sources["train"]
    assert [train.read(row) for row in range(9)] == [jpeg(row) for row in range(9)]
    assert (train.labels.tolist(), train.classes) == ([row % 2 for row in range(9)], ("cat", "dog"))
    assert list(sources) == ["train", "val"]
    again = reopen(
        tmp_path / "saved", json.loads(json.dumps(train.place)), train.names, train.labels, train.classes
    )
    assert again.read(7) == jpeg(7)


def test_a_dataset_without_splits_is_train_and_is_packed(tmp_path: Path) -> None:
    saved = save_to_disk(tmp_path / "saved", {"": [[5, 3]]}, single=True)
    split = pack(PackConfig(data=saved, out=tmp_path / "packed", workers=1)).splits["train"]
    assert (split.rows, split.readable.all()) == (8, True)
    assert open_dataset(tmp_path / "packed").splits["train"].source.read(6) == jpeg(6)


def test_val_by_choice_and_what_is_refused(tmp_path: Path) -> None:
    saved = save_to_disk(tmp_path / "saved", {"train": [[2]], "test": [[1]]})
    assert list(open_sources(saved, Choice(val="test"))) == ["train", "val"]
    with pytest.raises(WrongUse, match="has no split of this name"):
        open_sources(saved, Choice(val="dev"))
    other: Any = save_to_disk(tmp_path / "other", {"main": [[2]]})
    with pytest.raises(WrongUse, match="has the splits main; expected one called train"):
        open_sources(other)
    (saved / "train" / "state.json").write_text("{")
    with pytest.raises(WrongUse, match="which Hugging Face's save_to_disk writes"):
        open_sources(saved)
    (other / "main" / "data-00000-of-00001.arrow").write_bytes(b"no arrow")
    (other / "dataset_dict.json").write_text('{"splits": ["train"]}')
    (other / "main").rename(other / "train")
    with pytest.raises(WrongUse, match=r"cannot read .* as arrow"):
        open_sources(other)


def test_a_list_is_packed_from_its_folder(tmp_path: Path) -> None:
    for number in range(4):
        (tmp_path / f"{number}.jpg").write_bytes(jpeg(number))
    file = listing(tmp_path / "list.csv", "path,label\n0.jpg,NA\n1.jpg,null\n2.jpg,NA\n3.jpg,null\n")
    pack(PackConfig(data=file, out=tmp_path / "packed", workers=1))
    dataset = open_dataset(tmp_path / "packed")
    assert dataset.splits["train"].source.read(2) == jpeg(2)
    assert dataset.splits["train"].classes == ("NA", "null")
    pack(PackConfig(data=file, out=tmp_path / "packed", workers=1))  # holds these images already
