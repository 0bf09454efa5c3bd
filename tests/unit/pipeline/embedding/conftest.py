"""Images and a dataset for the tests of embedding."""

from pathlib import Path

import pytest

from pipeline.images.dataset import Dataset, open_dataset
from pipeline.images.pack import pack
from pipeline.settings.commands import PackConfig
from tests.support.mixed_images import draw_mixed_images


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    draw_mixed_images(folder)
    return folder


@pytest.fixture(scope="session")
def dataset(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    out = tmp_path_factory.mktemp("dataset") / "d"
    pack(PackConfig(data=images, out=out, workers=1))
    return open_dataset(out)
