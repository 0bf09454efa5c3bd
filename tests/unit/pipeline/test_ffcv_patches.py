from pathlib import Path

import numpy as np

from pipeline.ffcv_patches import MappedReader
from pipeline.images.dataset import open_dataset


def test_the_tables_are_those_that_ffcv_reads(packed: Path) -> None:
    beton = open_dataset(packed).split("train").beton
    mapped, copied = MappedReader(str(beton)), MappedReader.__base__(str(beton))
    assert mapped.metadata_type == copied.metadata_type
    assert np.array_equal(mapped.metadata, copied.metadata)
    rows = copied.alloc_table["sample_id"]
    assert sorted(rows.tolist()) == list(range(160))
    assert np.array_equal(mapped.sizes[rows], copied.alloc_table["size"])


def test_the_tables_stay_in_the_file(packed: Path) -> None:
    mapped = MappedReader(str(open_dataset(packed).split("train").beton))
    assert np.shares_memory(mapped.metadata, mapped.content)
    assert not mapped.metadata.flags.writeable
    # of each row, the size of its picture alone is kept in memory
    assert mapped.sizes.nbytes == 4 * 160
