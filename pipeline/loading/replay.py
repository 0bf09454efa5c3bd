"""Replay: the student sees the very crops of which the cache holds the teacher's embeddings."""

import numpy as np
from numpy.typing import NDArray

from cache.reader import Split


class Replay:
    """The random views that epochs show, one each, in turn: epoch e shows view 1 + e mod `views`.

    split: of the cache, opened with these views. view, crops (N, 5) and norms (N,): of the present epoch, see
    `Split.crop` and `Split.norm`.
    """

    def __init__(self, split: Split, views: int) -> None:
        assert 1 <= views < split.shape.views, (views, split.shape)
        self.split, self.views = split, views
        self.view = 0
        self.crops: NDArray[np.float32] = np.empty((0, 5), np.float32)
        self.norms: NDArray[np.float32] = np.empty(0, np.float32)

    def start(self, epoch: int) -> None:
        """Read the crops and norms of an epoch's view, unless it is the present one."""
        view = 1 + epoch % self.views
        if view != self.view:
            self.view = view
            self.crops, self.norms = self.split.crop_of(view), self.split.norm_of(view)
