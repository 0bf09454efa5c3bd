"""Check every byte of a store: metadata, file sizes, checksums and the ledger.

Files are read, not mapped, so that one that is truncated meanwhile is an error message and not a crash.
"""

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cache.archive import damaged_arrays
from cache.chunkfile import check_size
from cache.columns import Column, chunk_columns, decode, row_columns
from cache.durable import sync
from cache.errors import CorruptStore, NotAStore, StoreError
from cache.layout import ChunkKey, SplitShape
from cache.ledger import checksum_of, chunk_ledger, has_ledger, mark, row_ledger
from cache.metadata import archive_of, check_split_metadata, read_split, read_store, repair_hint, split_names
from cache.neighbours import NAME as NEIGHBOURS
from cache.neighbours import has_neighbours, read_neighbours
from cache.reader import Split
from cache.threads import over_threads


@dataclass(frozen=True, kw_only=True)
class Fault:
    """A file of a split that is not as it was written. key: its chunk, None for a file that belongs to no chunk."""

    split: str
    file: str
    reason: str
    key: ChunkKey | None = None
    rows: range = range(0)

    def __str__(self) -> str:
        place = f" (view {self.key.view}, rows {self.rows[0]} to {self.rows[-1]})" if self.key else ""
        return f"{self.split}/{self.file}{place} {self.reason}"


@dataclass(frozen=True, kw_only=True)
class Audit:
    """The result of an audit: files and bytes read, faults found, and the splits without a ledger."""

    files: int
    bytes: int
    faults: tuple[Fault, ...]
    without_ledger: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Task:
    """The files to check together: those of one chunk, or the labels and thumbs of one chunk's rows.

    ledger: the ledger's column, None for a split without one. mark: the chunk's mark in the ledger.
    """

    path: Path
    split: str
    shape: SplitShape
    key: ChunkKey
    columns: tuple[Column, ...]
    ledger: Column | None
    mark: int

    def fault(self, column: Column, reason: str) -> Fault:
        """Return a fault of this chunk's file of a column."""
        file, rows = column.file_name(self.key), self.shape.rows_of(self.key)
        return Fault(split=self.split, file=file, reason=reason, key=self.key, rows=rows)


def audit(path: Path, progress: Callable[[int, int], None] | None = None) -> Audit:
    """Read every chunk file of the store at `path` and report the faulty ones.

    Detects files that are missing, truncated, extended, changed by as little as a bit, or not part of any chunk; with a
    ledger also files that were swapped or copied from another store. `progress(done, total)` is called after each
    chunk.

    Raises:
        NotAStore: there is no store, or it has no split.
        FormatMismatch: the store has another format, or its arrays are laid out differently.
        CorruptStore: the store's identity was edited, or a split has lost its zarr.json.
    """
    if archive_of(path):
        return audit_archive(path)
    tasks = tasks_of(path)
    faults: list[Fault] = []
    for done, found in enumerate(over_threads(check_task, tasks), start=1):
        faults += found
        if progress is not None:
            progress(done, len(tasks))
    for name in split_names(path):
        faults += foreign_files(path, name, [task for task in tasks if task.split == name])
        if not any(fault.split == name for fault in faults):
            faults += graph_faults(path, name)
    columns = [column for task in tasks for column in files_of(task)]
    return Audit(
        files=len(columns),
        bytes=sum(column.file_bytes for column in columns),
        faults=tuple(faults),
        without_ledger=tuple(name for name in split_names(path) if not has_ledger(path / name)),
    )


def audit_archive(path: Path) -> Audit:
    """Decode every chunk of an archive, and report the arrays that cannot be decoded."""
    files = [file for file in path.rglob("*") if file.is_file()]
    faults = [
        Fault(split=split, file=array, reason=f"is damaged: {reason}")
        for split, array, reason in damaged_arrays(path)
    ]
    size = sum(file.stat().st_size for file in files)
    return Audit(files=len(files), bytes=size, faults=tuple(faults), without_ledger=())


def tasks_of(path: Path) -> list[Task]:
    """Return a task per chunk, and one for the labels and thumbs of each chunk's rows. Raises as `audit` does."""
    store = read_store(path)
    for folder in path.iterdir():
        if (folder / "embedding").is_dir() and not (folder / "zarr.json").exists():
            raise CorruptStore(f"{folder} has lost its zarr.json; {repair_hint(path)}")
    tasks = [task for name in split_names(path) for task in split_tasks(path, name, store["id"])]
    if not tasks:
        raise NotAStore(f"{path} has no split yet; run the command that writes it again")
    return tasks


def split_tasks(path: Path, split: str, store_id: str) -> list[Task]:
    """Return the tasks of one split. Raises as `audit` does."""
    shape, dataset = read_split(path, split)
    check_split_metadata(path, split, shape, dataset)
    ledger_kept = has_ledger(path / split)

    def task(key: ChunkKey, columns: tuple[Column, ...], ledger: Column) -> Task:
        of: dict[str, Any] = {"path": path, "split": split, "shape": shape, "key": key, "columns": columns}
        return Task(**of, ledger=ledger if ledger_kept else None, mark=mark(store_id, split, dataset, key))

    chunks = [task(key, chunk_columns(shape), chunk_ledger(shape)) for key in shape.chunk_keys]
    rows = [ChunkKey(0, index) for index in range(shape.chunks)]
    return chunks + [task(key, row_columns(shape), row_ledger(shape)) for key in rows]


def files_of(task: Task) -> tuple[Column, ...]:
    """Return the columns that a task reads a file of, the ledger last."""
    return (*task.columns, *([task.ledger] if task.ledger else []))


def check_task(task: Task) -> list[Fault]:
    """Return the faults of a task's files."""
    folder = task.path / task.split
    files = {column.name: folder / column.file_name(task.key) for column in task.columns}
    if not any(os.path.lexists(file) for file in files.values()):
        reason = "is not there, nor is any file of its chunk: it was not written yet, or was deleted"
        return [task.fault(task.columns[-1], reason)]
    faults, checksums = [], {}
    for column in task.columns:
        try:
            checksums[column.name] = checksum_of(sound_bytes(files[column.name], column))
        except (OSError, ValueError, CorruptStore) as error:
            faults.append(task.fault(column, describe(error)))
    return faults + (check_ledger(task, task.ledger, checksums) if task.ledger else [])


def check_ledger(task: Task, ledger: Column, checksums: dict[str, int]) -> list[Fault]:
    """Return a fault for each intact file whose checksum differs from the ledger's. checksums: by column name."""
    try:
        data = sound_bytes(task.path / task.split / ledger.file_name(task.key), ledger)
    except (OSError, ValueError, CorruptStore) as error:
        return [task.fault(ledger, describe(error))]
    *recorded, marked = decode(ledger, data)[0].tolist()
    if marked != task.mark:
        return [task.fault(ledger, "is the ledger of another chunk or of another store")]
    return [
        task.fault(
            column, "is whole, but not what was written here: it is another chunk's or another store's"
        )
        for column, expected in zip(task.columns, recorded, strict=True)
        if checksums.get(column.name, expected) != expected
    ]


def sound_bytes(file: Path, column: Column) -> bytes:
    """Read a chunk file. Raises OSError, CorruptStore for a wrong size, ValueError for a wrong checksum."""
    check_size(file, file.stat().st_size, column.file_bytes)
    data = file.read_bytes()
    decode(column, data)
    return data


def describe(error: Exception) -> str:
    """Return the fault of a file as a predicate: its name comes before it."""
    if isinstance(error, FileNotFoundError):
        return "is missing"
    if isinstance(error, CorruptStore):
        return "has another size than it was written with"
    return f"cannot be read: {error.strerror}" if isinstance(error, OSError) else f"has changed: {error}"


def foreign_files(path: Path, split: str, tasks: Sequence[Task]) -> Iterator[Fault]:
    """Yield a fault for each file that belongs to no chunk; the temporary files of a running writer are ignored."""
    expected = {column.file_name(task.key) for task in tasks for column in files_of(task)}
    for array in sorted({column.name for task in tasks for column in files_of(task)}):
        for inner, _, names in os.walk(path / split / array / "c"):
            for name in names:
                file = os.path.relpath(os.path.join(inner, name), path / split)
                if file not in expected and not (name.startswith(".") and name.endswith(".tmp")):
                    yield Fault(split=split, file=file, reason="belongs to no chunk of the split")


def graph_faults(path: Path, split: str) -> Iterator[Fault]:
    """Yield a fault if a sound split has a graph of neighbours that is not."""
    if has_neighbours(path, split):
        try:
            read_neighbours(Split(path, split, views=1))
        except CorruptStore:
            yield Fault(split=split, file=NEIGHBOURS, reason="is damaged, or of other images than the split")


def remove_chunks(path: Path, faults: Sequence[Fault]) -> None:
    """Delete all files of every faulty chunk, so that the chunk is absent, and every file that belongs to no chunk.

    The embedding is deleted first, since its file marks the chunk as present.
    Raises StoreError when the system refuses.
    """
    bad = {(fault.split, fault.file) for fault in faults}
    doomed = [path / fault.split / fault.file for fault in faults if fault.key is None]
    for task in tasks_of(path):
        files = [column.file_name(task.key) for column in files_of(task)]
        if any((task.split, file) in bad for file in files):
            doomed += [path / task.split / file for file in sorted(files, key=embedding_first)]
    for file in doomed:
        try:
            shutil.rmtree(file) if file.is_dir() else file.unlink(missing_ok=True)
        except OSError as error:
            raise StoreError(
                f"cannot delete {file}: {error.strerror}; fix the cause and run the command again"
            ) from error
    for folder in {file.parent for file in doomed if file.parent.is_dir()}:
        sync(folder)


def embedding_first(file: str) -> bool:
    """Sort key that puts the embedding before all other files of a chunk."""
    return not file.startswith("embedding/")
