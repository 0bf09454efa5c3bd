"""Writing a .beton."""

import io
import resource
from pathlib import Path

import pytest

from pipeline.ffcv_patches import open_for_whole_writes

LIMIT = 100  # bytes of a file: of a write across it the system takes a part, and refuses the next


def test_a_write_that_the_disk_takes_in_part_fails(tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (LIMIT, before[1]))
    try:
        with io.FileIO(tmp_path / "plain", "ab") as plain:
            assert plain.write(bytes(150)) == LIMIT, "FFCV's own file says so, and FFCV does not listen"
        whole = open_for_whole_writes(str(tmp_path / "whole"), "ab", 0)
        with whole, pytest.raises(OSError, match="File too large"):
            whole.write(bytes(150))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    with open_for_whole_writes(str(tmp_path / "whole"), "ab", 0) as whole:
        assert whole.write(bytes(50)) == 50
    assert (tmp_path / "whole").stat().st_size == LIMIT + 50
