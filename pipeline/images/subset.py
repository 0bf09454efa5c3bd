"""A random share of the rows, for ablations and small runs."""

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import WrongUse


def subset(eligible: NDArray[np.int64], share: float, seed: int) -> NDArray[np.int64]:
    """Return a share of the eligible rows, drawn with a seed, ascending. Raises WrongUse for a share outside (0, 1]."""
    if not 0 < share <= 1:
        raise WrongUse(
            f"--subset {share} is not a share of the rows: expected a number above 0 and at most 1"
        )
    count = max(1, round(share * len(eligible)))
    return np.sort(np.random.default_rng(seed).permutation(eligible)[:count])
