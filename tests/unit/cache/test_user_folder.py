"""URLs and the folders of their copies: each follows from the other."""

from pathlib import Path

import pytest

from cache.user_folder import as_typed, copy_of, url_of, user_folder

URLS = [
    "s3://bucket/name.zarr",
    "s3://b/some/deep er/c.zarr",
    "hf://datasets/me/x@main/c",
    "gs://b/ü%2F/c.zarr",
]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.mark.parametrize("url", URLS)
def test_a_copy_is_of_its_url(url: str) -> None:
    folder = copy_of(url)
    assert url_of(folder) == url
    assert folder.name == url.split("/")[-1]
    assert as_typed(folder) == url
    assert (
        as_typed(f"the split of {folder} has 3 of {folder}/train")
        == f"the split of {url} has 3 of {url}/train"
    )


def test_the_folder_follows_xdg_cache_home(
    home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert copy_of("s3://b/a/c.zarr") == home / "anchorage" / "remote" / "s3" / "b%2Fa" / "c.zarr"
    assert copy_of("S3://b/c.zarr/") == copy_of("s3://b/c.zarr")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert user_folder("remote") == tmp_path / ".cache" / "anchorage" / "remote"


def test_no_copy_lies_within_another() -> None:
    folders = [copy_of(url) for url in ("s3://b/a", "s3://b/a/c.zarr", "s3://b/a/c.zarr/d", "s3://c/a")]
    assert not [a for a in folders for b in folders if a != b and a.is_relative_to(b)]


@pytest.mark.parametrize(
    "url", ["s3://bucket", "s3://bucket/", "s3:///x", "s3://b//x", "s3://b/../x", "s3://b/.."]
)
def test_what_is_no_folder_in_a_bucket_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="does not name a folder in a bucket"):
        copy_of(url)


def test_other_paths_are_shown_as_they_are(home: Path) -> None:
    copies = home / "anchorage" / "remote"
    for path in (Path("a/b"), copies, copies / "s3" / "b", copies / "s3" / "b" / "c" / "train"):
        assert url_of(path) is None
    assert as_typed(Path("a/b")) == "a/b"


def test_a_folder_behind_a_link_is_known_too(home: Path, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    home.symlink_to(tmp_path / "real")
    folder = copy_of("s3://b/c.zarr").resolve()
    assert folder.is_relative_to(tmp_path / "real")
    assert url_of(folder) == as_typed(folder) == "s3://b/c.zarr"
