"""What `pack` does with a folder that holds something: resume, repair, compare, or refuse."""

import os
import shutil
import subprocess

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.errors import WrongUse
from pipeline.images.beton_writer import check_beton
from pipeline.images.dataset import open_dataset
from pipeline.images.pack import pack, sole_packer
from pipeline.images.sources import open_sources
from tests.support.flawed_images import (
    JPEG,
    assert_same_dataset,
    beton_of,
    pack_config,
    state_of,
    write,
    write_as_parquet,
)


def test_an_unchanged_dataset_is_not_written_again(flawed_dataset, flawed_images, capsys):
    before = state_of(flawed_dataset)
    os.utime(flawed_images / "train/ant/00.png", (0, 0))  # touched, not changed
    dataset = pack(pack_config(flawed_images, flawed_dataset))
    assert state_of(flawed_dataset) == before
    assert "nothing was written" in capsys.readouterr().out
    assert dataset.splits["train"].rows == 36


def test_other_settings_or_images_are_refused_and_change_nothing(flawed_copy, flawed_images, tmp_path):
    before = state_of(flawed_copy)
    with pytest.raises(WrongUse, match="jpeg_quality: expected 40, found 90"):
        pack(pack_config(flawed_images, flawed_copy, jpeg_quality=40))
    other = shutil.copytree(flawed_images, tmp_path / "other", symlinks=True)
    shutil.rmtree(other / "val")
    with pytest.raises(WrongUse, match="splits"):
        pack(pack_config(other, flawed_copy))
    shutil.copytree(flawed_images / "val", other / "val")
    changed = other / "train/bee/01.png"
    changed.write_bytes(changed.read_bytes()[:-1] + b"\x83")
    with pytest.raises(WrongUse, match=r"from other images or settings \(train\.images: expected .*, found "):
        pack(pack_config(other, flawed_copy))
    assert state_of(flawed_copy) == before


def test_what_is_damaged_is_refused_and_written_again(flawed_copy, flawed_images):
    with (flawed_copy / "train.beton").open("r+b") as beton:
        beton.truncate(1000)
    (flawed_copy / "val.parquet").unlink()
    dead = subprocess.Popen("true")
    dead.wait()
    (flawed_copy / f".val.beton~{os.uname().nodename}~{dead.pid}~0.tmp").write_bytes(b"of a killed pack")
    with pytest.raises(WrongUse, match=r"train\.beton has 1000 bytes, expected \d+; write it again with"):
        open_dataset(flawed_copy)
    dataset = pack(pack_config(flawed_images, flawed_copy))
    assert not list(flawed_copy.glob(".*"))
    for split in dataset.splits.values():
        check_beton(split.beton, split.labels)


def test_a_folder_of_other_things_is_not_written_to(flawed_images, tmp_path):
    for name in ("thesis.tex", "train.parquet"):
        out = tmp_path / name.split(".")[0]
        write(out / ".train.beton.77.tmp", b"")
        pq.write_table(pa.table({"x": [1]}), out / name)
        with pytest.raises(
            WrongUse, match=f"is not a dataset but holds {name}; choose a new or empty folder"
        ):
            pack(pack_config(flawed_images, out))
        assert len(list(out.iterdir())) == 2
    with pytest.raises(WrongUse, match="images and dataset are the same folder"):
        pack(pack_config(flawed_images, flawed_images))
    with pytest.raises(WrongUse, match="cannot make the folder"):
        pack(pack_config(flawed_images, flawed_images / "val/bee/v0.png/out"))
    out = tmp_path / "busy"
    with sole_packer(out), pytest.raises(WrongUse, match="another process packs into"):
        pack(pack_config(flawed_images, out))


@pytest.mark.parametrize(
    "bad", [{"max_resolution": 0}, {"jpeg_quality": 101}, {"jpeg_quality": 0}, {"max_resolution": 20_000}]
)
def test_impossible_settings_are_refused(flawed_images, tmp_path, bad):
    (name,) = bad
    with pytest.raises(WrongUse, match=f"--{name.replace(chr(95), chr(45))}: expected"):
        pack(pack_config(flawed_images, tmp_path / "out", **bad))
    assert not (tmp_path / "out").exists()


def test_a_finished_split_of_an_interrupted_pack_is_kept(flawed_copy, flawed_dataset, flawed_images):
    (flawed_copy / "dataset.json").unlink()
    (flawed_copy / "val.beton").rename(flawed_copy / ".val.beton.77.tmp")
    before = state_of(flawed_copy)
    with pytest.raises(WrongUse, match=r"half-written"):
        open_dataset(flawed_copy)
    pack(pack_config(flawed_images, flawed_copy))
    after = state_of(flawed_copy)
    assert [after[name] for name in ("train.beton", "train.parquet")] == [
        before[name] for name in ("train.beton", "train.parquet")
    ]
    assert_same_dataset(flawed_copy, flawed_dataset)


def test_an_interrupted_pack_may_restart_with_other_images_or_settings(flawed_copy, flawed_images, tmp_path):
    (flawed_copy / "dataset.json").unlink()
    dataset = pack(pack_config(flawed_images, flawed_copy, write_mode="jpg"))
    assert set(beton_of(dataset.splits["train"].beton).metadata["f0"]["mode"].tolist()) == {JPEG}
    (flawed_copy / "dataset.json").unlink()
    shutil.copytree(flawed_images / "train", tmp_path / "less/train", symlinks=True)
    (tmp_path / "less/train/ant/00.png").unlink()
    dataset = pack(pack_config(tmp_path / "less", flawed_copy, write_mode="jpg"))
    train = dataset.splits["train"]
    names = sorted(file.name for file in flawed_copy.iterdir())
    assert names == ["dataset.json", "train.beton", "train.parquet"]
    assert beton_of(train.beton).num_samples == train.rows == 35


def test_a_dataset_of_parquet_files_and_strange_names(flawed_images, tmp_path):
    source = open_sources(flawed_images)["val"]
    write_as_parquet(source, tmp_path / "data" / "train.parquet")
    folder = os.fsencode(tmp_path / "strange") + b"/caf\xe9"
    os.makedirs(folder)
    with open(folder + b"/\xff.png", "wb") as file:
        file.write(source.read(0))
    from_parquet = pack(pack_config(tmp_path / "data", tmp_path / "one")).splits["train"]
    strange = pack(pack_config(tmp_path / "strange", tmp_path / "two")).splits["train"]
    assert [from_parquet.source.read(row) for row in range(6)] == [source.read(row) for row in range(6)]
    assert from_parquet.names == source.names
    assert strange.names == ["caf\udce9/\udcff.png"]
    assert strange.classes == (r"caf\xe9",)
    assert strange.source.read(0) == source.read(0)
