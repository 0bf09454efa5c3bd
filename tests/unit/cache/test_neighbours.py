"""The graph of neighbours beside a split's other arrays."""

from pathlib import Path

import numpy as np
import pytest

from cache.audit import audit
from cache.errors import CorruptStore, NotAStore
from cache.layout import SplitShape
from cache.neighbours import has_neighbours, read_neighbours, write_neighbours
from tests.support.tiny_store import contents, written

SHAPE = SplitShape(rows=4096 + 50, views=1, dim=8)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    written(tmp_path / "cache.zarr", SHAPE)
    return tmp_path / "cache.zarr"


def graph(width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(-1, SHAPE.rows, (SHAPE.rows, width), dtype=np.int32)


@pytest.mark.parametrize("width", [1, 7])
def test_a_graph_is_read_as_it_was_written_and_changes_no_other_file(path: Path, width: int) -> None:
    before = contents(path)
    assert not has_neighbours(path, "train")
    write_neighbours(path, "train", graph(width))
    assert has_neighbours(path, "train")
    np.testing.assert_array_equal(read_neighbours(path, "train"), graph(width))
    assert {name: data for name, data in contents(path).items() if "/neighbours/" not in name} == before
    assert not audit(path).faults


def test_a_split_without_one_says_how_to_make_it(path: Path) -> None:
    with pytest.raises(
        NotAStore, match=r"no graph of neighbours; add it with `python cli\.py cache neighbours"
    ):
        read_neighbours(path, "train")


def test_a_damaged_one_is_not_read(path: Path) -> None:
    write_neighbours(path, "train", graph(3))
    chunk = path / "train/neighbours/c/0/0"
    chunk.write_bytes(bytes(8) + chunk.read_bytes()[8:])
    with pytest.raises(CorruptStore, match="is damaged: delete it and make it again"):
        read_neighbours(path, "train")
