"""Paths in flags, settings files and recipes: ~ is the home folder, and a URL is refused before it is a folder."""

from pathlib import Path

import pytest

from cli import run_cli
from pipeline.errors import WrongUse
from pipeline.settings.commands import PackConfig
from pipeline.settings.local_path import local_path
from pipeline.settings.toml_file import from_toml
from pipeline.sweeps.recipe import read_recipe


@pytest.mark.parametrize(
    "url", ["s3://b/c.zarr", "gs://b", "https://host/x.tar", "file:///tmp/x", "hf://datasets/a/b"]
)
def test_a_url_is_refused(url: str) -> None:
    with pytest.raises(WrongUse, match=f"{url} is a URL, and only local paths"):
        local_path(url)


@pytest.mark.parametrize("path", ["run:1/ds", "a/b", "/x//y", "c:/x", "-", "~nobody-here/x"])
def test_other_paths_stay_as_they_are(path: str) -> None:
    assert local_path(path) == Path(path)


def test_the_home_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert local_path("~/images") == tmp_path / "images"
    settings = tmp_path / "s.toml"
    settings.write_text('data = "~/images"\nout = "~/out"\n')
    assert from_toml(PackConfig, settings) == {"data": tmp_path / "images", "out": tmp_path / "out"}
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
    with pytest.raises(WrongUse, match=r"s3://b/c\.zarr is a URL"):
        read_recipe(recipe)


@pytest.mark.parametrize(
    "command",
    [
        "pack s3://b/d out",
        "pack . s3://b/out",
        "cache-teacher ds s3://b/c.zarr",
        "cache-teacher ds c.zarr --weights https://h/w.pt",
        "cache info s3://b/c.zarr",
        "cache verify s3://b/c.zarr",
        "distill ds s3://b/c.zarr run",
        "eval s3://b/run --dataset ds",
        "report a s3://b/run --out x.html",
        "teachers --check s3://b/w.pt",
        "plan --out s3://b/x.md",
        "pack . out --config s3://b/s.toml",
    ],
)
def test_every_command_refuses_a_url_for_every_path(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_cli(command.split()) == 2
    assert "is a URL, and only local paths can be used" in capfd.readouterr().err
    assert not list(tmp_path.iterdir())
