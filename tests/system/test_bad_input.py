"""Bad input of every kind ends in one sentence and the right exit code: no traceback, no hang, nothing written."""

import faulthandler
import re
import shlex
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import cli
from tests.support.bad_checkpoints import CHECKPOINTS
from tests.support.bad_files import Make, file, nothing, picture, png, png_header
from tests.support.bad_folders import FAILING_FOLDERS, WRONG_FOLDERS
from tests.support.bad_settings import WRONG_SETTINGS
from tests.support.bad_stores import STORES
from tests.support.golden_copy import golden_copy

WRONG_USES = [*WRONG_SETTINGS, *WRONG_FOLDERS]
FAILURES = [*FAILING_FOLDERS, *STORES, *CHECKPOINTS]
LONGEST = 30  # seconds that a case may take before it counts as a hang; the slowest take 4
PROGRESS = re.compile(r"\d+%\||\?it/s| images/s|^$|^Usage: |^Try ")


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return golden_copy(tmp_path_factory.mktemp("good"))


@pytest.fixture(autouse=True)
def watchdog() -> Iterator[None]:
    """A case that hangs fails; one that hangs in compiled code ends the tests with every thread's place."""

    def bark(number: int, frame: object) -> None:
        raise TimeoutError(f"no end within {LONGEST} seconds")

    previous = signal.signal(signal.SIGALRM, bark)
    signal.alarm(LONGEST)
    faulthandler.dump_traceback_later(2 * LONGEST, exit=True)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, previous)
    faulthandler.cancel_dump_traceback_later()


def held(*folders: Path) -> dict[str, tuple[int, int]]:
    """Every file and folder below some, a file with its size and time of change; a lock is no content."""
    found = {path: path.lstat() for folder in folders for path in folder.rglob("*") if path.name != ".lock"}
    return {
        str(path): (0, 0) if path.is_dir() else (stat.st_size, stat.st_mtime_ns)
        for path, stat in found.items()
    }


@pytest.mark.parametrize(
    ("command", "make", "sentence", "code"),
    [pytest.param(*case, 2, id=name) for name, *case in WRONG_USES]
    + [pytest.param(*case, 1, id=name) for name, *case in FAILURES],
)
def test_bad_input_is_one_sentence(
    command: str,
    make: Make,
    sentence: str,
    code: int,
    good: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    make(good)
    before = held(tmp_path, good)
    places = {name: good / place for name, place in PLACES.items()}
    found = cli.run_cli(shlex.split(command.format(**places)))
    said = re.split(r"[\r\n]", capsys.readouterr().err)
    said = [line for line in said if not PROGRESS.search(line)]
    assert len(said) == 1, said
    assert said[0].lower().startswith("error: "), said
    assert sentence in said[0]
    assert found == code
    assert held(tmp_path, good) == before


PLACES = {"dataset": "dataset", "cache": "teacher.zarr", "run": "run", "pictures": "pictures"}

BAD_PICTURES: dict[str, bytes] = {
    "empty": b"",
    "text": b"This is no picture.\n",
    "a web page": b"<!DOCTYPE html><html><body>404</body></html>",
    "an archive": b"PK\x03\x04" + bytes(60),
    "svg": b"<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'/>",
    "postscript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n",
    "half a png": picture("PNG")[:60],
    "half a jpeg": picture("JPEG")[:400],
    "half a gif": picture("GIF")[:20],
    "half a bmp": picture("BMP")[:500],
    "half a webp": picture("WEBP")[:30],
    "half a tiff": picture("TIFF")[:100],
    "a png without pixels": png_header(40, 30),
    "a png of no width": png_header(0, 30),
    "a decompression bomb": png_header(100_000, 100_000),
    "floating point": picture("TIFF", "F"),
    "zeros": bytes(5000),
}


@pytest.mark.parametrize("name", BAD_PICTURES)
def test_a_bad_picture_keeps_its_row_and_is_counted(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    png("p/a.png", "p/c.png")(tmp_path)
    file("p/b.png", BAD_PICTURES[name])(tmp_path)
    command = "embed p out.npy --teacher tests.golden.make:teacher --device cpu"
    assert cli.run_cli(command.split()) == 0
    assert "3 rows, 1 of them unreadable" in capsys.readouterr().out
    rows = np.load("out.npy")
    assert np.isnan(rows).all(axis=1).tolist() == [False, True, False]


def test_there_are_enough_cases_and_none_twice() -> None:
    cases = [(command, make) for _, command, make, _ in (*WRONG_USES, *FAILURES)]
    assert len(cases) + len(BAD_PICTURES) >= 150
    plain = [command for command, make in cases if make is nothing]
    assert len(set(plain)) == len(plain)
