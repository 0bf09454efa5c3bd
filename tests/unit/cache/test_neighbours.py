"""The graph of neighbours beside a split's other arrays."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from cache.audit import audit, remove_chunks
from cache.errors import CorruptStore, NotAStore
from cache.layout import SplitShape, Status
from cache.neighbours import has_neighbours, read_neighbours, write_neighbours
from cache.reader import open_store
from tests.support.tiny_store import column_of, contents, written

SHAPE = SplitShape(rows=4096 + 50, views=1, dim=8)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    written(tmp_path / "cache.zarr", SHAPE)
    return tmp_path / "cache.zarr"


def graph(width: int) -> np.ndarray:
    """Return random neighbours among the rows with an embedding; the others have none."""
    eligible = chunk_status() == Status.OK
    drawn = np.random.default_rng(0).choice(np.flatnonzero(eligible), (SHAPE.rows, width)).astype(np.int32)
    drawn[~eligible] = -1
    return drawn


def chunk_status() -> np.ndarray:
    return column_of(SHAPE, "status")[0]


def read(path: Path) -> np.ndarray:
    return read_neighbours(open_store(path).split("train"))


@pytest.mark.parametrize("width", [1, 7])
def test_a_graph_is_read_as_it_was_written_and_changes_no_other_file(path: Path, width: int) -> None:
    before = contents(path)
    assert not has_neighbours(path, "train")
    write_neighbours(path, "train", graph(width))
    assert has_neighbours(path, "train")
    np.testing.assert_array_equal(read(path), graph(width))
    assert {name: data for name, data in contents(path).items() if "/neighbours/" not in name} == before
    assert not audit(path).faults


def test_a_split_without_one_says_how_to_make_it(path: Path) -> None:
    with pytest.raises(
        NotAStore, match=r"no graph of neighbours; add it with `python cli\.py cache neighbours"
    ):
        read(path)


@pytest.mark.parametrize("damage", ["flip", "unlink"])
def test_a_damaged_one_is_found_and_deleted_by_a_repair(path: Path, damage: str) -> None:
    before = contents(path)
    write_neighbours(path, "train", graph(3))
    chunk = path / "train/neighbours/c/0/0"
    if damage == "flip":
        chunk.write_bytes(bytes(8) + chunk.read_bytes()[8:])
    else:
        chunk.unlink()
    with pytest.raises(CorruptStore, match=r"damaged.*: delete it and make it again"):
        read(path)
    faults = audit(path).faults
    assert [str(fault) for fault in faults] == [
        "train/neighbours is damaged, or of other images than the split"
    ]
    remove_chunks(path, faults)
    assert contents(path) == before


@pytest.mark.parametrize("kind", ["rows", "values", "unusable"])
def test_one_of_other_images_is_not_read(path: Path, kind: str) -> None:
    wrong = graph(3)
    if kind == "rows":
        other = SplitShape(rows=50, views=1, dim=8)
        written(path.with_name("other.zarr"), other)
        write_neighbours(path.with_name("other.zarr"), "train", wrong[:50])
        shutil.copytree(path.with_name("other.zarr") / "train/neighbours", path / "train/neighbours")
    else:
        # row 3 is unreadable
        wrong[0, 1] = SHAPE.rows if kind == "values" else 3
        write_neighbours(path, "train", wrong)
    with pytest.raises(CorruptStore, match="delete it and make it again"):
        read(path)
