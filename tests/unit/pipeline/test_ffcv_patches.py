"""The patches of FFCV: they are in place, they do what they are for, and another version of FFCV is refused."""

import io
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline import ffcv_patches
from pipeline.errors import PipelineError
from pipeline.ffcv_patches import VERSION, MappedReader, open_for_whole_writes, require_version
from pipeline.images.dataset import open_dataset
from pipeline.loading.image_loader import ImageLoader
from pipeline.loading.order import Order

LIMIT = 100  # bytes of a file; of a write across it the system accepts a part, and refuses the next write


def test_every_patch_is_in_place_after_the_import() -> None:
    from ffcv import memory_allocator
    from ffcv.loader import loader
    from ffcv.pipeline import graph

    assert loader.Reader is MappedReader
    assert loader.OSCacheManager is ffcv_patches.MappedImages
    assert loader.EpochIterator is ffcv_patches.ErrorReportingIterator
    assert graph.allocate_query is ffcv_patches.unpinned
    assert memory_allocator.open is open_for_whole_writes


def test_ffcv_compiles_no_dictionary_and_uses_no_gpu_when_it_is_imported() -> None:
    code = (
        "import numba.typed\n"
        "import torch\n"
        "torch.cuda.is_available = lambda: True\n"
        "import pipeline.ffcv_patches\n"
        "from ffcv.fields.rgb_image import IMAGE_MODES\n"
        "from ffcv.loader.epoch_iterator import IS_CUDA\n"
        "print(type(IMAGE_MODES).__name__, numba.typed.Dict is dict, IS_CUDA)\n"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["dict", "False", "False"]


def test_ffcv_needs_no_distutils() -> None:
    code = (
        "import sys\n"
        "sys.modules['distutils'] = None\n"  # importing it fails, as since Python 3.12
        "import pipeline.ffcv_patches\n"
        "print('ffcv.pipeline.graph' in sys.modules, 'distutils.log' in sys.modules)\n"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["True", "False"]


def test_another_version_of_ffcv_is_refused() -> None:
    require_version(VERSION)
    with pytest.raises(
        PipelineError, match=rf"expected FFCV {VERSION}, found 1\.1\.0: install ffcv=={VERSION}, as"
    ):
        require_version("1.1.0")


def test_a_loader_pins_nothing_where_there_is_a_gpu(packed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pinned: list[torch.Size] = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: pinned.append(tensor.shape) or tensor)
    beton = open_dataset(packed).split("train").beton
    loader = ImageLoader(beton, Order(rows=np.arange(160), batch=32), image_size=24)
    assert sum(1 for _ in loader.epoch(0)) == 5
    assert not pinned


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
    # only the size of each row's image is kept in memory
    assert mapped.sizes.nbytes == 4 * 160


def test_a_write_that_the_disk_takes_in_part_fails(tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (LIMIT, before[1]))
    try:
        with io.FileIO(tmp_path / "plain", "ab") as plain:
            assert plain.write(bytes(150)) == LIMIT, "FFCV ignores what its own file returns"
        whole = open_for_whole_writes(str(tmp_path / "whole"), "ab", 0)
        with whole, pytest.raises(OSError, match="File too large"):
            whole.write(bytes(150))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    with open_for_whole_writes(str(tmp_path / "whole"), "ab", 0) as whole:
        assert whole.write(bytes(50)) == 50
    assert (tmp_path / "whole").stat().st_size == LIMIT + 50
