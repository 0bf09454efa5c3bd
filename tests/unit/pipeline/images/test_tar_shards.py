"""Tar shards as webdataset writes them: rows, labels, splits, and what cannot be read."""

import io
import json
import pickle
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline.errors import WrongUse
from pipeline.images.dataset import open_dataset
from pipeline.images.pack import pack
from pipeline.images.sources import open_sources, reopen
from pipeline.images.tables import Choice
from pipeline.images.tar_shards import key_of, members_of
from pipeline.settings.commands import PackConfig

FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}


def shard(path: Path, members: dict[str, bytes], kind: str = "ustar") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=FORMATS[kind]) as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def numbered(start: int, count: int, label: Any = None) -> dict[str, bytes]:
    """Return members of samples 0000.jpg with 0000.cls."""
    found = {}
    for number in range(start, start + count):
        found[f"{number:04}.jpg"] = f"image {number}".encode()
        if label is not None:
            found[f"{number:04}.cls"] = str(label(number)).encode()
    return found


def read_all(source: Any) -> list[bytes]:
    return [source.read(row) for row in range(len(source.names))]


@pytest.mark.parametrize("kind", FORMATS)
def test_rows_are_the_images_of_all_shards_in_order(tmp_path: Path, kind: str) -> None:
    shard(tmp_path / "set-train-000001.tar", numbered(5, 4, lambda n: n % 3), kind)
    shard(tmp_path / "set-train-000000.tar", numbered(0, 5, lambda n: n % 3), kind)
    shard(tmp_path / "set-val-000000.tar", numbered(0, 2, lambda n: n), kind)
    sources = open_sources(tmp_path)
    assert list(sources) == ["train", "val"]
    train = sources["train"]
    assert train.names[:2] == ["set-train-000000.tar/0000.jpg", "set-train-000000.tar/0001.jpg"]
    assert read_all(train) == [f"image {number}".encode() for number in range(9)]
    assert train.labels.tolist() == [number % 3 for number in range(9)]
    assert train.classes == ("0", "1", "2")
    again = reopen(tmp_path, json.loads(json.dumps(train.place)), train.names, train.labels, train.classes)
    assert read_all(pickle.loads(pickle.dumps(again))) == read_all(train)


@pytest.mark.parametrize("kind", FORMATS)
def test_names_that_do_not_fit_a_plain_header(tmp_path: Path, kind: str) -> None:
    long = "folder/" * 30 + "ü" * 30
    if kind == "ustar":
        long = "folder/" * 20 + "x" * 30  # in two parts, which is still plain
    members = {f"{long}.jpg": b"one", f"{long}.cls": b"1", "./b.png": b"two", "b.json": b'{"label": 0}'}
    path = shard(tmp_path / "train.tar", members, kind)
    assert set(members_of(path, 0)) == {name.removeprefix("./") for name in members}
    source = open_sources(tmp_path)["train"]
    assert (read_all(source), source.labels.tolist()) == ([b"one", b"two"], [1, 0])


def test_labels_are_words_numbers_or_none(tmp_path: Path) -> None:
    samples = {"a.jpg": b"", "a.cls": b" cat\n", "b.jpg": b"", "b.json": b'{"label": "dog", "x": 1}'}
    samples |= {"c.jpg": b"", "c.txt": b"a caption"}
    shard(tmp_path / "words" / "00000.tar", samples)
    source = open_sources(tmp_path / "words")["train"]
    assert (source.classes, source.labels.tolist()) == (("cat", "dog"), [0, 1, -1])
    shard(tmp_path / "none" / "00000.tar", numbered(0, 3))
    assert open_sources(tmp_path / "none")["train"].labels.tolist() == [-1, -1, -1]


def test_a_key_ends_at_the_first_dot_of_the_name() -> None:
    assert [key_of(name) for name in ("a.b/c.seg.png", "c.jpg", ".hidden")] == ["a.b/c", "c", ""]


def test_folders_of_splits_and_val_by_choice(tmp_path: Path) -> None:
    for split in ("train", "validation", "test"):
        shard(tmp_path / split / "00.tar", numbered(0, 2, lambda n: n))
    assert {split: source.place["tars"] for split, source in open_sources(tmp_path).items()} == {
        "train": ["train/00.tar"],
        "val": ["validation/00.tar"],
        "test": ["test/00.tar"],
    }
    assert open_sources(tmp_path, Choice(val="test"))["val"].place["tars"] == ["test/00.tar"]


@pytest.mark.parametrize(
    ("shards", "choice", "message"),
    [
        ({"train-0.tar": numbered(0, 1), "extra-0.tar": numbered(0, 1)}, {}, "extra-0.tar names no split"),
        ({"train-0.tar": {"a.txt": b""}}, {}, "hold no images"),
        ({"train-0.tar": {"a.jpg": b"", "a.json": b"{"}}, {}, "cannot read .*train-0.tar"),
        ({"train-0.tar": {"a.jpg": b"", "a.cls": b"9" * 20}}, {}, "cannot read .*a.cls has the label 9999"),
        ({"train-0.tar": {"a.jpg": b"", "a.json": b'{"label": "\\ud800"}'}}, {}, "a.json has the label"),
        ({"train-0.tar": numbered(0, 1)}, {"val": "vall"}, "has no .tar files of vall"),
        ({"train-0.tar": numbered(0, 1)}, {"label_column": "x"}, "holds .tar shards: --image-column"),
    ],
)
def test_what_is_refused(
    tmp_path: Path, shards: dict[str, Any], choice: dict[str, str], message: str
) -> None:
    for name, members in shards.items():
        shard(tmp_path / name, members)
    with pytest.raises(WrongUse, match=message):
        open_sources(tmp_path, Choice(**choice))


@pytest.mark.parametrize("damage", ["cut", "empty", "other"])
def test_a_damaged_shard_is_named(tmp_path: Path, damage: str) -> None:
    path = shard(tmp_path / "train-0.tar", {"a.jpg": b"x" * 5000})
    data = path.read_bytes()
    path.write_bytes({"cut": data[:2000], "empty": b"", "other": b"no tar at all" * 100}[damage])
    with pytest.raises(WrongUse, match=r"cannot read .*train-0\.tar"):
        open_sources(tmp_path)


def test_the_suffix_may_be_in_capitals(tmp_path: Path) -> None:
    shard(tmp_path / "TRAIN-0.TAR", numbered(0, 2))
    assert read_all(open_sources(tmp_path)["train"]) == [b"image 0", b"image 1"]


def test_words_in_some_shards_and_no_labels_in_others(tmp_path: Path) -> None:
    shard(tmp_path / "train-0.tar", numbered(0, 2, label=lambda number: "dog" if number else "cat"))
    shard(tmp_path / "test-0.tar", numbered(0, 2))
    found = open_sources(tmp_path)
    assert found["train"].classes == ("cat", "dog")
    assert (found["train"].labels.tolist(), found["test"].labels.tolist()) == ([0, 1], [-1, -1])


def test_images_beside_them_come_first(tmp_path: Path) -> None:
    shard(tmp_path / "train-0.tar", numbered(0, 2))
    (tmp_path / "a").mkdir()
    (tmp_path / "a/1.jpg").write_bytes(b"x")
    assert open_sources(tmp_path)["train"].names == ["a/1.jpg"]


def test_shards_are_packed_as_a_folder_of_the_same_images_is(tmp_path: Path) -> None:
    draws, members = np.random.default_rng(0), {}
    for number in range(12):
        image = io.BytesIO()
        Image.fromarray(draws.integers(0, 255, (40, 30, 3), np.uint8)).save(image, "JPEG")
        folder = tmp_path / "images" / "train" / f"{number % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number:02}.jpg").write_bytes(image.getvalue())
        members |= {f"{number:02}.jpg": image.getvalue(), f"{number:02}.cls": str(number % 2).encode()}
    shard(tmp_path / "shards" / "train-0.tar", members)
    found = [
        pack(PackConfig(data=tmp_path / name, out=tmp_path / f"{name}-packed", workers=1)).splits["train"]
        for name in ("images", "shards")
    ]
    folder, tar = (
        {Path(name).name: label for name, label in zip(split.names, split.labels, strict=True)}
        for split in found
    )
    assert tar == folder
    assert sorted(found[0].thumbs) == sorted(found[1].thumbs)
    source = open_dataset(tmp_path / "shards-packed").splits["train"].source
    assert source.read(3) == members["03.jpg"]
