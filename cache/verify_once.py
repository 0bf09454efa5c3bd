"""Verify the checksums of a split's chunk files once, and again only after a file has changed.

The record of what was verified is kept outside the store, so that reading a store needs no write permission.
"""

import hashlib
import os
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path

from cache.chunkfile import read_chunk
from cache.columns import Column
from cache.durable import write_file
from cache.errors import CorruptStore, StoreError
from cache.identity import canonical_json
from cache.threads import over_threads
from cache.user_folder import user_folder

MOST_NAMED = 5


def verify(
    folder: Path,
    files: Mapping[str, Column],
    progress: Callable[[int, int], None] | None = None,
    *,
    views: int = 1,
) -> bool:
    """Check the crc32c of chunk files of the first `views` views, as name in `folder` to column; see `Split.verify`."""
    folder = folder.resolve()
    before, record = _fingerprint(folder, files), _record_file(folder, views)
    if _recorded(record) == before:
        return False
    bad = []
    for done, (name, sound) in enumerate(over_threads(partial(_sound, folder), files.items()), start=1):
        if not sound:
            bad.append(name)
        if progress is not None:
            progress(done, len(files))
    if bad:
        raise CorruptStore(_message(folder, bad))
    _record(record, before)
    return True


def _sound(folder: Path, file: tuple[str, Column]) -> tuple[str, bool]:
    name, column = file
    try:
        read_chunk(folder / name, column)
    except CorruptStore:
        return name, False
    return name, True


def _message(folder: Path, bad: list[str]) -> str:
    rest = f" and {len(bad) - MOST_NAMED} more" if len(bad) > MOST_NAMED else ""
    return (
        f"{len(bad)} chunk files of {folder} have changed since they were written: "
        f"{', '.join(bad[:MOST_NAMED])}{rest}; delete them and run the command that wrote the store again"
    )


def _fingerprint(folder: Path, names: Iterable[str]) -> bytes:
    stats = [(name, (folder / name).stat()) for name in names]
    sizes_and_times = [(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats]
    digest = hashlib.sha256(canonical_json(sizes_and_times).encode()).hexdigest()
    return canonical_json({"split": str(folder), "files": digest}).encode()


def _recorded(record: Path) -> bytes | None:
    try:
        return record.read_bytes()
    except OSError:
        return None


def _record(record: Path, fingerprint: bytes) -> None:
    # without a record the store is verified again next time, which is no error
    with suppress(StoreError):
        write_file(record, fingerprint)


def _record_file(folder: Path, views: int) -> Path:
    """Return the file of a split's record; random views have one of their own, as they are not always looked at."""
    name = os.fsencode(folder) + (f"?views={views}".encode() if views > 1 else b"")
    return user_folder("verified") / hashlib.sha256(name).hexdigest()
