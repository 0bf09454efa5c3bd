"""Format 1 of the store: rows in chunks, their status, and what a store or a dataset was made of."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

FORMAT = 1
LARGEST_CHUNK_BYTES = 16 * 2**20
LARGEST_CHUNK_ROWS = 4096
LONGEST_SHOWN = 80
_MISSING = object()


class Status(IntEnum):
    """What is known of one row in one view; only OK rows have an embedding."""

    ABSENT = 0
    OK = 1
    UNREADABLE = 2
    DEGENERATE = 3


def chunk_rows(dim: int, itemsize: int = 2) -> int:
    """Rows of a chunk: the largest power of two with at most 16 MiB of embeddings, from 1 to 4096."""
    fitting = max(1, LARGEST_CHUNK_BYTES // (dim * itemsize))
    return min(LARGEST_CHUNK_ROWS, 1 << (fitting.bit_length() - 1))


@dataclass(frozen=True, order=True)
class ChunkKey:
    """One chunk: rows `index * chunk_rows` onwards of one view."""

    view: int
    index: int


@dataclass(frozen=True, kw_only=True)
class SplitShape:
    """Rows N, views V and dimension D of a split, and the chunks that follow from them."""

    rows: int
    views: int
    dim: int

    def __post_init__(self) -> None:
        if min(self.rows, self.views, self.dim) < 1:
            raise ValueError(f"a split needs at least one row, view and dimension, found {self}")

    @property
    def chunk_rows(self) -> int:
        """Rows of a whole chunk; the last chunk of a view may hold fewer."""
        return chunk_rows(self.dim)

    @property
    def chunks(self) -> int:
        """Chunks of one view."""
        return -(-self.rows // self.chunk_rows)

    @property
    def chunk_keys(self) -> list[ChunkKey]:
        """Every chunk, view by view."""
        return [ChunkKey(view, index) for view in range(self.views) for index in range(self.chunks)]

    def rows_of(self, key: ChunkKey) -> range:
        """The rows that a chunk holds. Raises IndexError for a chunk that the split has not."""
        if not (0 <= key.view < self.views and 0 <= key.index < self.chunks):
            raise IndexError(f"{key} is not among {self.views} views of {self.chunks} chunks")
        start = key.index * self.chunk_rows
        return range(start, min(start + self.chunk_rows, self.rows))


def canonical_json(value: Any) -> str:
    """The one JSON text of a value: keys sorted, no spaces, ASCII. Raises ValueError for NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def identity_id(identity: Mapping[str, Any]) -> str:
    """sha256 (hex) of the identity's canonical JSON."""
    return hashlib.sha256(canonical_json(dict(identity)).encode()).hexdigest()


def identity_difference(expected: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    """One "field: expected X, found Y" for each field that differs, nested fields dotted.

    Fields come in the order of `expected`, then those that only `found` has. Of two long lists
    only the lengths or the first differing item is told.
    """
    return list(_differences("", expected, found))


def _differences(name: str, expected: Any, found: Any) -> Iterator[str]:
    if isinstance(expected, Mapping) and isinstance(found, Mapping):
        for key in dict.fromkeys([*expected, *found]):
            inner = f"{name}.{key}" if name else key
            yield from _differences(inner, expected.get(key, _MISSING), found.get(key, _MISSING))
    elif not _same(expected, found):
        if _is_long_list(expected) and _is_long_list(found):
            yield _list_difference(name, expected, found)
        else:
            yield f"{name}: expected {_shown(expected)}, found {_shown(found)}"


def _list_difference(name: str, expected: list, found: list) -> str:
    if len(expected) != len(found):
        return f"{name}: expected {len(expected)} items, found {len(found)}"
    first = next(i for i, pair in enumerate(zip(expected, found, strict=True)) if not _same(*pair))
    return f"{name}[{first}]: expected {_shown(expected[first])}, found {_shown(found[first])}"


def _same(expected: Any, found: Any) -> bool:
    if _MISSING in (expected, found):
        return False
    # through JSON, since what was read from a store has lists where its maker had tuples
    return canonical_json(expected) == canonical_json(found)


def _is_long_list(value: Any) -> bool:
    return isinstance(value, list | tuple) and len(canonical_json(value)) > LONGEST_SHOWN


def _shown(value: Any) -> str:
    if value is _MISSING:
        return "nothing"
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}..."
