"""A folder with some unreadable images, and settings to pack it."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from pipeline.images.beton_writer import check_beton
from pipeline.images.dataset import open_dataset
from pipeline.images.sources import Source
from pipeline.settings.commands import PackConfig

DRAWS = np.random.default_rng(0)
UNREADABLE = ("ant/empty.png", "bee/noise.jpg", "bee/half.png")
LOST = "ant/lost.png"
JPEG, RAW = 0, 1  # how FFCV's tables mark what an image is stored as


def png(width: int = 12, height: int = 9) -> bytes:
    """An image of noise as PNG."""
    stream = io.BytesIO()
    Image.fromarray(DRAWS.integers(0, 256, (height, width, 3), np.uint8)).save(stream, "PNG")
    return stream.getvalue()


def write(file: Path, data: bytes) -> None:
    """Write a file and its folder."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(data)


def write_flawed_images(folder: Path) -> None:
    """36 images of two classes in train/, 6 in val/: good ones, a wide one, a narrow one, and four unreadable ones."""
    for i in range(30):
        write(folder / "train" / ("ant", "bee")[i % 2] / f"{i:02}.png", png(8 + i % 5, 8 + i % 7))
    write(folder / "train/ant/wide.png", png(300, 40))
    write(folder / "train/ant/narrow.png", png(1, 900))
    write(folder / "train" / UNREADABLE[0], b"")
    write(folder / "train" / UNREADABLE[1], DRAWS.bytes(300))
    write(folder / "train" / UNREADABLE[2], png()[:-40])
    (folder / "train" / LOST).symlink_to("nowhere.png")
    for i in range(6):
        write(folder / "val/bee" / f"v{i}.png", png())


def write_as_parquet(source: Source, path: Path) -> None:
    """The same images as Hugging Face would write them."""
    path.parent.mkdir(exist_ok=True)
    rows = [{"bytes": source.read(row), "path": name} for row, name in enumerate(source.names)]
    pq.write_table(pa.table({"image": rows, "label": source.labels}), path, row_group_size=4)


def pack_config(data: Path, out: Path, **changes: Any) -> PackConfig:
    """Settings of `pack` with two workers and a longer side of at most 100 px."""
    return PackConfig(data=data, out=out, workers=2, **{"max_resolution": 100, **changes})


def state_of(folder: Path) -> dict[str, tuple[int, bytes]]:
    """The time of change and the content of each file of a dataset."""
    return {file.name: (file.stat().st_mtime_ns, file.read_bytes()) for file in folder.iterdir()}


def beton_of(path: Path) -> Any:
    """A .beton as FFCV itself reads it."""
    from ffcv.reader import Reader

    return Reader(str(path))


def assert_same_dataset(found: Path, expected: Path) -> None:
    """Assert that two folders hold the same files, rows and identities, and that every .beton is sound."""
    assert sorted(file.name for file in found.iterdir()) == sorted(file.name for file in expected.iterdir())
    wanted = open_dataset(expected)
    for name, split in open_dataset(found).splits.items():
        assert split.identity == wanted.splits[name].identity
        assert np.array_equal(split.thumbs, wanted.splits[name].thumbs)
        check_beton(split.beton, split.labels)
