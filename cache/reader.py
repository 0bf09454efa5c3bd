"""Reading a store: its identity, the small columns, and embeddings by row straight from the page cache."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cache.chunkfile import MappedFile, check_file, read_chunk
from cache.columns import Column, chunk_columns, row_columns
from cache.errors import IncompleteStore, NotAStore
from cache.gather import gather_rows
from cache.layout import ChunkKey, Status
from cache.metadata import read_split, read_store, split_names
from cache.verified import verify


@dataclass(frozen=True, kw_only=True)
class Store:
    """A store that exists: `teacher` is its maker's identity, `id` that identity's sha256.

    origin: names for people, by which the teacher was asked for; empty where they were not told.
    """

    path: Path
    teacher: Mapping[str, Any]
    origin: Mapping[str, str]
    id: str
    splits: tuple[str, ...]

    def split(self, name: str) -> "Split":
        """Open a split.

        Raises:
            NotAStore: the store has no such split.
            FormatMismatch: its arrays are laid out in another way.
            CorruptStore: a chunk file has a wrong size.
        """
        if name not in self.splits:
            known = ", ".join(self.splits) or "none yet"
            raise NotAStore(f"{self.path} has no split '{name}'; it has {known}")
        return Split(self.path, name)


def open_store(path: Path) -> Store:
    """Open the store at `path`, complete or not.

    Raises:
        NotAStore: there is no store.
        FormatMismatch: it is of another format.
    """
    found = read_store(path)
    return Store(
        path=path,
        teacher=found["teacher"],
        origin=found.get("origin", {}),
        id=found["id"],
        splits=split_names(path),
    )


class Split:
    """One split as it was when it was opened: chunks written later need another opening.

    path of the store, name, shape, dataset (identity), and `absent`: the chunks not written yet.
    """

    def __init__(self, path: Path, name: str) -> None:
        self.path, self.name = path, name
        self.shape, self.dataset = read_split(path, name)
        self._folder = path / name
        columns = (*chunk_columns(self.shape), *row_columns(self.shape))
        self._columns = {column.name: column for column in columns}
        self._maps = self._mapped_chunks()
        self.absent = [key for key in self.shape.chunk_keys if key not in self._maps]
        self._check_files()

    @property
    def complete(self) -> bool:
        """Whether every chunk is there."""
        return not self.absent

    def require_complete(self) -> None:
        """Raise IncompleteStore unless every chunk is there."""
        if self.absent:
            raise IncompleteStore(
                f"the split '{self.name}' of {self.path} has {len(self._maps)} of "
                f"{len(self.shape.chunk_keys)} chunks; run the command that writes it again "
                "(cache-teacher for a teacher's cache), it computes only what is absent"
            )

    @cached_property
    def addresses(self) -> NDArray[np.uint64]:
        """(V, chunks) uint64: where row 0 of each chunk is in memory, 0 if absent, while this Split lives."""
        addresses = np.zeros((self.shape.views, self.shape.chunks), np.uint64)
        for key, mapped in self._maps.items():
            addresses[key.view, key.index] = mapped.address
        return addresses

    @cached_property
    def status(self) -> NDArray[np.uint8]:
        """(V, N) uint8, a `Status` each; ABSENT throughout the absent chunks."""
        return self._read_column("status")

    @cached_property
    def norm(self) -> NDArray[np.float32]:
        """(V, N) float32: L2 norms before normalisation; NaN throughout the absent chunks."""
        return self._read_column("norm")

    @cached_property
    def crop(self) -> NDArray[np.float32]:
        """(V, N, 5) float32: top, left, height, width as fractions of the upright original; 1 if mirrored."""
        return self._read_column("crop")

    @cached_property
    def label(self) -> NDArray[np.int64]:
        """(N,) int64: the class of each row, -1 for none."""
        return self._read_column("label")

    @cached_property
    def thumb(self) -> NDArray[np.uint64]:
        """(N,) uint64: the perceptual hash of each row's image."""
        return self._read_column("thumb")

    def eligible(self, views: Sequence[int] = (0,)) -> NDArray[np.int64]:
        """The rows with status OK in each of these views, ascending."""
        return np.flatnonzero((self.status[list(views)] == Status.OK).all(axis=0))

    def gather(
        self, rows: ArrayLike, view: int = 0, out: NDArray[np.float16] | None = None
    ) -> NDArray[np.float16]:
        """The embeddings (B, D) float16 of rows (B,), in their order; into `out` if given.

        Raises:
            IndexError: a row or the view is out of range, negative ones included.
            IncompleteStore: a row's chunk is absent.
        """
        rows = self._checked_rows(rows, view)
        if out is None:
            out = np.empty((len(rows), self.shape.dim), np.float16)
        assert out.shape == (len(rows), self.shape.dim), out.shape
        assert out.dtype == np.float16, out.dtype
        gather_rows(self.addresses[view], rows, self.shape.chunk_rows, out.view(np.uint16))
        return out

    def verify(self, progress: Callable[[int, int], None] | None = None) -> bool:
        """Check the crc32c of every chunk file that is there, unless done before and unchanged since.

        `progress(done, total)` is called after each file. Returns whether the files were read.

        Raises:
            CorruptStore: names the chunk files that are changed or missing.
        """
        self._check_files()
        return verify(self._folder, self._chunk_files(), progress)

    def _mapped_chunks(self) -> dict[ChunkKey, MappedFile]:
        embedding = self._columns["embedding"]
        maps = {}
        for key in self.shape.chunk_keys:
            with suppress(FileNotFoundError):
                maps[key] = MappedFile(self._folder / embedding.file_name(key), embedding.file_bytes)
        return maps

    def _chunks_of(self, column: Column) -> list[ChunkKey]:
        if column.views is None:
            return [ChunkKey(0, index) for index in range(self.shape.chunks)]
        return list(self._maps)

    def _chunk_files(self) -> dict[str, Column]:
        return {
            column.file_name(key): column
            for column in self._columns.values()
            for key in self._chunks_of(column)
        }

    def _check_files(self) -> None:
        for name, column in self._chunk_files().items():
            check_file(self._folder / name, column)

    def _read_column(self, name: str) -> NDArray:
        column = self._columns[name]
        values = np.full((column.views or 1, column.rows, *column.tail), column.fill, column.dtype)
        for key in self._chunks_of(column):
            held = self.shape.rows_of(key)
            chunk = read_chunk(self._folder / column.file_name(key), column)
            values[key.view, held.start : held.stop] = chunk[: len(held)]
        return values.reshape(column.shape)

    def _checked_rows(self, rows: ArrayLike, view: int) -> NDArray[np.int64]:
        if not 0 <= view < self.shape.views:
            raise IndexError(f"view {view} is out of range: {self.path} has {self.shape.views} views")
        given = np.asarray(rows)
        if given.dtype.kind not in "iu" or given.ndim != 1:
            raise IndexError(f"expected rows (B,) as integers, found {given.shape} as {given.dtype}")
        # always a copy, of the one type that the loop is compiled for
        checked = given.astype(np.int64)
        if checked.size and (checked.min() < 0 or checked.max() >= self.shape.rows):
            raise IndexError(
                f"expected rows 0 to {self.shape.rows - 1} of the split '{self.name}' of {self.path}, "
                f"found {checked.min()} to {checked.max()}"
            )
        if self.absent and not self.addresses[view, checked // self.shape.chunk_rows].all():
            self.require_complete()
        return checked
