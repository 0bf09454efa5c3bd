"""What is in a packed split: its .beton and its table."""

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipeline.errors import PipelineError, WrongUse
from pipeline.images.beton_writer import PLACEHOLDER, reduced, write_beton
from pipeline.images.dataset import open_dataset
from pipeline.images.pack import pack
from tests.support.flawed_images import LOST, RAW, UNREADABLE, beton_of, pack_config, write


def raw_pixels(beton, reader, row):
    where = reader.metadata["f0"][row]
    assert where["mode"] == RAW
    height, width = int(where["height"]), int(where["width"])
    stored = np.fromfile(beton, np.uint8, count=height * width * 3, offset=int(where["data_ptr"]))
    return stored.reshape(height, width, 3)


def test_every_row_of_the_beton_is_its_image(flawed_dataset, flawed_images):
    dataset = open_dataset(flawed_dataset)
    for split in dataset.splits.values():
        reader = beton_of(split.beton)
        assert reader.num_samples == split.rows == len(split.names)
        assert np.array_equal(reader.metadata["f1"], np.arange(split.rows))
        assert np.array_equal(reader.metadata["f2"], split.labels)
        for row, name in enumerate(split.names):
            pixels = raw_pixels(split.beton, reader, row)
            if split.readable[row]:
                original = Image.open(flawed_images / split.name / name)
                assert np.array_equal(pixels, np.asarray(reduced(original, 100)))
            else:
                assert np.array_equal(pixels, PLACEHOLDER)


def test_unreadable_images_keep_their_rows_with_a_reason(flawed_dataset):
    train = open_dataset(flawed_dataset).splits["train"]
    bad = {train.names[row] for row in np.flatnonzero(~train.readable)}
    assert bad == {*UNREADABLE, LOST}
    table = pq.read_table(flawed_dataset / "train.parquet").to_pylist()
    reasons = {row["path"]: row["reason"] for row in table if not row["readable"]}
    assert reasons[LOST] == "cannot be read: No such file or directory"
    assert reasons["ant/empty.png"] == "the file is empty"
    assert reasons["bee/noise.jpg"] == "not an image, or of an unknown format"
    assert [row["row"] for row in table] == list(range(36))
    assert {row["thumb"] for row in table if not row["readable"]} == {0}
    assert len({row["thumb"] for row in table if row["readable"]}) > 28  # one image is only one pixel wide
    sizes = {row["path"]: (row["width"], row["height"]) for row in table}
    assert sizes["ant/wide.png"] == (300, 40)
    assert sizes[LOST] == (0, 0)


def test_a_split_without_one_good_image_is_refused(tmp_path):
    write(tmp_path / "data/1.png", b"nothing")
    with pytest.raises(PipelineError, match=r"none of 1 images can be read; 1\.png: not an image"):
        pack(pack_config(tmp_path / "data", tmp_path / "out"))
    with pytest.raises(WrongUse):
        open_dataset(tmp_path / "out")


def test_a_beton_is_not_written_again_where_other_images_can_be_read(flawed_copy, flawed_images, monkeypatch):
    """Or images that this machine cannot decode would become gray ones, under the same identity."""
    (flawed_copy / "val.beton").unlink()
    table = (flawed_copy / "val.parquet").read_bytes()

    def written(path, source, **settings):
        found = write_beton(path, source, **settings)
        found.table["readable"][2] = False
        return found

    monkeypatch.setattr("pipeline.images.pack_split.write_beton", written)
    with pytest.raises(
        PipelineError, match=r"val: other images can be read now than when .*val\.parquet was"
    ):
        pack(pack_config(flawed_images, flawed_copy))
    assert not (flawed_copy / "val.beton").exists()
    monkeypatch.undo()
    pack(pack_config(flawed_images, flawed_copy))
    assert (flawed_copy / "val.parquet").read_bytes() == table
    assert not list(flawed_copy.glob(".*"))
