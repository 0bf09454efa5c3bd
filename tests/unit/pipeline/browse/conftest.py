"""One dataset with a cache and a run for all tests of `browse`; no test changes it."""

import pytest

from pipeline.browse.gallery import Gallery, open_gallery
from pipeline.settings.browse import BrowseConfig
from tests.support.browsed import browsed


@pytest.fixture(scope="session")
def config(tmp_path_factory: pytest.TempPathFactory) -> BrowseConfig:
    """The settings that show it: 48 validation images of 4 classes, a planted teacher and an untrained student."""
    return browsed(tmp_path_factory.mktemp("browsed"))


@pytest.fixture(scope="session")
def gallery(config: BrowseConfig) -> Gallery:
    return open_gallery(config)
