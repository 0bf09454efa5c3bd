"""A folder with some unreadable images, packed once for all tests here."""

import shutil
from pathlib import Path

import pytest

from pipeline.images.pack import pack
from tests.support.flawed_images import pack_config, write_flawed_images


@pytest.fixture(scope="session")
def flawed_images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The image folder of `write_flawed_images`."""
    folder = tmp_path_factory.mktemp("images")
    write_flawed_images(folder)
    return folder


@pytest.fixture(scope="session")
def flawed_dataset(flawed_images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The dataset of `flawed_images`; a test that changes it uses `flawed_copy`."""
    out = tmp_path_factory.mktemp("packed") / "dataset"
    pack(pack_config(flawed_images, out))
    return out


@pytest.fixture
def flawed_copy(flawed_dataset: Path, tmp_path: Path) -> Path:
    """A copy of `flawed_dataset`."""
    return shutil.copytree(flawed_dataset, tmp_path / "copied")
