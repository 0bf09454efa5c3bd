"""Array files: only .npy and .parquet, and one line per name."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from pipeline.embedding.array_files import export_embeddings
from pipeline.errors import WrongUse


def test_an_unknown_kind_of_file_is_refused_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(WrongUse, match=r"ends in '\.csv'; expected \.npy or \.parquet"):
        export_embeddings(["a"], np.ones((1, 2), np.float32), tmp_path / "e.csv")


BREAKS = ["\n", "\r", "\r\n", "\v", "\f", "\x1c", "\x1d", "\x1e", "\x85", "\u2028", "\u2029"]


def test_a_name_with_a_line_break_is_one_line_and_can_be_told_from_every_other_name(tmp_path: Path) -> None:
    names = [f"a{each}b.png" for each in BREAKS] + ["a\\nb.png", "plain.png", "caf\udce9.png"]
    export_embeddings(names, np.ones((len(names), 2), np.float32), tmp_path / "e.npy")
    text = (tmp_path / "e.names.txt").read_bytes().decode()
    for lines in (text.splitlines(), text.split("\n")[:-1]):
        assert len(lines) == len(set(lines)) == len(names)
    assert lines[0] == r"a\nb.png"
    assert lines[-3:] == [r"a\\nb.png", "plain.png", r"caf\xe9.png"]
    export_embeddings(names[:-1], np.ones((len(names) - 1, 2), np.float32), tmp_path / "e.parquet")
    assert pq.read_table(tmp_path / "e.parquet")["path"].to_pylist()[:11] == names[:11]
