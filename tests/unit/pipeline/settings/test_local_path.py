"""Paths in flags, settings files and recipes: ~ is the home folder; a URL is a copy's folder, or refused."""

from pathlib import Path

import pytest

from cache.user_folder import copy_of
from cli import run_cli
from pipeline.errors import WrongUse
from pipeline.settings.commands import PackConfig
from pipeline.settings.field import as_json
from pipeline.settings.local_path import local_path
from pipeline.settings.toml_file import from_toml
from pipeline.settings.training import DistillConfig
from pipeline.sweeps.recipe import read_recipe


@pytest.mark.parametrize(
    "url", ["s3://b/c.zarr", "gs://b", "https://host/x.tar", "file:///tmp/x", "hf://datasets/a/b"]
)
def test_a_url_is_refused(url: str) -> None:
    with pytest.raises(WrongUse, match=f"{url} is a URL, and only local paths"):
        local_path(url)


@pytest.mark.parametrize("url", ["s3://b/c.zarr", "gs://b/a/c", "hf://datasets/a/b"])
def test_a_dataset_or_a_cache_may_be_at_a_url(url: str) -> None:
    assert local_path(url, url=True) == copy_of(url)


@pytest.mark.parametrize("url", ["https://host/x.zarr", "file:///tmp/x", "ftp://h/a/b", "sftp://me@h/a/b"])
def test_not_at_every_url(url: str) -> None:
    with pytest.raises(
        WrongUse, match=f"{url} is a URL, and only local paths .* may be at s3://, .*gs://, .* or hf://"
    ):
        local_path(url, url=True)


def test_a_bucket_alone_is_no_folder() -> None:
    with pytest.raises(
        WrongUse, match=r"s3://b does not name a folder in a bucket: expected .* s3://bucket/name"
    ):
        local_path("s3://b", url=True)


@pytest.mark.parametrize("url", [True, False])
@pytest.mark.parametrize(
    "address", ["s3://key:secret@bucket/c.zarr", "s3://key:se/cret@b/c", "sftp://me:secret@h/a"]
)
def test_a_password_in_a_url_is_refused_and_not_shown(address: str, url: bool) -> None:
    with pytest.raises(WrongUse, match="URL holds a password, which runs and stores would record") as error:
        local_path(address, url=url)
    assert "cret" not in str(error.value)


def test_a_name_with_an_at_is_no_password() -> None:
    azure = "abfs://container@account.dfs.core.windows.net/c.zarr"
    assert local_path(azure, url=True) == copy_of(azure)


@pytest.mark.parametrize("path", ["run:1/ds", "a/b", "/x//y", "c:/x", "-", "~nobody-here/x"])
def test_other_paths_stay_as_they_are(path: str) -> None:
    assert local_path(path) == Path(path)


def test_the_home_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert local_path("~/images") == tmp_path / "images"
    settings = tmp_path / "s.toml"
    settings.write_text('data = "~/images"\nout = "~/out"\n')
    assert from_toml(PackConfig, settings) == {"data": tmp_path / "images", "out": tmp_path / "out"}
    settings.write_text('data = "~/images"\nout = "s3://b/out"\n')
    assert from_toml(PackConfig, settings)["out"] == copy_of("s3://b/out")
    settings.write_text('data = "s3://b/images"\n')
    with pytest.raises(WrongUse, match=r"s\.toml: data: s3://b/images is a URL"):
        from_toml(PackConfig, settings)


def test_recipes_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    recipe = tmp_path / "r.toml"
    text = 'dataset = "~/d"\ncache = "c.zarr"\nruns = "~/runs"\nreferences = ["~/other.zarr"]\n'
    recipe.write_text(text)
    found = read_recipe(recipe)
    assert (found.dataset, found.runs) == (tmp_path / "d", tmp_path / "runs")
    assert found.references == (tmp_path / "other.zarr",)
    recipe.write_text(text.replace("c.zarr", "s3://b/c.zarr"))
    assert read_recipe(recipe).cache == copy_of("s3://b/c.zarr")
    recipe.write_text(text.replace("~/d", "https://b/d"))
    with pytest.raises(WrongUse, match=r"https://b/d is a URL"):
        read_recipe(recipe)
    recipe.write_text(text + 'results = "s3://b/results"\n')
    with pytest.raises(WrongUse, match=r"s3://b/results is a URL"):
        read_recipe(recipe)


def test_a_record_has_the_url(tmp_path: Path) -> None:
    config = DistillConfig(dataset=local_path("s3://b/d", url=True), cache=Path("c.zarr"), run=tmp_path)
    recorded = as_json(config)
    assert (recorded["dataset"], recorded["cache"], recorded["run"]) == ("s3://b/d", "c.zarr", str(tmp_path))


@pytest.mark.parametrize(
    "command",
    [
        "pack s3://b/d out",
        "pack . https://b/out",
        "demo-data s3://b/d",
        "cache-teacher ds c.zarr --weights https://h/w.pt",
        "cache-teacher ds c.zarr --weights s3://b/w.pt",
        "cache info https://b/c.zarr",
        "distill ds c.zarr s3://b/run",
        "distill ds c.zarr run --weights s3://b/w.pt",
        "eval c.zarr --dataset https://b/ds",
        "embed ds s3://b/o.zarr --teacher demo",
        "export s3://b/run x.onnx",
        "sweep s3://b/r.toml",
        "report a --out s3://b/x.html",
        "teachers --check s3://b/w.pt",
        "plan --out s3://b/x.md",
        "pack . out --config s3://b/s.toml",
    ],
)
def test_every_command_refuses_a_url_where_only_a_local_path_can_be(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_cli(command.split()) == 2
    assert "is a URL, and only local paths can be used" in capfd.readouterr().err
    assert not list(tmp_path.iterdir())
