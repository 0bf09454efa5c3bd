"""Fixtures of what lies at a URL: an S3 server behind a proxy, a bucket, and a private cache folder for the copies."""

import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from s3fs import S3FileSystem

from pipeline.remote import remote_folder
from tests.support.s3_server import ENVIRONMENT, Proxy, s3, s3_server

NUMBERS = itertools.count()


@pytest.fixture(scope="session")
def server() -> Iterator[Proxy]:
    with pytest.MonkeyPatch.context() as patch, s3_server() as proxy:
        for name, value in {**ENVIRONMENT, "AWS_ENDPOINT_URL": proxy.url}.items():
            patch.setenv(name, value)
        yield proxy


@pytest.fixture
def proxy(server: Proxy, home: Path, monkeypatch: pytest.MonkeyPatch) -> Proxy:
    """The proxy, which lets everything through; retries follow each other at once."""
    server.reset()
    monkeypatch.setattr(remote_folder, "FIRST_WAIT_S", 0.01)
    monkeypatch.setattr(S3FileSystem, "retries", 1)
    return server


@pytest.fixture
def bucket(proxy: Proxy) -> str:
    """The URL of a new bucket."""
    name = f"bucket-{next(NUMBERS)}"
    s3().mkdir(name)
    proxy.reset()
    return f"s3://{name}"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder of this test, as of a machine that has copied nothing yet."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture(scope="session")
def big_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the file names of a dataset: one of 24 MiB, and small ones."""
    folder = tmp_path_factory.mktemp("big") / "dataset"
    folder.mkdir()
    (folder / "train.beton").write_bytes(np.random.default_rng(0).bytes(24 << 20))
    for number in range(4):
        (folder / f"{number}.parquet").write_bytes(bytes([number]) * 1000)
    (folder / "dataset.json").write_text("{}")
    return folder
