"""Writing a .beton, and reading it back."""

import os
import signal
from dataclasses import dataclass

import numpy as np
import pytest
from PIL import Image

from pipeline.errors import PipelineError
from pipeline.images.beton_writer import check_beton, largest, page_size, reduced, write_beton
from pipeline.images.dataset import open_dataset
from pipeline.images.examine import examine
from pipeline.images.pack import pack
from pipeline.images.scan import content_hashes
from pipeline.images.sources import FolderSource, open_sources
from tests.support.flawed_images import JPEG, RAW, beton_of, pack_config, png, write


@dataclass(frozen=True, kw_only=True)
class Deadly(FolderSource):
    """Kills the process that reads one row, as the out-of-memory killer does."""

    row: int

    def read(self, row):
        if row == self.row:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().read(row)


def test_a_killed_process_is_an_error(flawed_images, tmp_path):
    deadly = Deadly(**vars(open_sources(flawed_images)["val"]), row=3)
    with pytest.raises(PipelineError, match=r"a process was killed at row 0, bee/v0\.png, or soon after"):
        content_hashes(deadly, workers=2, title="val")
    killed = r"val failed near row 3, bee/v3\.png: a worker was killed by SIGKILL; if memory ran out"
    with pytest.raises(PipelineError, match=killed):
        write_one(tmp_path / "x", deadly)


def write_one(path, source, max_resolution=64):
    settings = {"jpeg_quality": 90, "write_mode": "smart", "max_resolution": max_resolution}
    return write_beton(path, source, workers=2, title="val", **settings)


def test_what_is_found_of_each_image_is_returned(flawed_images, tmp_path):
    source = open_sources(flawed_images)["train"]
    found = write_one(tmp_path / "x", source)
    assert found.table["done"].all()
    assert len(found.reasons) == np.count_nonzero(~found.table["readable"]) > 0
    for row in range(len(source.names)):
        expected, record = examine(source, row), found.table[row]
        assert record["sha256"].tobytes() == expected.sha256
        assert record["thumb"] == expected.thumb
        assert found.reasons.get(row) == expected.reason
        size = expected.image.size if expected.image else (0, 0)
        assert (record["width"], record["height"]) == size


def test_pages_are_as_small_as_the_images_allow(flawed_images, tmp_path):
    source = open_sources(flawed_images)["train"]
    assert largest(source, 500, 1, "train") == 500
    assert largest(source, 4000, 2, "train") == 900  # one is a line of pixels; the unreadable ones count as 0
    write_one(tmp_path / "x", source, max_resolution=4000)
    assert beton_of(tmp_path / "x").page_size == 8 * 2**20


def test_small_images_are_raw_and_large_ones_jpeg_in_smart_mode(tmp_path):
    for i, side in enumerate((73, 74, 600)):  # 73 * 73 * 3 = 15,987 bytes, 74 * 74 * 3 = 16,428
        write(tmp_path / "data" / f"{i}.png", png(side, side))
    beton = pack(pack_config(tmp_path / "data", tmp_path / "out", max_resolution=500)).splits["train"].beton
    images = beton_of(beton).metadata["f0"]
    assert images["mode"].tolist() == [RAW, JPEG, JPEG]
    assert images["width"].tolist() == [73, 74, 500]


def test_an_incomplete_beton_is_detected(flawed_dataset, tmp_path):
    labels = open_dataset(flawed_dataset).splits["train"].labels
    data = (flawed_dataset / "train.beton").read_bytes()
    reader = beton_of(flawed_dataset / "train.beton")
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
        check_beton(flawed_dataset / "train.beton", labels[:-1])


def test_a_page_holds_the_largest_image():
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
