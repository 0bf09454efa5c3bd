import io
import urllib.error
import urllib.request
from dataclasses import replace
from email.message import Message
from pathlib import Path

import pytest

from pipeline.errors import PipelineError
from pipeline.images.debian_package import DebianPackage, package_files
from tests.support.drawn_clip_art import write_deb, write_drawings

ROOT = "usr/share/drawings/png"
URL = "https://mirror.example/pool/drawings_1_all.deb"


class Answer(io.BytesIO):
    headers = Message()


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DebianPackage:
    """A package that lies on a mirror and is not installed."""
    digest = write_deb(tmp_path / "mirror.deb", ROOT, write_drawings(tmp_path / "original", 3))
    content = (tmp_path / "mirror.deb").read_bytes()

    def urlopen(url: str, timeout: float) -> Answer:
        assert (url, timeout > 0) == (URL, True)
        return Answer(content)

    monkeypatch.setattr(urllib.request, "urlopen", urlopen)
    return DebianPackage(name="drawings", url=URL, sha256=digest, root=ROOT)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def no_network(url: str, timeout: float) -> Answer:
    raise urllib.error.URLError("no route to host")


def test_an_installed_package_is_taken_as_it_is(tmp_path: Path) -> None:
    package = DebianPackage(name="any", url=URL, sha256="", root=str(tmp_path)[1:])
    assert package_files(package, tmp_path / "cache") == tmp_path
    assert not (tmp_path / "cache").exists()


def test_elsewhere_it_is_fetched_once_and_its_files_come_back(
    tmp_path: Path, package: DebianPackage, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = package_files(package, tmp_path / "cache")
    assert contents(folder) == contents(tmp_path / "original")
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["drawings"]
    monkeypatch.setattr(urllib.request, "urlopen", no_network)
    assert package_files(package, tmp_path / "cache") == folder


def test_without_a_network_the_file_may_be_put_there(
    tmp_path: Path, package: DebianPackage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(urllib.request, "urlopen", no_network)
    cache = tmp_path / "cache"
    with pytest.raises(
        PipelineError, match=r"no route to host.*cache/drawings_1_all\.deb yourself.*apt-get install drawings"
    ):
        package_files(package, cache)
    assert list(cache.iterdir()) == []
    (cache / "drawings_1_all.deb").write_bytes((tmp_path / "mirror.deb").read_bytes())
    assert contents(package_files(package, cache)) == contents(tmp_path / "original")


def test_another_file_is_refused_before_it_is_unpacked(tmp_path: Path, package: DebianPackage) -> None:
    wrong = replace(package, sha256="0" * 64)
    with pytest.raises(
        PipelineError, match=f"expected the sha256 {'0' * 64}, found {package.sha256}; remove it"
    ):
        package_files(wrong, tmp_path / "cache")
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["drawings_1_all.deb"]


def test_what_a_killed_run_left_is_cleared_away(tmp_path: Path, package: DebianPackage) -> None:
    half = tmp_path / "cache" / ".drawings.partial" / "half.png"
    half.parent.mkdir(parents=True)
    half.write_bytes(b"")
    assert contents(package_files(package, tmp_path / "cache")) == contents(tmp_path / "original")
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["drawings"]
