"""Commands with URLs, whole, against a real S3 server: what is typed is what is written, shown and recorded."""

import json
import shutil
from pathlib import Path

import pytest

from cli import run_cli
from pipeline.errors import PipelineError
from pipeline.export.export import export_student
from pipeline.remote import upload
from pipeline.remote.commands import remote_folders
from pipeline.remote.download import local_copy
from pipeline.remote.remote_folder import RemoteFolder
from pipeline.remote.upload import send_rest
from pipeline.runtime.run_command import resumes
from pipeline.settings.cache_commands import CacheTeacherConfig, CombineConfig
from pipeline.settings.field import READ, WRITE
from pipeline.settings.local_path import local_path
from tests.support.s3_server import Proxy, s3
from tests.unit.pipeline.remote.test_download import visible
from tests.unit.pipeline.remote.test_upload import listed, there

GOLDEN = "tests.golden.make"


def run(*arguments: object) -> None:
    assert run_cli([str(argument) for argument in arguments]) == 0, arguments


@pytest.fixture(scope="module")
def sent(
    server: Proxy, packed: Path, cached: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, str]:
    """URLs of a dataset and its cache, both sent from another machine."""
    urls = "s3://of-commands/data/squares", "s3://of-commands/c.zarr"
    s3().mkdir("of-commands")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("other-home")))
        for url, folder in zip(urls, (packed, cached), strict=True):
            shutil.copytree(folder, local_path(url, url=True))
            send_rest(local_path(url, url=True))
    return urls


@pytest.fixture
def written(bucket: str, pictures: Path, scheduler: str, home: Path) -> tuple[str, str]:
    """URLs of a dataset and its cache, both written by commands on another machine."""
    dataset, cache = f"{bucket}/data/squares", f"{bucket}/c.zarr"
    run("pack", pictures, dataset, "--workers", 1)
    run(*stage_one(dataset, cache, scheduler))
    shutil.rmtree(home)
    return dataset, cache


def stage_one(dataset: str, cache: str, scheduler: str) -> tuple[str, ...]:
    teacher = f"{GOLDEN}:teacher"
    return (
        "cache-teacher",
        dataset,
        cache,
        "--teacher",
        teacher,
        "--scheduler",
        scheduler,
        "--device",
        "cpu",
    )


def test_stage_two_by_url(
    sent: tuple[str, str], tmp_path: Path, proxy: Proxy, home: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    dataset, cache = sent
    folder = tmp_path / "run"
    distill = ("distill", dataset, cache, folder, "--student", f"{GOLDEN}:student", "--image-size", 24)
    run(*distill, "--epochs", 0, "--batch-size", 3, "--anchors", 4, "--device", "cpu")
    said = capfd.readouterr().err
    assert f"copied {dataset}: 5 files" in said
    assert f"copied {cache}: " in said
    config = json.loads((folder / "config.json").read_text())["config"]
    assert (config["dataset"], config["cache"]) == (dataset, cache)
    proxy.reset()
    run("cache", "verify", cache, "--dataset", dataset)
    said = capfd.readouterr()
    assert f"{cache}: sound" in said.out
    assert said.err == ""
    assert proxy.received < 20_000
    # the local path of a copy stands for its URL, in commands that others start
    run("cache", "info", local_path(cache, url=True))
    shutil.rmtree(home)
    run("cache", "info", local_path(cache, url=True))
    said = capfd.readouterr()
    assert f"copied {cache}: " in said.err
    assert f"{cache}  id " in said.out


@pytest.mark.long
def test_a_run_recorded_with_urls_is_evaluated_exported_and_finished(
    sent: tuple[str, str], tmp_path: Path, proxy: Proxy, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipeline.evaluate.protocols import teacher_cache
    from pipeline.export import export

    dataset, cache = sent
    folder = tmp_path / "run"
    distill = ("distill", dataset, cache, folder, "--student", f"{GOLDEN}:student", "--image-size", 24)
    run(*distill, "--epochs", 0, "--batch-size", 3, "--anchors", 4, "--device", "cpu")
    shutil.rmtree(home)
    assert teacher_cache(folder).path == local_path(cache, url=True)
    opened: list[Path] = []

    def note(path: Path) -> None:
        opened.append(path)
        raise PipelineError("far enough")

    monkeypatch.setattr(export, "open_dataset", note)
    with pytest.raises(PipelineError, match="far enough"):
        export_student(export.ExportConfig(run=folder, out=tmp_path / "s.onnx", int8=True))
    assert (opened[0] / "dataset.json").exists()


@pytest.mark.long
def test_stage_one_goes_on_on_a_fresh_machine(
    written: tuple[str, str],
    pictures: Path,
    scheduler: str,
    home: Path,
    proxy: Proxy,
    capfd: pytest.CaptureFixture[str],
) -> None:
    dataset, cache = written
    assert listed(dataset)["files"].keys() == there(dataset).keys()
    run("pack", pictures, dataset, "--workers", 1)
    assert f"{dataset} holds these images already" in (said := capfd.readouterr()).out
    assert f"sent {dataset}" not in said.err.splitlines()[-1]
    whole, content = there(cache), listed(cache)
    # as a machine left it that was lost: a chunk, the head and the end of the list are not there yet
    for name in ("zarr.json", "val/embedding/c/0/0/0", "val/status/c/0/0"):
        s3().rm_file(f"{cache}/{name}")
        del content["files"][name]
    RemoteFolder(cache).write(".anchorage.json", json.dumps(content | {"whole": False}).encode())
    assert run_cli(["cache", "info", cache]) == 1
    assert f"error: {cache} was sent in part only" in capfd.readouterr().err
    run(*stage_one(dataset, cache, scheduler))
    assert f"{cache}: 40 rows" in capfd.readouterr().out
    assert there(cache) == whole
    proxy.reset()
    run(*stage_one(dataset, cache, scheduler))
    assert there(cache) == whole
    assert "sent" not in capfd.readouterr().err


def test_an_error_names_the_url(
    sent: tuple[str, str], proxy: Proxy, capfd: pytest.CaptureFixture[str]
) -> None:
    dataset, cache = sent
    copy = local_copy(cache)
    graph = ("cache", "neighbours", cache, "-k", 3)
    assert run_cli([*map(str, graph)]) == 2
    other = (
        "cache-teacher",
        dataset,
        cache,
        "--teacher",
        f"{GOLDEN}:teacher",
        "--batch-size",
        "7",
        "--device",
        "cpu",
    )
    assert run_cli([*other]) == 1
    said = capfd.readouterr().err
    assert f"the store {cache} was made from something else" in said
    assert str(copy) not in said


@pytest.mark.long
def test_an_archive_whose_sending_broke_is_sent_by_the_same_command(
    bucket: str, cached: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    url, send = f"{bucket}/a.zarr", RemoteFolder.send
    convert = ["cache", "convert", str(cached), url, "--as", "zstd"]

    def broken(self: RemoteFolder, name: str, *rest: object) -> None:
        if name == "train/embedding/c/0/0/0":
            raise PipelineError("broken")
        send(self, name, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(RemoteFolder, "send", broken)
    monkeypatch.setattr(upload, "LIST_EVERY_S", 0)
    assert run_cli(convert) == 1
    assert "broken; all that was computed is kept on this machine" in capfd.readouterr().err
    monkeypatch.setattr(RemoteFolder, "send", send)
    shutil.rmtree(local_path(url, url=True))  # on another machine, which finds a part of it
    run(*convert)
    assert listed(url)["whole"]
    assert there(url) == visible(local_copy(url))
    monkeypatch.setattr(RemoteFolder, "send", broken)
    url = convert[3] = f"{bucket}/b.zarr"
    assert run_cli(convert) == 1
    monkeypatch.setattr(RemoteFolder, "send", send)
    assert run_cli(convert) == 1  # it is there, and is sent; convert never writes over an archive
    assert f"{url} exists already" in capfd.readouterr().err
    assert listed(url)["whole"]


def test_a_url_that_can_only_be_read_is_refused_for_writing(
    capfd: pytest.CaptureFixture[str], home: Path
) -> None:
    assert run_cli(["pack", ".", "hf://datasets/me/squares/d"]) == 2
    assert "can only be read" in (said := capfd.readouterr().err)
    assert "hf upload-large-folder" in said
    assert not home.exists()


def test_an_interrupted_copy_goes_on_with_any_command() -> None:
    assert resumes(["cache", "info", "s3://b/c.zarr"])
    assert not resumes(["cache", "info", "c.zarr"])


def test_what_a_command_reads_and_writes() -> None:
    dataset, cache, other = (local_path(f"s3://b/{name}", url=True) for name in ("d", "c.zarr", "o.zarr"))
    assert remote_folders(CacheTeacherConfig(dataset=dataset, cache=cache)) == {dataset: READ, cache: WRITE}
    combine = CombineConfig(caches=(cache, Path("x.zarr"), other), out=Path("y.zarr"))
    assert remote_folders(combine, combine) == {cache: READ, other: READ}
    assert remote_folders(CombineConfig(caches=(cache, other), out=other)) == {cache: READ, other: WRITE}
