"""The order of rows in an epoch, and their distribution over ranks."""

import math
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, kw_only=True)
class Order:
    """The order of rows: a pure function of (seed, epoch), distributed over `world` ranks batch by batch."""

    rows: np.ndarray
    batch: int
    seed: int = 0
    shuffle: bool = True
    drop_last: bool = True
    rank: int = 0
    world: int = 1

    @property
    def batches(self) -> int:
        """Batches per rank and epoch."""
        count = len(self.rows) / (self.batch * self.world)
        return math.floor(count) if self.drop_last else math.ceil(count)

    def of_epoch(self, epoch: int) -> np.ndarray:
        """Return this rank's rows of an epoch, a new int64 array: its `batch` rows of each global batch, in order."""
        rows = self.rows.astype(np.int64)
        if self.shuffle:
            np.random.default_rng((self.seed, epoch)).shuffle(rows)
        if self.drop_last:
            rows = rows[: self.batches * self.batch * self.world]
        if self.world > 1:
            rows = rows.reshape(-1, self.world, self.batch)[:, self.rank].reshape(-1)
        return rows
