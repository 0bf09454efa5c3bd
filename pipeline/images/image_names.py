"""The names of a split's images in little memory: a list of a million `str` takes twice as much."""

from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import overload


class ImageNames(Sequence[str]):
    """File names, in as many bytes as they have in UTF-8 and 8 more each; bytes that are not UTF-8 are escaped.

    Equal to any sequence of the same names.
    """

    def __init__(self, names: Iterable[str]) -> None:
        letters, self._ends = bytearray(), array("q", [0])
        for name in names:
            letters += name.encode("utf-8", "surrogateescape")
            self._ends.append(len(letters))
        self._letters = bytes(letters)

    def __len__(self) -> int:
        return len(self._ends) - 1

    @overload
    def __getitem__(self, row: int) -> str: ...

    @overload
    def __getitem__(self, row: slice) -> list[str]: ...

    def __getitem__(self, row: int | slice) -> str | list[str]:
        if isinstance(row, slice):
            return [self._name(each) for each in range(len(self))[row]]
        return self._name(range(len(self))[row])

    def __iter__(self) -> Iterator[str]:
        return map(self._name, range(len(self)))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence) or len(self) != len(other):
            return False
        return all(mine == theirs for mine, theirs in zip(self, other, strict=True))

    def __repr__(self) -> str:
        return f"ImageNames({list(self)!r})"

    def _name(self, row: int) -> str:
        return self._letters[self._ends[row] : self._ends[row + 1]].decode("utf-8", "surrogateescape")
