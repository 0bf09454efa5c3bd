"""Opening a dataset and reading its splits."""

import json
import pickle
import shutil

import numpy as np
import pytest

from pipeline.errors import WrongUse
from pipeline.images.dataset import open_dataset
from pipeline.images.pack import pack
from tests.support.flawed_images import LOST, pack_config, state_of


def test_the_content_of_a_dataset(flawed_dataset, flawed_images):
    dataset = open_dataset(flawed_dataset)
    assert list(dataset.splits) == ["train", "val"]
    train = dataset.splits["train"]
    assert (train.name, train.rows, train.classes) == ("train", 36, ("ant", "bee"))
    assert train.labels.dtype == np.int64
    assert train.readable.dtype == np.bool_
    assert train.thumbs.dtype == np.uint64
    assert train.beton == flawed_dataset / "train.beton"
    assert set(train.identity) == {"split", "rows", "classes", "images"}
    description = json.loads((flawed_dataset / "dataset.json").read_text())
    assert description["splits"]["train"]["unreadable"] == 4
    assert description["data"] == str(flawed_images)
    source = train.source
    assert source.names == train.names
    for row in np.flatnonzero(train.readable):
        assert source.read(row) == (flawed_images / "train" / train.names[row]).read_bytes()
    assert source.read(train.names.index(LOST)) == b""


def test_a_split_is_pickled_without_what_it_has_read(flawed_dataset):
    split = open_dataset(flawed_dataset).splits["train"]
    small = len(pickle.dumps(split))
    split.names, split.labels, split.source.read(0)
    assert len(pickle.dumps(split)) == small
    again = pickle.loads(pickle.dumps(split))
    assert again.names == split.names
    assert pickle.loads(pickle.dumps(split.source)).read(1) == split.source.read(1)


def test_images_that_moved_are_found_again(flawed_copy, flawed_images, tmp_path):
    moved = shutil.copytree(flawed_images, tmp_path / "moved", symlinks=True)
    description = json.loads((flawed_copy / "dataset.json").read_text())
    description["data"] = str(tmp_path / "where they were")
    (flawed_copy / "dataset.json").write_text(json.dumps(description))
    with pytest.raises(WrongUse, match=r"were in .*where they were and are no longer there.*pack NEW_FOLDER"):
        _ = open_dataset(flawed_copy).splits["train"].source
    source = open_dataset(flawed_copy, data=moved).splits["train"].source
    assert source.read(0) == (moved / "train/ant/00.png").read_bytes()
    betons = {name: found for name, found in state_of(flawed_copy).items() if name != "dataset.json"}
    pack(pack_config(moved, flawed_copy))
    assert open_dataset(flawed_copy).data == moved
    assert {name: found for name, found in state_of(flawed_copy).items() if name != "dataset.json"} == betons


def test_other_folders_are_refused_with_a_reason(flawed_copy, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(WrongUse, match=r"there is no dataset .*nowhere; write it with `python cli\.py pack"):
        open_dataset(tmp_path / "nowhere")
    with pytest.raises(WrongUse, match=r"empty is not a dataset \(no dataset\.json\)"):
        open_dataset(tmp_path / "empty")
    for text, message in (
        ('{"format": 2}', "expected format 1, found 2"),
        ("{", "cannot read"),
        ("[]", "cannot read"),
    ):
        (flawed_copy / "dataset.json").write_text(text)
        with pytest.raises(WrongUse, match=message):
            open_dataset(flawed_copy)
    (flawed_copy / "dataset.json").unlink()
    with pytest.raises(WrongUse, match="is half-written; resume it with"):
        open_dataset(flawed_copy)
