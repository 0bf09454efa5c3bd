"""A writable copy of the golden files of format 1, with uncompressed .beton files."""

import gzip
import shutil
from pathlib import Path

GOLDEN = Path(__file__).parents[1] / "golden"


def golden_copy(folder: Path) -> Path:
    """Copy the golden images, dataset, store and run into `folder`, and return it."""
    for name in ("pictures", "dataset", "teacher.zarr", "run"):
        shutil.copytree(GOLDEN / name, folder / name)
    for packed in (folder / "dataset").glob("*.beton.gz"):
        packed.with_suffix("").write_bytes(gzip.decompress(packed.read_bytes()))
        packed.unlink()
    return folder
