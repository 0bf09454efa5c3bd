"""Calls to an object store: what is tried again, and what each error becomes."""

import errno
from collections.abc import Iterator

import pytest
from s3fs import S3FileSystem

from pipeline.errors import PipelineError, WrongUse
from pipeline.remote import remote_folder
from pipeline.remote.remote_folder import Missing, RemoteFolder, Unreachable
from pipeline.settings.local_path import SCHEMES
from tests.support.s3_server import Proxy


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    waits: list[float] = []
    monkeypatch.setattr(remote_folder.time, "sleep", waits.append)
    return waits


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch) -> RemoteFolder:
    monkeypatch.setitem(remote_folder.PACKAGES, "memory", "fsspec")
    return RemoteFolder("memory://folder/name")


def failing(monkeypatch: pytest.MonkeyPatch, folder: RemoteFolder, *errors: Exception) -> list[Exception]:
    """Let reading fail with these errors, one after the other, and then succeed; returns those still to come."""
    left = list(errors)

    def read(path: str) -> bytes:
        if left:
            raise left.pop(0)
        return b"content"

    monkeypatch.setattr(folder.fs, "cat_file", read)
    return left


class ConnectionClosedError(Exception):
    """As botocore's, which is no OSError."""


class NoCredentialsError(Exception):
    """As botocore's."""


def test_a_broken_connection_is_tried_again_after_a_growing_wait(
    folder: RemoteFolder, monkeypatch: pytest.MonkeyPatch, at_once: list[float]
) -> None:
    failing(
        monkeypatch, folder, OSError("reset in c/0/403/0"), TimeoutError(), ConnectionClosedError("closed")
    )
    assert folder.read("x") == b"content"
    assert [0.25 * 2**n <= wait <= 0.5 * 2**n for n, wait in enumerate(at_once)] == [True] * 3


def test_one_that_stays_broken_is_a_sentence(folder: RemoteFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    left = failing(monkeypatch, folder, *[OSError("reset by peer")] * 6, ValueError("not reached"))
    with pytest.raises(
        Unreachable, match=r"^memory://folder/name cannot be reached \(reset by peer\): check .*AWS_"
    ):
        folder.read("x")
    assert len(left) == 1


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            PermissionError("Access Denied"),
            r"access was refused \(Access Denied\); check the name of the bucket",
        ),
        (
            OSError("Forbidden: https://storage.googleapis.com/storage/v1/b/x"),
            r"access was refused \(Forbidden: ",
        ),
        (
            NoCredentialsError("Unable to locate"),
            "no credentials were found; give them by the service's own tools",
        ),
        (NotImplementedError("no lists"), "cannot be used: no lists"),
        (OSError(errno.EINVAL, "not satisfiable"), "cannot be used: .*not satisfiable"),
        (ValueError("bad name"), "cannot be used: bad name"),
    ],
)
def test_what_would_come_again_is_not_tried_again(
    error: Exception,
    message: str,
    folder: RemoteFolder,
    monkeypatch: pytest.MonkeyPatch,
    at_once: list[float],
) -> None:
    failing(monkeypatch, folder, error)
    with pytest.raises(PipelineError, match=message):
        folder.read("x")
    assert at_once == []


def test_a_missing_file_is_none(folder: RemoteFolder) -> None:
    assert folder.read("none") is None
    with pytest.raises(Missing, match="check the name"):
        folder.read_parts("none", [(0, 1)])


@pytest.mark.parametrize(
    ("url", "package"),
    [("gs://b/x", "gcsfs"), ("s3://b/x", "s3fs"), ("hf://datasets/a/b/x", "huggingface_hub")],
)
def test_a_package_that_is_not_installed_is_named(
    url: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import fsspec

    def missing(*arguments: object, **settings: object) -> None:
        raise ImportError(f"Install {package}")

    monkeypatch.setattr(fsspec, "url_to_fs", missing)
    with pytest.raises(WrongUse, match=f"{url} needs the package {package}: run `pip install {package}`"):
        RemoteFolder(url)


@pytest.mark.parametrize("url", ["nonesuch://b/x", "ftp://127.0.0.1:1/x/y", "sftp://someone:secret@host/x/y"])
def test_an_unknown_kind_of_url_is_a_sentence(url: str) -> None:
    with pytest.raises(
        WrongUse, match=rf"{url} is of no known kind: .* at s3://, .*gs://, .*abfs:// or hf://$"
    ):
        RemoteFolder(url)


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (ConnectionRefusedError(111, "Connection refused"), Unreachable, "cannot be reached .*refused"),
        (
            ValueError("Must provide an account"),
            PipelineError,
            "az://b/x cannot be used: Must provide an acc",
        ),
        (FileNotFoundError("no such repository"), Missing, "no such repository.*: check the name"),
    ],
)
def test_a_connection_that_fails_at_once_is_a_sentence(
    error: Exception, kind: type, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import fsspec

    def failing(*arguments: object, **settings: object) -> None:
        raise error

    monkeypatch.setattr(fsspec, "url_to_fs", failing)
    with pytest.raises(kind, match=message):
        RemoteFolder("az://b/x")


@pytest.fixture
def without_credentials(proxy: Proxy, monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> Iterator[None]:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    S3FileSystem.clear_instance_cache()
    yield
    S3FileSystem.clear_instance_cache()


@pytest.mark.usefixtures("without_credentials")
def test_s3_without_credentials_says_how_to_give_them() -> None:
    with pytest.raises(
        PipelineError, match=r"s3://b/x cannot be used: no credentials .*`aws configure`, or set AWS_"
    ):
        RemoteFolder("s3://b/x").read("a")


def test_the_kinds_in_the_messages_are_those_of_fsspec() -> None:
    from fsspec.registry import known_implementations

    assert remote_folder.PACKAGES.keys() == set(SCHEMES)
    assert remote_folder.PACKAGES.keys() <= known_implementations.keys()
    assert remote_folder.CREDENTIALS.keys() <= remote_folder.PACKAGES.keys()
