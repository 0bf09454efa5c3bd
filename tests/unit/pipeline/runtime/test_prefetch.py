"""Work that threads do ahead."""

import pytest

from pipeline.errors import PipelineError
from pipeline.runtime.prefetch import prefetch


def test_what_is_made_comes_in_order_and_an_error_comes_through() -> None:
    assert list(prefetch(lambda row: row * row, range(100), 2, 16)) == [row * row for row in range(100)]

    def fail(row: int) -> int:
        raise PipelineError(f"row {row}")

    with pytest.raises(PipelineError, match="row 3"):
        list(prefetch(fail, [3, 4], 2, 16))


def test_no_more_is_made_than_asked_for() -> None:
    begun: list[int] = []
    made = prefetch(begun.append, range(100), 1, 3)
    next(made)
    made.close()
    assert begun in ([0], [0, 1], [0, 1, 2], [0, 1, 2, 3])
