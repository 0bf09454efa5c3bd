"""Bad input ends in one sentence and the right exit code: no traceback, no hang, nothing written."""

import faulthandler
import re
import shlex
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import click
import numpy as np
import pytest

import cli
from tests.support.bad_checkpoints import CHECKPOINTS
from tests.support.bad_files import Make, encoded_image, file, nothing, png, png_header
from tests.support.bad_folders import FAILING_FOLDERS, WRONG_FOLDERS
from tests.support.bad_options import BAD_COMMANDS, BAD_OPTIONS
from tests.support.bad_settings import WRONG_SETTINGS
from tests.support.bad_stores import STORES
from tests.support.golden_copy import golden_copy

WRONG_USES = [*WRONG_SETTINGS, *BAD_OPTIONS, *BAD_COMMANDS, *WRONG_FOLDERS]
FAILURES = [*FAILING_FOLDERS, *STORES, *CHECKPOINTS]
CASES = [*WRONG_USES, *FAILURES]
LONGEST = 30  # seconds after which a case counts as a hang; the slowest take 4
PROGRESS = re.compile(r"\d+%\||\?it/s| images/s|^$|^Usage: |^Try ")


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return golden_copy(tmp_path_factory.mktemp("good"))


@pytest.fixture(autouse=True)
def watchdog() -> Iterator[None]:
    """Fail a case that hangs; if it hangs in compiled code, dump every thread's stack and exit."""

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
    """Return every file and folder below some folders, files with size and time of change, but no locks."""
    found = {path: path.lstat() for folder in folders for path in folder.rglob("*") if path.name != ".lock"}
    return {
        str(path): (0, 0) if path.is_dir() else (stat.st_size, stat.st_mtime_ns)
        for path, stat in found.items()
    }


@pytest.mark.parametrize(
    ("command", "make", "sentence", "whole", "code"),
    [pytest.param(*case[1:], case in WRONG_SETTINGS, 2, id=case[0]) for case in WRONG_USES]
    + [pytest.param(*case[1:], False, 1, id=case[0]) for case in FAILURES],
)
def test_bad_input_is_one_sentence(
    command: str,
    make: Make,
    sentence: str,
    whole: bool,
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
    start, _, found_sentence = said[0].partition(": ")
    assert start.lower() == "error"
    if whole:
        assert found_sentence == sentence.format(**places)
    assert whole or sentence in found_sentence
    assert found == code
    assert held(tmp_path, good) == before


PLACES = {"dataset": "dataset", "cache": "teacher.zarr", "run": "run", "pictures": "pictures"}

BAD_IMAGES: dict[str, bytes] = {
    "empty": b"",
    "text": b"This is no image.\n",
    "a web page": b"<!DOCTYPE html><html><body>404</body></html>",
    "an archive": b"PK\x03\x04" + bytes(60),
    "svg": b"<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'/>",
    "postscript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n",
    "half a png": encoded_image("PNG")[:60],
    "half a jpeg": encoded_image("JPEG")[:400],
    "half a gif": encoded_image("GIF")[:20],
    "half a bmp": encoded_image("BMP")[:500],
    "half a webp": encoded_image("WEBP")[:30],
    "half a tiff": encoded_image("TIFF")[:100],
    "a png without pixels": png_header(40, 30),
    "a png of no width": png_header(0, 30),
    "a decompression bomb": png_header(100_000, 100_000),
    "floating point": encoded_image("TIFF", "F"),
    "zeros": bytes(5000),
}


@pytest.mark.parametrize("name", BAD_IMAGES)
def test_a_bad_image_keeps_its_row_and_is_counted(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    png("p/a.png", "p/c.png")(tmp_path)
    file("p/b.png", BAD_IMAGES[name])(tmp_path)
    command = "embed p out.npy --teacher tests.golden.make:teacher --device cpu"
    assert cli.run_cli(command.split()) == 0
    assert "3 rows, 1 of them without an embedding" in capsys.readouterr().out
    rows = np.load("out.npy")
    assert np.isnan(rows).all(axis=1).tolist() == [False, True, False]


def commands(group: click.Group, path: str = "") -> Iterator[tuple[str, click.Command]]:
    """Yield every command of a group, and of the groups in it, with its full name."""
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, f"{path}{name} ")
        else:
            yield f"{path}{name}", command


COMMANDS = dict(commands(cli.main))


def is_restricted(option: click.Parameter) -> bool:
    """Whether an option takes numbers or one of several choices."""
    numeric = isinstance(option.type, click.types.IntParamType | click.types.FloatParamType | click.Tuple)
    closed = isinstance(option.type, click.Choice) or (option.metavar or "").startswith("[")
    return isinstance(option, click.Option) and (numeric or closed)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_refuses_something(name: str) -> None:
    assert [command for _, command, _, _ in CASES if f"{command} ".startswith(f"{name} ")]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_with_choices_or_bounds_has_a_bad_value(name: str) -> None:
    restricted = {option.opts[0] for option in COMMANDS[name].params if is_restricted(option)}
    given = [shlex.split(command) for _, command, _, _ in BAD_OPTIONS if command.startswith(f"{name} ")]
    tried = {next(word for word in reversed(words) if word.startswith("--")) for words in given}
    assert restricted - tried == set()


def test_no_case_comes_twice() -> None:
    made = Counter((command, name) for name, command, _, _ in CASES)
    plain = Counter(command for _, command, make, _ in CASES if make is nothing)
    assert [case for case, count in [*made.items(), *plain.items()] if count > 1] == []
