"""`cache info`: what it says of a store, in a terminal's 80 columns."""

import json
from pathlib import Path

import pytest

from cache.layout import SplitShape
from cache.writer import create_split
from pipeline.report.stores import print_store
from pipeline.settings.cache_commands import InfoConfig
from tests.support.tiny_store import create, labels_of, thumbs_of, write

SHAPE = SplitShape(rows=4096 + 100, views=2, dim=8)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    path = tmp_path / "teacher.zarr"
    create(path, SHAPE)
    write(path, SHAPE.chunk_keys[:3], SHAPE)
    return path


def test_it_fits_a_terminal_of_80_columns(
    store: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    print_store(InfoConfig(store=store))
    lines = capsys.readouterr().out.replace(str(store), "teacher.zarr").splitlines()
    assert max(map(len, lines)) <= 80
    assert {"rows 4,196", "views 2", "dim 8", "chunks written 3 of 4", "architecture planted"} <= cells(lines)


def test_each_split_has_the_id_of_its_images(
    store: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    add_split(store, "val", {"split": "val", "images": "2" * 64})
    add_split(store, "test", {"split": "test"})  # not of a packed dataset
    monkeypatch.setenv("COLUMNS", "80")
    print_store(InfoConfig(store=store))
    lines = capsys.readouterr().out.replace(str(store), "teacher.zarr").splitlines()
    assert max(map(len, lines)) <= 80
    assert {f"dataset - {'1' * 16} {'2' * 16}", "rows 4,196 4,196 4,196"} <= cells(lines)


def add_split(store: Path, split: str, dataset: dict[str, str]) -> None:
    labels, thumbs = labels_of(SHAPE), thumbs_of(SHAPE)
    create_split(store, split, dataset=dataset, rows=SHAPE.rows, views=2, dim=8, labels=labels, thumbs=thumbs)


def cells(lines: list[str]) -> set[str]:
    """Return lines without a table's borders, and with single spaces."""
    return {" ".join(line.replace("│", " ").split()) for line in lines}


def test_json_has_the_same_numbers(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    print_store(InfoConfig(store=store, json=True))
    split = json.loads(capsys.readouterr().out)["splits"]["train"]
    assert (split["images"], split["rows"], split["views"], split["dim"]) == ("1" * 16, 4196, 2, 8)
    assert (split["chunks_written"], split["chunks"]) == (3, 4)
    assert (split["usable"], split["unreadable"], split["degenerate"]) == (4192, 2, 2)  # of the whole view
