"""The order of rows: which rank gets which."""

import numpy as np

from pipeline.loading.order import Order


def test_ranks_share_each_global_batch_without_overlap() -> None:
    rows = np.arange(100, 203)
    whole = Order(rows=rows, batch=20, seed=1).of_epoch(4)
    parts = [Order(rows=rows, batch=5, seed=1, rank=rank, world=4) for rank in range(4)]
    shares = np.stack([part.of_epoch(4).reshape(-1, 5) for part in parts], axis=1)
    assert np.array_equal(shares.reshape(-1), whole)
    assert {part.batches for part in parts} == {5}
