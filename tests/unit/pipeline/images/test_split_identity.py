"""The identity of a split: what it depends on, and what it does not."""

import hashlib
import os
import shutil

from pipeline.images.scan import content_hashes
from pipeline.images.sources import open_sources
from pipeline.images.split_identity import identity_of
from tests.support.flawed_images import write, write_as_parquet


def hashes_of(source):
    return content_hashes(source, workers=1, title="hashes")


def identity(folder):
    """The identity of train/, computed here and now."""
    source = open_sources(folder)["train"]
    return identity_of("train", source, hashes_of(source))


def test_identity_changes_with_bytes_labels_names_and_order_but_not_with_times(flawed_images, tmp_path):
    def changed(name, change):
        other = shutil.copytree(flawed_images, tmp_path / name, symlinks=True)
        change(other / "train")
        return identity(other)["images"]

    def one_byte(train):
        data = bytearray((train / "ant/00.png").read_bytes())
        data[-1] ^= 1
        (train / "ant/00.png").write_bytes(data)

    def swap(train):  # the same two images in the other order
        (train / "ant/00.png").rename(train / "ant/x.png")
        (train / "ant/02.png").rename(train / "ant/00.png")
        (train / "ant/x.png").rename(train / "ant/02.png")

    original = identity(flawed_images)["images"]
    assert changed("times", lambda train: os.utime(train / "ant/00.png", (1, 1))) == original
    others = {
        changed("byte", one_byte),
        changed("label", lambda train: (train / "aardvark").mkdir() or write(train / "aardvark/1.png", b"1")),
        changed("name", lambda train: (train / "ant/00.png").rename(train / "ant/000.png")),
        changed("class", lambda train: (train / "ant").rename(train / "ape")),
        changed("order", swap),
        changed("less", lambda train: (train / "ant/00.png").unlink()),
    }
    assert len(others - {original}) == 6


def test_identity_by_hand(tmp_path):
    write(tmp_path / "a/1.png", b"one")
    write(tmp_path / "b/é.png", b"two")
    expected = hashlib.sha256()
    for path, label, data in (("a/1.png", 0, b"one"), ("b/é.png", 1, b"two")):
        name = path.encode()
        expected.update(len(name).to_bytes(8, "little") + name + label.to_bytes(8, "little"))
        expected.update(hashlib.sha256(data).digest())
    assert identity(tmp_path) == {
        "split": "train",
        "rows": 2,
        "classes": ["a", "b"],
        "images": expected.hexdigest(),
    }


def test_parquet_and_folder_of_the_same_images_are_one_dataset(flawed_images, tmp_path):
    source = open_sources(flawed_images)["val"]
    write_as_parquet(source, tmp_path / "val.parquet")
    (tmp_path / "classes.txt").write_text("ant\nbee\n")
    parquet = open_sources(tmp_path)["val"]
    hashes = [hashes_of(each) for each in (source, parquet)]
    assert (hashes[0] == hashes[1]).all()
    assert identity_of("val", source, hashes[0]) == identity_of("val", parquet, hashes[1])
