"""Reading a store: its identity, the small columns, and embeddings by row, straight from the page cache."""

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cache.archive import decoded_copy
from cache.chunkfile import available_memory, populate
from cache.columns import chunk_columns
from cache.errors import IncompleteStore, NotAStore
from cache.gather import gather_rows, widen_rows
from cache.layout import FLOAT16, ChunkKey, Status
from cache.metadata import read_split, read_store, split_names
from cache.rows import checked_rows
from cache.sigbus import require_intact_maps
from cache.split_files import SplitFiles
from cache.unmapped_rows import UNMAPPED, gather_or_read, map_files, require_rows_read
from cache.zarr_json import ARCHIVE


@dataclass(frozen=True, kw_only=True)
class Store:
    """An open store.

    teacher: identity of the teacher. id: sha256 of that identity. origin: readable names of the teacher, as given on
    the command line; empty if they were not recorded. labels: those that `relabelled` was given. views: how many views
    of each split are looked at, from the first on; None: all.
    """

    path: Path
    teacher: Mapping[str, Any]
    origin: Mapping[str, str]
    id: str
    splits: tuple[str, ...]
    labels: Mapping[str, tuple[Mapping[str, Any], NDArray[np.int64]]] = field(default_factory=dict)
    views: int | None = None

    def split(self, name: str, *, views: int | None = None) -> "Split":
        """Open a split, or at most its first `views` views, whose files alone then matter.

        Raises NotAStore for a split that is not there, FormatMismatch if its arrays are laid out differently, and
        CorruptStore if a chunk file has the wrong size.
        """
        if name not in self.splits:
            known = ", ".join(self.splits) or "none yet"
            raise NotAStore(f"{self.path} has no split '{name}'; it has {known}")
        split = Split(self.path, name, views or self.views)
        if name in self.labels:
            split.relabel(*self.labels[name])
        return split

    def relabelled(self, labels: Mapping[str, tuple[Mapping[str, Any], NDArray[np.int64]]]) -> "Store":
        """Return this store with other labels for some splits. labels: split to dataset identity and labels (N,)."""
        return replace(self, labels={**self.labels, **labels})


def open_store(path: Path, *, views: int | None = None) -> Store:
    """Open the store at `path`, complete or not, or only the first `views` views of its splits.

    Of an archive, it is the local copy, see `cache.archive`.
    Raises NotAStore if there is no store, FormatMismatch if it has another format.
    """
    found = read_store(path, archive=True)
    if ARCHIVE in found:
        path = decoded_copy(path)
    return Store(
        path=path,
        teacher=found["teacher"],
        origin=found.get("origin", {}),
        id=found["id"],
        splits=split_names(path),
        views=views,
    )


class Split:
    """A split as it was when it was opened; to see chunks that are written later, open it again.

    path: of the store. dataset: identity of the dataset. absent: the chunks that are not written yet.
    """

    def __init__(self, path: Path, name: str, views: int | None = None) -> None:
        self.path, self.name = path, name
        self.shape, self.dataset = read_split(path, name)
        if views is not None:
            self.shape = replace(self.shape, views=min(views, self.shape.views))
        self._labels: NDArray[np.int64] | None = None
        self._embedding = chunk_columns(self.shape)[-1]
        files = {key: path / name / self._embedding.file_name(key) for key in self.shape.chunk_keys}
        self._maps, self._unmapped = map_files(files, self._embedding.file_bytes)
        present = self._maps.keys() | self._unmapped.keys()
        self.absent = [key for key in self.shape.chunk_keys if key not in present]
        self._files = SplitFiles(path / name, self.shape, present)
        self._files.check_sizes()

    @property
    def complete(self) -> bool:
        """Whether every chunk is present."""
        return not self.absent

    def require_complete(self) -> None:
        """Raise IncompleteStore unless every chunk is present."""
        if self.absent:
            views = f" --views {self.shape.views - 1}" if self.shape.views > 1 else ""
            raise IncompleteStore(
                f"the split '{self.name}' of {self.path} has {len(self._files.present)} of "
                f"{len(self.shape.chunk_keys)} chunks; run the command that writes it again "
                f"(cache-teacher{views} for a teacher's cache); it computes only what is missing"
            )

    @cached_property
    def addresses(self) -> NDArray[np.uint64]:
        """(V, chunks) uint64: the address of each chunk's row 0 while this Split lives.

        It is 0 for an absent chunk, and UNMAPPED for a chunk that is read from its file.
        """
        addresses = np.zeros((self.shape.views, self.shape.chunks), np.uint64)
        for key, mapped in self._maps.items():
            addresses[key.view, key.index] = mapped.address
        for key in self._unmapped:
            addresses[key.view, key.index] = UNMAPPED
        return addresses

    @cached_property
    def status(self) -> NDArray[np.uint8]:
        """(V, N) uint8: the `Status` of each row; ABSENT in absent chunks."""
        return self._files.read("status")

    @cached_property
    def norm(self) -> NDArray[np.float32]:
        """(V, N) float32: L2 norms before normalisation; NaN in absent chunks."""
        return self._files.read("norm")

    @cached_property
    def crop(self) -> NDArray[np.float32]:
        """(V, N, 5) float32: top, left, height, width as fractions of the upright original, and 1 if flipped."""
        return self._files.read("crop")

    def crop_of(self, view: int) -> NDArray[np.float32]:
        """Return the crops of one view, (N, 5) float32, as in `crop`. Read anew on each call."""
        return self._files.read("crop", view)

    def norm_of(self, view: int) -> NDArray[np.float32]:
        """Return the norms of one view, (N,) float32, as in `norm`. Read anew on each call."""
        return self._files.read("norm", view)

    def column(self, name: str, key: ChunkKey) -> NDArray[Any]:
        """Return the rows (n, *tail) of one chunk of a column as they are encoded. Raises CorruptStore."""
        return self._files.chunk(name, key)

    @property
    def label(self) -> NDArray[np.int64]:
        """(N,) int64: the class of each row, -1 for none. Read anew on each access, as `thumb` is, to save memory."""
        return self._files.read("label") if self._labels is None else self._labels

    def relabel(self, dataset: Mapping[str, Any], labels: NDArray[np.int64]) -> None:
        """Replace the labels (N,) and the dataset's identity in memory; the store keeps those that it was made with."""
        assert labels.shape == (self.shape.rows,), labels.shape
        self.dataset, self._labels = dict(dataset), labels

    @property
    def thumb(self) -> NDArray[np.uint64]:
        """(N,) uint64: the perceptual hash of each row's image."""
        return self._files.read("thumb")

    def eligible(self, views: Sequence[int] = (0,)) -> NDArray[np.int64]:
        """Return the rows with status OK in all of these views, ascending."""
        return np.flatnonzero((self.status[list(views)] == Status.OK).all(axis=0))

    def gather(
        self, rows: ArrayLike, view: int = 0, out: NDArray[np.float16] | None = None
    ) -> NDArray[np.float16]:
        """Return the embeddings (B, D) float16 of rows (B,), in this order; written to `out` if given.

        Raises:
            IndexError: a row or the view is out of range; negative numbers are, too.
            IncompleteStore: a row's chunk is absent.
            CorruptStore: a chunk file was truncated after it was opened.
        """
        rows = self._checked_rows(rows, view)
        if out is None:
            out = np.empty((len(rows), self.shape.dim), np.float16)
        assert out.shape == (len(rows), self.shape.dim), out.shape
        assert out.dtype == np.float16, out.dtype
        self.take(rows, view, out.view(np.uint16))
        require_intact_maps()
        require_rows_read()
        return out

    def take(self, rows: NDArray[np.int64], view: int, out: NDArray[np.uint16]) -> None:
        """As `gather`, without checks: rows must be present, and `out` (B, D) receives the float16 bits.

        The caller must call `require_intact_maps` and `require_rows_read` before using the result.
        """
        addresses, chunk_rows = self.addresses[view], self.shape.chunk_rows
        scales = None if self.shape.encoding == FLOAT16 else self._scale[view]
        if self._unmapped:
            gather_or_read(addresses, self._files_by_view[view], rows, chunk_rows, out, scales)
        elif scales is None:
            gather_rows(addresses, rows, chunk_rows, out)
        else:
            widen_rows(addresses, scales, rows, chunk_rows, out)

    @cached_property
    def _scale(self) -> NDArray[np.float32]:
        """(V, N) float32: what the codes of each row are multiplied by, where they are int8."""
        return self._files.read("scale")

    @cached_property
    def _files_by_view(self) -> list[dict[int, Path]]:
        files, views = self._unmapped.items(), range(self.shape.views)
        return [{key.index: file for key, file in files if key.view == view} for view in views]

    def verify(self, progress: Callable[[int, int], None] | None = None) -> bool:
        """Check the crc32c of every chunk file, unless it was checked before and the files are unchanged since.

        `progress(done, total)` is called after each file. Returns whether the files were read.

        Raises:
            CorruptStore: chunk files are changed or missing; the message names them.
        """
        return self._files.verify(progress)

    def warm(self) -> threading.Thread | None:
        """Start a thread that reads all mapped chunks into memory, and return it; None if they do not fit.

        Without it, the first access to each row waits for the disk, as an already verified store is not read
        when it is opened.
        """
        maps = list(self._maps.values())
        if len(maps) * self._embedding.file_bytes > available_memory():
            return None
        thread = threading.Thread(target=populate, args=(maps,), daemon=True)
        thread.start()
        return thread

    def _checked_rows(self, rows: ArrayLike, view: int) -> NDArray[np.int64]:
        if not 0 <= view < self.shape.views:
            raise IndexError(f"view {view} is out of range: {self.path} has {self.shape.views} views")
        checked = checked_rows(rows, self.shape.rows, f"the split '{self.name}' of {self.path}")
        if self.absent and not self.addresses[view, checked // self.shape.chunk_rows].all():
            self.require_complete()
        return checked
