"""`embed` writes the embeddings of a folder or a dataset to an array file, and refuses wrong flags."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipeline.embedding.embed_command import embed_any
from pipeline.errors import WrongUse
from pipeline.images.dataset import Dataset
from pipeline.images.sources import open_sources
from pipeline.settings.commands import EmbedConfig
from pipeline.teachers.registry import load_teacher
from tests.support.mixed_images import BLACK, UNREADABLE


def test_a_plain_folder_becomes_an_array_and_its_names(images: Path, tmp_path: Path) -> None:
    config = EmbedConfig(data=images, out=tmp_path / "e.npy", teacher="pixels", image_size=8)
    embed_any(config)
    found = np.load(tmp_path / "e.npy")
    names = (tmp_path / "e.names.txt").read_text().splitlines()
    sources = open_sources(images)
    assert names == [f"{split}/{name}" for split in ("train", "val") for name in sources[split].names]
    backbone = load_teacher("pixels", image_size=8)
    image = Image.open(images / names[100]).convert("RGB")
    pixels = backbone.preprocessing.transform(image).flatten().numpy()
    assert found.dtype == np.float32
    # float32 arithmetic
    np.testing.assert_allclose(found[100], pixels / np.linalg.norm(pixels), rtol=1e-5)
    assert np.isnan(found).all(1).nonzero()[0].tolist() == [BLACK, UNREADABLE]


def test_a_dataset_becomes_a_table(dataset: Dataset, images: Path, tmp_path: Path) -> None:
    embed_any(EmbedConfig(data=dataset.path, out=tmp_path / "e.parquet", teacher="pixels", image_size=8))
    embed_any(EmbedConfig(data=images, out=tmp_path / "e.npy", teacher="pixels", image_size=8))
    table, array = pq.read_table(tmp_path / "e.parquet"), np.load(tmp_path / "e.npy")
    assert table.schema.field("embedding").type.value_type == "float"
    assert table["path"].to_pylist() == (tmp_path / "e.names.txt").read_text().splitlines()
    for row, found in enumerate(table["embedding"].to_pylist()):
        if row in (BLACK, UNREADABLE):
            assert found is None
        else:
            np.testing.assert_array_equal(np.float32(found), array[row])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"out": "x.zarr"}, "is not a dataset.*pack"),
        ({"teacher": None}, "either --run RUN or --teacher NAME"),
        ({"run": Path("r")}, "either --run RUN or --teacher NAME"),
        ({"run": Path("r"), "teacher": None, "weights": Path("w")}, "--weights belongs to --teacher"),
        ({"run": Path("absent"), "teacher": None}, "run folder absent does not exist"),
    ],
)
def test_wrong_use_of_embed_is_a_sentence(images: Path, tmp_path: Path, changes: dict, message: str) -> None:
    values = {"data": images, "out": "x.npy", "teacher": "pixels", **changes}
    with pytest.raises(WrongUse, match=message):
        embed_any(EmbedConfig(**{**values, "out": tmp_path / values["out"]}))


def test_a_datasets_own_files_are_not_overwritten(dataset: Dataset, images: Path) -> None:
    table = dataset.path / "train.parquet"
    before = table.read_bytes()
    with pytest.raises(
        WrongUse, match=r"train\.parquet is inside a dataset, whose own files have such names"
    ):
        embed_any(EmbedConfig(data=images, out=table, teacher="pixels", image_size=8))
    assert table.read_bytes() == before
