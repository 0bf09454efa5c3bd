"""Names of images are kept as they are, in few bytes."""

import pickle
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.images.image_names import ImageNames

# any bytes, as the names of Linux's files
file_names = st.lists(st.binary().map(lambda name: name.decode("utf-8", "surrogateescape")))


@given(file_names, st.slices(20))
def test_they_are_the_names_that_were_given(names: list[str], part: slice) -> None:
    packed = ImageNames(iter(names))
    assert list(packed) == names
    assert [packed[row] for row in range(-len(names), len(names))] == 2 * names
    assert packed[part] == names[part]
    assert packed == names == pickle.loads(pickle.dumps(packed))
    assert packed != [*names, "one more"]


@pytest.mark.parametrize("row", [2, -3])
def test_a_row_beyond_the_last_is_an_error(row: int) -> None:
    with pytest.raises(IndexError):
        ImageNames(["a", "b"])[row]


def test_a_name_takes_8_bytes_more_than_its_letters() -> None:
    tracemalloc.start()
    names = ImageNames(f"n{row:08}/n{row:08}_{row:05}.JPEG" for row in range(20_000))
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # an array grows by a sixteenth at once
    assert held < 20_000 * (len(names[0]) + 9)
