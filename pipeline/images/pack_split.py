"""How a dataset folder is filled: one split at a time, each file under a temporary name until it is whole."""

import errno
import fcntl
import hashlib
import json
import os
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from cache.durable import sync
from pipeline.errors import PipelineError, WrongUse
from pipeline.images.beton_writer import write_beton
from pipeline.images.scan import Found, content_hash, examine, over_rows
from pipeline.images.sources import SPLITS, Source, escape

MADE_OF = b"anchorage"  # the key in SPLIT.parquet's metadata under which identity and settings stand


def identity_of(split: str, source: Source, hashes: Sequence[bytes]) -> dict[str, Any]:
    """What a split is made of. `images` is the sha256 over every row's path (its length in 8 bytes, then its
    bytes), label (8 bytes) and content hash (32 bytes), in order, whole numbers little-endian.
    """
    digest = hashlib.sha256()
    for name, label, content in zip(source.names, source.labels.tolist(), hashes, strict=True):
        path = name.encode("utf-8", "surrogateescape")
        digest.update(len(path).to_bytes(8, "little") + path)
        digest.update(label.to_bytes(8, "little", signed=True) + content)
    return {
        "split": split,
        "rows": len(source.names),
        "classes": list(source.classes),
        "images": digest.hexdigest(),
    }


def current_identity(split: str, source: Source, workers: int) -> dict[str, Any]:
    """The identity of the images as they are now, by reading all of them."""
    hashes = over_rows(content_hash, source, workers=workers, title=f"{split}: comparing")
    return identity_of(split, source, hashes)


def pack_split(
    out: Path, split: str, source: Source, settings: dict[str, Any], workers: int
) -> dict[str, Any]:
    """Write SPLIT.parquet, then SPLIT.beton, unless both are there and made of these images and settings.

    Returns the split's entry in dataset.json. Raises PipelineError when no image can be read.
    """
    table_path, beton = out / f"{split}.parquet", out / f"{split}.beton"
    made_of = read_made_of(table_path)
    if (
        made_of is None
        or made_of["settings"] != settings
        or made_of["identity"] != current_identity(split, source, workers)
    ):
        beton.unlink(missing_ok=True)
        made_of = _write_table(table_path, split, source, settings, workers)
    if not beton.exists():
        with temporary(beton) as partial:
            _write_beton(partial, table_path, split, source, settings, workers)
    return {
        "rows": len(source.names),
        "classes": list(source.classes),
        "identity": made_of["identity"],
        "unreadable": _report_unreadable(table_path, split),
        "place": source.place,
        "bytes": {"beton": beton.stat().st_size, "parquet": table_path.stat().st_size},
    }


def read_made_of(table_path: Path) -> dict[str, Any] | None:
    """Identity and settings in a SPLIT.parquet; None if there is none, or another program wrote it."""
    try:
        return json.loads((pq.read_schema(table_path).metadata or {})[MADE_OF])
    except (OSError, pa.ArrowException, KeyError, ValueError):
        return None


def _write_table(
    path: Path, split: str, source: Source, settings: dict[str, Any], workers: int
) -> dict[str, Any]:
    found = over_rows(examine, source, workers=workers, title=f"{split}: reading")
    if all(each.reason for each in found):
        raise PipelineError(
            f"{split}: none of {len(found)} images can be read; {source.names[0]}: {found[0].reason}"
        )
    identity = identity_of(split, source, [each.sha256 for each in found])
    made_of = {"identity": identity, "settings": settings}
    table = _table(source, found).replace_schema_metadata({MADE_OF: json.dumps(made_of).encode()})
    with temporary(path) as partial:
        pq.write_table(table, partial, compression="zstd")
    return made_of


def _table(source: Source, found: list[Found]) -> pa.Table:
    columns = {
        "row": pa.array(np.arange(len(found))),
        "path": pa.array([escape(name) for name in source.names], pa.string()),
        "label": pa.array(source.labels),
        "sha256": pa.array([each.sha256.hex() for each in found], pa.string()),
        "readable": pa.array([each.reason is None for each in found], pa.bool_()),
        "reason": pa.array([each.reason and escape(each.reason) for each in found], pa.string()),
        "thumb": pa.array([each.thumb for each in found], pa.uint64()),
        "width": pa.array([each.width for each in found], pa.int32()),
        "height": pa.array([each.height for each in found], pa.int32()),
    }
    return pa.table(columns)


def _write_beton(
    partial: Path, table_path: Path, split: str, source: Source, settings: dict[str, Any], workers: int
) -> None:
    table = pq.read_table(table_path, columns=["sha256", "readable", "width", "height"])
    write_beton(
        partial,
        source,
        sha256=hashes_of(table),
        readable=table["readable"].to_numpy(),
        longest_side=int(max(table["width"].to_numpy().max(), table["height"].to_numpy().max())),
        workers=workers,
        title=f"{split}: writing",
        **settings,
    )


def hashes_of(table: pa.Table) -> NDArray[np.uint8]:
    """(N, 32) content hashes."""
    hexadecimal = "".join(table["sha256"].to_pylist())
    return np.frombuffer(bytes.fromhex(hexadecimal), np.uint8).reshape(-1, 32)


def _report_unreadable(table_path: Path, split: str) -> int:
    """How many images cannot be used; the first are named on the terminal."""
    table = pq.read_table(table_path, columns=["path", "reason"])
    bad = table.filter(pc.is_valid(table["reason"]))
    print(f"{split}: {len(table)} images, {len(bad)} of them unreadable")
    for row in bad.slice(0, 3).to_pylist():
        print(f"  {row['path']}: {row['reason']}")
    if len(bad) > 3:
        print(f"  ... all of them with the reason: {table_path}")
    return len(bad)


@contextmanager
def temporary(path: Path) -> Iterator[Path]:
    """A name to write to, which becomes `path` when the block ends well: never half a file under that name.

    Raises PipelineError when the system refuses, as a full disk does.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield partial
        sync(partial)
        partial.replace(path)
        sync(path.parent)
    except OSError as error:
        raise PipelineError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def sole_writer(out: Path) -> Iterator[None]:
    """The folder `out`, made if need be, for this process alone; WrongUse when another one packs into it.

    A folder that was made for nothing is removed.
    """
    existed = out.exists()
    try:
        out.mkdir(parents=True, exist_ok=True)
        folder = os.open(out, os.O_RDONLY)
    except OSError as error:
        kind = (
            PipelineError if error.errno in (errno.ENOSPC, errno.EIO) else WrongUse
        )  # of a disk that failed
        raise kind(f"cannot make the folder {out}: {error.strerror}") from error
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as error:
        raise WrongUse(f"another process packs into {out}; wait for it or choose another folder") from error
    finally:
        if not existed:
            with suppress(OSError):  # something was written into it, as it should be
                out.rmdir()
        os.close(folder)


def clear_leftovers(out: Path, splits: Collection[str]) -> None:
    """Remove what a pack that was cut short left behind and that is not part of one of these splits.

    Raises WrongUse, and removes nothing, when the folder holds anything that `pack` did not write.
    """
    files = sorted(out.iterdir())
    leftovers = [file for file in files if file.name.startswith(".") and file.suffix == ".tmp"]
    for file in sorted(set(files) - set(leftovers)):
        if file.stem not in SPLITS.values() or read_made_of(file.with_suffix(".parquet")) is None:
            raise WrongUse(f"{out} is no dataset but holds {file.name}; choose a new or empty folder")
        if file.stem not in splits:
            leftovers.append(file)
    for file in leftovers:
        file.unlink()
