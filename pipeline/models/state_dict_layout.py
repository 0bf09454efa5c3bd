"""Naming schemes of checkpoints, and how their names map to the network's."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

LINEAR = r"\.(weight|bias)"
NORM = r"\.(weight|bias|running_mean|running_var|num_batches_tracked)"

Rename = Callable[[str], str | None]


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The naming scheme of one kind of checkpoint.

    rename: maps a name in the file to the network's, or to None if such files have no such name; injective.
    unused: regular expression for whole names that no feature needs, such as heads. signature: regular expression for
    the start of a name that only such files contain. key: top-level key of the tensors, if it identifies such files.
    """

    title: str
    rename: Rename = str
    unused: str = ""
    signature: str = ""
    key: str = ""

    def has_signature(self, names: Iterable[str]) -> bool:
        """Return whether some name matches the signature."""
        return bool(self.signature) and any(re.match(self.signature, name) for name in names)

    def unused_names(self, names: Iterable[str]) -> list[str]:
        """Return the names that no feature needs."""
        return [name for name in names if re.fullmatch(self.unused, name)]

    def rename_all(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the tensors under the network's names, without the unused ones; foreign names say so."""
        unused = set(self.unused_names(state))
        return {
            self.rename(name) or f"{name} (no name of {self.title})": tensor
            for name, tensor in state.items()
            if name not in unused
        }


def closest_layout(layouts: Sequence[Layout], state: Mapping[str, Tensor], own: Iterable[str]) -> Layout:
    """Return the layout under which the names in a file differ least from the network's own."""
    wanted = set(own)
    return min(layouts, key=lambda layout: len(wanted.symmetric_difference(layout.rename_all(state))))


def own_names(*heads: str) -> Layout:
    """Return the layout with the network's own names. heads: names of linear layers that may be left over."""
    unused = f"({'|'.join(map(re.escape, heads))}){LINEAR}" if heads else ""
    return Layout(title="the network's own names", unused=unused)
