"""How weights files name their tensors, and how those names become the network's."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

LINEAR = r"\.(weight|bias)"
NORM = r"\.(weight|bias|running_mean|running_var|num_batches_tracked)"

Rename = Callable[[str], str | None]


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The names in one kind of weights file.

    rename: a name of the file -> the network's; None when such a file has no such name; no two names become one.
    head: regular expression of the whole names that may be left over, since no feature needs them.
    mark: regular expression at the beginning of some name that only such files have. place: the top-level key of the
    tensors, where only such files have it.
    """

    title: str
    rename: Rename = str
    head: str = ""
    mark: str = ""
    place: str = ""

    def marks(self, names: Iterable[str]) -> bool:
        """Whether some name bears the mark; a layout without one has none."""
        return bool(self.mark) and any(re.match(self.mark, name) for name in names)

    def left_over(self, names: Iterable[str]) -> list[str]:
        """The names that no feature needs."""
        return [name for name in names if re.fullmatch(self.head, name)]

    def read(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The tensors under the network's names, without what may be left over; a foreign name is marked as such."""
        spare = set(self.left_over(state))
        return {
            self.rename(name) or f"{name} (no name of {self.title})": tensor
            for name, tensor in state.items()
            if name not in spare
        }


def choose(layouts: Sequence[Layout], state: Mapping[str, Tensor], own: Iterable[str]) -> Layout:
    """The layout under which the names of a file come nearest to the network's own."""
    wanted = set(own)
    return min(layouts, key=lambda layout: len(wanted.symmetric_difference(layout.read(state))))


def plain(*heads: str) -> Layout:
    """The network's own names; the heads are linear layers, by their names."""
    head = f"({'|'.join(map(re.escape, heads))}){LINEAR}" if heads else ""
    return Layout(title="the network's own names", head=head)
