import hashlib
import io
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipeline.errors import PipelineError, WrongUse
from pipeline.images.beton_writer import PLACEHOLDER, check_beton, page_size, reduced, write_beton
from pipeline.images.dataset import open_dataset
from pipeline.images.pack import pack
from pipeline.images.pack_split import identity_of, sole_writer, temporary
from pipeline.images.scan import content_hash, examine, over_rows
from pipeline.images.sources import FolderSource, open_sources
from pipeline.settings.commands import PackConfig

RNG = np.random.default_rng(0)
UNREADABLE = ("ant/empty.png", "bee/noise.jpg", "bee/half.png")
LOST = "ant/lost.png"
JPEG, RAW = 0, 1  # how a picture is stored, in FFCV's tables


def png(width=12, height=9):
    stream = io.BytesIO()
    Image.fromarray(RNG.integers(0, 256, (height, width, 3), np.uint8)).save(stream, "PNG")
    return stream.getvalue()


def write(file, data):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(data)


def plant_images(folder):
    """36 images of two classes in train/, 6 in val/: good ones, one wide, one narrow, and four bad ones."""
    for i in range(30):
        write(folder / "train" / ("ant", "bee")[i % 2] / f"{i:02}.png", png(8 + i % 5, 8 + i % 7))
    write(folder / "train/ant/wide.png", png(300, 40))
    write(folder / "train/ant/narrow.png", png(1, 900))
    write(folder / "train" / UNREADABLE[0], b"")
    write(folder / "train" / UNREADABLE[1], RNG.bytes(300))
    write(folder / "train" / UNREADABLE[2], png()[:-40])
    (folder / "train" / LOST).symlink_to("nowhere.png")
    for i in range(6):
        write(folder / "val/bee" / f"v{i}.png", png())
    return folder


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return plant_images(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="module")
def packed(images, tmp_path_factory):
    """The images packed once; tests that change the folder take a copy."""
    out = tmp_path_factory.mktemp("packed") / "dataset"
    pack(config(images, out))
    return out


@pytest.fixture
def copied(packed, tmp_path):
    return shutil.copytree(packed, tmp_path / "copied")


def config(data, out, **changes):
    return PackConfig(data=data, out=out, workers=2, **{"max_resolution": 100, **changes})


def state(folder):
    return {file.name: (file.stat().st_mtime_ns, file.read_bytes()) for file in folder.iterdir()}


def beton_of(path):
    from ffcv.reader import Reader

    return Reader(str(path))


def raw_pixels(beton, reader, row):
    where = reader.metadata["f0"][row]
    assert where["mode"] == RAW
    height, width = int(where["height"]), int(where["width"])
    stored = np.fromfile(beton, np.uint8, count=height * width * 3, offset=int(where["data_ptr"]))
    return stored.reshape(height, width, 3)


def test_every_row_of_the_beton_is_its_image(packed, images):
    dataset = open_dataset(packed)
    for split in dataset.splits.values():
        reader = beton_of(split.beton)
        assert reader.num_samples == split.rows == len(split.names)
        assert np.array_equal(reader.metadata["f1"], np.arange(split.rows))
        assert np.array_equal(reader.metadata["f2"], split.labels)
        for row, name in enumerate(split.names):
            pixels = raw_pixels(split.beton, reader, row)
            if split.readable[row]:
                original = Image.open(images / split.name / name)
                assert np.array_equal(pixels, np.asarray(reduced(original, 100)))
            else:
                assert np.array_equal(pixels, PLACEHOLDER)


def test_unreadable_images_keep_their_rows_with_a_reason(packed):
    train = open_dataset(packed).splits["train"]
    bad = {train.names[row] for row in np.flatnonzero(~train.readable)}
    assert bad == {*UNREADABLE, LOST}
    table = pq.read_table(packed / "train.parquet").to_pylist()
    reasons = {row["path"]: row["reason"] for row in table if not row["readable"]}
    assert reasons[LOST] == "cannot be read: No such file or directory"
    assert reasons["ant/empty.png"] == "the file is empty"
    assert reasons["bee/noise.jpg"] == "not an image, or of an unknown format"
    assert [row["row"] for row in table] == list(range(36))
    assert {row["thumb"] for row in table if not row["readable"]} == {0}
    assert len({row["thumb"] for row in table if row["readable"]}) > 28  # but for a picture one pixel wide
    sizes = {row["path"]: (row["width"], row["height"]) for row in table}
    assert sizes["ant/wide.png"] == (300, 40)
    assert sizes[LOST] == (0, 0)


def test_a_dataset_says_what_it_holds(packed, images):
    dataset = open_dataset(packed)
    assert list(dataset.splits) == ["train", "val"]
    train = dataset.splits["train"]
    assert (train.name, train.rows, train.classes) == ("train", 36, ("ant", "bee"))
    assert train.labels.dtype == np.int64
    assert train.readable.dtype == np.bool_
    assert train.thumbs.dtype == np.uint64
    assert train.beton == packed / "train.beton"
    assert set(train.identity) == {"split", "rows", "classes", "images"}
    description = json.loads((packed / "dataset.json").read_text())
    assert description["splits"]["train"]["unreadable"] == 4
    assert description["data"] == str(images)
    source = train.source
    assert source.names == train.names
    for row in np.flatnonzero(train.readable):
        assert source.read(row) == (images / "train" / train.names[row]).read_bytes()
    assert source.read(train.names.index(LOST)) == b""


def test_a_split_is_pickled_without_what_it_has_read(packed):
    split = open_dataset(packed).splits["train"]
    small = len(pickle.dumps(split))
    split.names, split.labels, split.source.read(0)
    assert len(pickle.dumps(split)) == small
    again = pickle.loads(pickle.dumps(split))
    assert again.names == split.names
    assert pickle.loads(pickle.dumps(split.source)).read(1) == split.source.read(1)


def test_an_unchanged_dataset_is_not_written_again(packed, images, capsys):
    before = state(packed)
    os.utime(images / "train/ant/00.png", (0, 0))  # touched, not changed
    dataset = pack(config(images, packed))
    assert state(packed) == before
    assert "nothing was written" in capsys.readouterr().out
    assert dataset.splits["train"].rows == 36


def test_other_settings_or_images_are_refused_and_change_nothing(copied, images, tmp_path):
    before = state(copied)
    with pytest.raises(WrongUse, match="jpeg_quality: expected 40, found 90"):
        pack(config(images, copied, jpeg_quality=40))
    other = shutil.copytree(images, tmp_path / "other", symlinks=True)
    shutil.rmtree(other / "val")
    with pytest.raises(WrongUse, match="splits"):
        pack(config(other, copied))
    shutil.copytree(images / "val", other / "val")
    changed = other / "train/bee/01.png"
    changed.write_bytes(changed.read_bytes()[:-1] + b"\x83")
    with pytest.raises(WrongUse, match=r"of other images or settings \(train\.images: expected .*, found "):
        pack(config(other, copied))
    assert state(copied) == before


def test_images_that_moved_are_found_again(copied, images, tmp_path):
    moved = shutil.copytree(images, tmp_path / "moved", symlinks=True)
    description = json.loads((copied / "dataset.json").read_text())
    description["data"] = str(tmp_path / "where they were")
    (copied / "dataset.json").write_text(json.dumps(description))
    with pytest.raises(WrongUse, match=r"were in .*where they were and are there no more.*pack NEW_FOLDER"):
        _ = open_dataset(copied).splits["train"].source
    source = open_dataset(copied, data=moved).splits["train"].source
    assert source.read(0) == (moved / "train/ant/00.png").read_bytes()
    betons = {name: found for name, found in state(copied).items() if name != "dataset.json"}
    pack(config(moved, copied))
    assert open_dataset(copied).data == moved
    assert {name: found for name, found in state(copied).items() if name != "dataset.json"} == betons


def test_what_is_damaged_is_refused_and_written_again(copied, images):
    with (copied / "train.beton").open("r+b") as beton:
        beton.truncate(1000)
    (copied / "val.parquet").unlink()
    with pytest.raises(WrongUse, match=r"train\.beton has 1000 bytes, expected \d+; write it again with"):
        open_dataset(copied)
    dataset = pack(config(images, copied))
    for split in dataset.splits.values():
        check_beton(split.beton, split.labels)


def test_what_is_no_dataset_says_so(copied, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(WrongUse, match=r"there is no dataset .*nowhere; write it with `python cli\.py pack"):
        open_dataset(tmp_path / "nowhere")
    with pytest.raises(WrongUse, match=r"empty is no dataset \(no dataset\.json\)"):
        open_dataset(tmp_path / "empty")
    for text, message in (
        ('{"format": 2}', "expected format 1, found 2"),
        ("{", "cannot read"),
        ("[]", "cannot read"),
    ):
        (copied / "dataset.json").write_text(text)
        with pytest.raises(WrongUse, match=message):
            open_dataset(copied)
    (copied / "dataset.json").unlink()
    with pytest.raises(WrongUse, match="is half-written; go on with"):
        open_dataset(copied)


def test_a_folder_of_other_things_is_not_written_to(images, tmp_path):
    for name in ("thesis.tex", "train.parquet"):
        out = tmp_path / name.split(".")[0]
        write(out / ".train.beton.77.tmp", b"")
        pq.write_table(pa.table({"x": [1]}), out / name)
        with pytest.raises(WrongUse, match=f"is no dataset but holds {name}; choose a new or empty folder"):
            pack(config(images, out))
        assert len(list(out.iterdir())) == 2
    with pytest.raises(WrongUse, match="images and dataset are the same folder"):
        pack(config(images, images))
    with pytest.raises(WrongUse, match="cannot make the folder"):
        pack(config(images, images / "val/bee/v0.png/out"))
    out = tmp_path / "busy"
    with sole_writer(out), pytest.raises(WrongUse, match="another process packs into"):
        pack(config(images, out))


@pytest.mark.parametrize(
    "bad", [{"max_resolution": 0}, {"jpeg_quality": 101}, {"jpeg_quality": 0}, {"max_resolution": 20_000}]
)
def test_settings_that_cannot_be(images, tmp_path, bad):
    (name,) = bad
    with pytest.raises(WrongUse, match=f"{name}: expected 1 to"):
        pack(config(images, tmp_path / "out", **bad))
    assert not (tmp_path / "out").exists()


def test_a_split_without_one_good_image_is_refused(tmp_path):
    write(tmp_path / "data/1.png", b"nothing")
    with pytest.raises(PipelineError, match=r"none of 1 images can be read; 1\.png: not an image"):
        pack(config(tmp_path / "data", tmp_path / "out"))
    with pytest.raises(WrongUse):
        open_dataset(tmp_path / "out")


def test_a_full_disk_is_told_in_words(tmp_path):
    full = pytest.raises(PipelineError, match=r"cannot write .*x: No space left on device")
    with full, temporary(tmp_path / "x") as partial:
        partial.write_bytes(b"half")
        raise OSError(28, "No space left on device")
    assert list(tmp_path.iterdir()) == []


# Packs slowly: the first image that is read, or written, leaves a sign of it.
SCRIPT = """
import sys, time
from pathlib import Path
from pipeline.images.beton_writer import Rows
from pipeline.settings.commands import PackConfig
from pipeline.images.dataset import pack
from pipeline.images.sources import FolderSource

data, out, stage = sys.argv[1:]
slow, method = {"reading": (FolderSource, "read"), "writing": (Rows, "_pixels")}[stage]
original = getattr(slow, method)

def slowly(self, row):
    Path(out + "." + stage).touch()
    time.sleep(1)
    return original(self, row)

setattr(slow, method, slowly)
if __name__ == "__main__":
    pack(PackConfig(data=Path(data), out=Path(out), workers=2, max_resolution=100))
"""


def test_a_killed_pack_leaves_nothing_that_opens_and_is_gone_on_with(images, packed, tmp_path):
    out = tmp_path / "out"
    (tmp_path / "slowly.py").write_text(SCRIPT)
    for stage in ("reading", "writing"):
        kill_while(stage, tmp_path / "slowly.py", images, out)
        with pytest.raises(WrongUse, match=r"half-written|is no dataset"):
            open_dataset(out)
    assert [file.suffix for file in sorted(out.iterdir())] == [".tmp", ".parquet"]
    table = (out / "train.parquet").stat().st_mtime_ns
    pack(config(images, out))
    assert (out / "train.parquet").stat().st_mtime_ns == table
    require_same_dataset(out, packed)


def kill_while(stage, script, images, out):
    """kill -9 a pack when it has begun to read, or to write; none of its processes may stay."""
    environment = {**os.environ, "PYTHONPATH": os.getcwd(), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(script), str(images), str(out), stage]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not out.with_suffix(f".{stage}").exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    family = psutil.Process(process.pid).children(recursive=True)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert len(family) >= 2
    assert psutil.wait_procs(family, timeout=15)[1] == []  # left alone they would go on for half a minute


def test_on_one_core_nothing_is_left_running(pictures, tmp_path):
    core = next(iter(os.sched_getaffinity(0)))
    command = [
        "taskset",
        "-c",
        str(core),
        sys.executable,
        "cli.py",
        "pack",
        str(pictures),
        str(tmp_path / "dataset"),
    ]
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    assert process.wait(60) == 0
    deadline = time.monotonic() + 10
    while alive := [other.pid for other in psutil.process_iter() if session_of(other) == process.pid]:
        assert time.monotonic() < deadline, f"processes {alive} of the ended pack are still there"
        time.sleep(0.05)


def session_of(process):
    try:
        return os.getsid(process.pid)
    except ProcessLookupError:
        return None


def test_a_split_that_was_whole_when_the_pack_was_cut_short_is_kept(copied, packed, images):
    (copied / "dataset.json").unlink()
    (copied / "val.beton").rename(copied / ".val.beton.77.tmp")
    before = state(copied)
    with pytest.raises(WrongUse, match=r"half-written"):
        open_dataset(copied)
    pack(config(images, copied))
    after = state(copied)
    assert [after[name] for name in ("train.beton", "train.parquet")] == [
        before[name] for name in ("train.beton", "train.parquet")
    ]
    require_same_dataset(copied, packed)


def test_a_pack_that_was_cut_short_may_start_again_with_other_images_or_settings(copied, images, tmp_path):
    (copied / "dataset.json").unlink()
    dataset = pack(config(images, copied, write_mode="jpg"))
    assert set(beton_of(dataset.splits["train"].beton).metadata["f0"]["mode"].tolist()) == {JPEG}
    (copied / "dataset.json").unlink()
    shutil.copytree(images / "train", tmp_path / "less/train", symlinks=True)
    (tmp_path / "less/train/ant/00.png").unlink()
    dataset = pack(config(tmp_path / "less", copied, write_mode="jpg"))
    train = dataset.splits["train"]
    assert sorted(file.name for file in copied.iterdir()) == ["dataset.json", "train.beton", "train.parquet"]
    assert beton_of(train.beton).num_samples == train.rows == 35


def require_same_dataset(found, expected):
    assert sorted(file.name for file in found.iterdir()) == sorted(file.name for file in expected.iterdir())
    wanted = open_dataset(expected)
    for name, split in open_dataset(found).splits.items():
        assert split.identity == wanted.splits[name].identity
        assert np.array_equal(split.thumbs, wanted.splits[name].thumbs)
        check_beton(split.beton, split.labels)


@dataclass(frozen=True, kw_only=True)
class Deadly(FolderSource):
    """Ends the process that reads one row, as the memory killer does."""

    row: int

    def read(self, row):
        if row == self.row:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().read(row)


def test_a_killed_process_ends_in_a_sentence(images, tmp_path):
    val = open_sources(images)["val"]
    deadly = Deadly(**vars(val), row=3)
    with pytest.raises(PipelineError, match=r"a process was killed at row 0, bee/v0\.png, or soon after"):
        over_rows(examine, deadly, workers=2, title="val")
    hashes = np.array([list(content_hash(val, row)) for row in range(6)], np.uint8)
    with pytest.raises(PipelineError, match="val failed: a worker was ended by SIGKILL; if memory ran out"):
        write_one(tmp_path / "x", deadly, hashes)
    hashes[5] = 0
    with pytest.raises(PipelineError, match=r"val failed: bee/v5\.png changed while it was being packed"):
        write_one(tmp_path / "x", val, hashes)


def write_one(path, source, hashes):
    settings = {"max_resolution": 64, "jpeg_quality": 90, "write_mode": "smart"}
    readable = np.ones(len(hashes), bool)
    write_beton(
        path, source, sha256=hashes, readable=readable, longest_side=12, workers=2, title="val", **settings
    )


def test_small_pictures_are_raw_and_large_ones_jpeg_in_smart_mode(tmp_path):
    for i, side in enumerate((73, 74, 600)):  # 73 * 73 * 3 = 15,987 bytes, 74 * 74 * 3 = 16,428
        write(tmp_path / "data" / f"{i}.png", png(side, side))
    beton = pack(config(tmp_path / "data", tmp_path / "out", max_resolution=500)).splits["train"].beton
    pictures = beton_of(beton).metadata["f0"]
    assert pictures["mode"].tolist() == [RAW, JPEG, JPEG]
    assert pictures["width"].tolist() == [73, 74, 500]


def test_a_beton_that_is_not_whole_is_noticed(packed, tmp_path):
    labels = open_dataset(packed).splits["train"].labels
    data = (packed / "train.beton").read_bytes()
    reader = beton_of(packed / "train.beton")
    samples = reader.header.nbytes + reader.field_descriptors.nbytes
    row_1 = samples + reader.metadata.itemsize + reader.metadata.dtype.fields["f1"][1]
    assert data[row_1 : row_1 + 8] == (1).to_bytes(8, "little")
    for damaged, message in (
        (data[:row_1] + bytes(8) + data[row_1 + 8 :], "does not hold row i at sample i"),
        (data[:-24], "does not hold the pixels of every row"),
    ):
        (tmp_path / "x.beton").write_bytes(damaged)
        with pytest.raises(PipelineError, match=message):
            check_beton(tmp_path / "x.beton", labels)
    with pytest.raises(PipelineError, match="holds 36 samples, expected 35"):
        check_beton(packed / "train.beton", labels[:-1])


def test_a_page_holds_the_largest_picture():
    assert page_size(28) == 8 * 2**20
    for side in (1200, 4000, 16384):
        page = page_size(side)
        assert page.bit_count() == 1
        assert 2 * 3 * side**2 <= page < 2**32


def test_reduced_keeps_the_longer_side_within_the_limit():
    assert reduced(Image.new("RGB", (300, 200)), 100).size == (100, 66)
    assert reduced(Image.new("RGB", (1, 900)), 100).size == (1, 100)
    same = Image.new("RGB", (100, 40))
    assert reduced(same, 100) is same


def identity(folder):
    """The identity of train/, computed here and now."""
    source = open_sources(folder)["train"]
    return identity_of("train", source, [content_hash(source, row) for row in range(len(source.names))])


def test_identity_changes_with_bytes_labels_names_and_order_but_not_with_times(images, tmp_path):
    def changed(name, change):
        other = shutil.copytree(images, tmp_path / name, symlinks=True)
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

    original = identity(images)["images"]
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


def test_parquet_and_folder_of_the_same_images_are_one_dataset(images, tmp_path):
    source = open_sources(images)["val"]
    write_same_as_parquet(source, tmp_path / "val.parquet")
    (tmp_path / "classes.txt").write_text("ant\nbee\n")
    parquet = open_sources(tmp_path)["val"]
    hashes = [[content_hash(each, row) for row in range(6)] for each in (source, parquet)]
    assert hashes[0] == hashes[1]
    assert identity_of("val", source, hashes[0]) == identity_of("val", parquet, hashes[1])


def write_same_as_parquet(source, path):
    path.parent.mkdir(exist_ok=True)
    rows = [{"bytes": source.read(row), "path": name} for row, name in enumerate(source.names)]
    pq.write_table(pa.table({"image": rows, "label": source.labels}), path, row_group_size=4)


def test_a_dataset_of_parquet_files_and_strange_names(images, tmp_path):
    source = open_sources(images)["val"]
    write_same_as_parquet(source, tmp_path / "data" / "train.parquet")
    folder = os.fsencode(tmp_path / "strange") + b"/caf\xe9"
    os.makedirs(folder)
    with open(folder + b"/\xff.png", "wb") as file:
        file.write(source.read(0))
    from_parquet = pack(config(tmp_path / "data", tmp_path / "one")).splits["train"]
    strange = pack(config(tmp_path / "strange", tmp_path / "two")).splits["train"]
    assert [from_parquet.source.read(row) for row in range(6)] == [source.read(row) for row in range(6)]
    assert from_parquet.names == source.names
    assert strange.names == ["caf\udce9/\udcff.png"]
    assert strange.classes == (r"caf\xe9",)
    assert strange.source.read(0) == source.read(0)
