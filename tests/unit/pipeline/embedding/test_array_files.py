"""Array files: only .npy and .parquet."""

from pathlib import Path

import numpy as np
import pytest

from pipeline.embedding.array_files import export_embeddings
from pipeline.errors import WrongUse


def test_an_unknown_kind_of_file_is_refused_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(WrongUse, match=r"ends in '\.csv'; expected \.npy or \.parquet"):
        export_embeddings(["a"], np.ones((1, 2), np.float32), tmp_path / "e.csv")
