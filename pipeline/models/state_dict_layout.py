"""Naming schemes of checkpoints, and how their names map to the network's."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

LINEAR = r"\.(weight|bias)"
NORM = r"\.(weight|bias|running_mean|running_var|num_batches_tracked)"

# names that torch.compile, FSDP, activation checkpointing and Lightning Fabric put between a network and its tensors
WRAPPER = re.compile(
    r"(?<![^.])(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module|_forward_module)\."
)

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


@dataclass(frozen=True, kw_only=True)
class Reading:
    """A way to read a file: the prefix to remove from its names, then the layout that maps them to the network's.

    tensors: under the network's names. problems: what prevents loading them, by kind; {} if nothing does.
    """

    prefix: str
    layout: Layout
    state: Mapping[str, Tensor]
    tensors: dict[str, Tensor]
    problems: dict[str, list[str]]

    def count(self) -> int:
        """Return the number of names that do not fit."""
        return sum(map(len, self.problems.values()))


def best_reading(
    layouts: Sequence[Layout], state: Mapping[str, Tensor], own: Mapping[str, Tensor]
) -> Reading:
    """Return the reading of a file whose names and shapes differ least from the network's own."""
    best: Reading | None = None
    for prefix, names in unwrapped(state):
        layout = closest_layout(layouts, names, own)
        tensors = layout.rename_all(names)
        problems = load_problems(own, tensors)
        reading = Reading(prefix=prefix, layout=layout, state=names, tensors=tensors, problems=problems)
        if not problems:
            return reading
        if best is None or reading.count() < best.count():
            best = reading
    assert best is not None
    return best


def unwrapped(state: Mapping[str, Tensor]) -> Iterator[tuple[str, Mapping[str, Tensor]]]:
    """Yield a state dict as it is, without the names of wrappers, and without one leading name after another.

    Each comes with the prefix that it lacks. A leading name is removed only if all names share it.
    """
    yield "", state
    bare = {WRAPPER.sub("", name): tensor for name, tensor in state.items()}
    if len(bare) < len(state):  # two names would become one
        bare = dict(state)
    removed = "".join(dict.fromkeys(wrapper for name in state for wrapper in WRAPPER.findall(name)))
    if bare.keys() != state.keys():
        yield _lost_prefix(state, bare, removed), bare
    while leading := _shared_start(bare):
        removed += leading
        bare = {name.removeprefix(leading): tensor for name, tensor in bare.items()}
        yield _lost_prefix(state, bare, removed), bare


def _shared_start(names: Iterable[str]) -> str:
    starts = {name[: name.find(".") + 1] for name in names}
    return starts.pop() if len(starts) == 1 else ""


def _lost_prefix(state: Iterable[str], bare: Iterable[str], removed: str) -> str:
    first, rest = next(iter(state)), next(iter(bare))
    return first.removesuffix(rest) if first.endswith(rest) and first != rest else removed


def fitting_parts(
    layouts: Sequence[Layout], state: Mapping[str, Tensor], own: Mapping[str, Tensor]
) -> list[str]:
    """Return the prefixes under which a file holds exactly the network's own tensors, beside others."""
    prefixes = dict.fromkeys(name[: end.end()] for name in state for end in re.finditer(r"\.", name))
    fitting = []
    for prefix in prefixes:
        part = {name.removeprefix(prefix): each for name, each in state.items() if name.startswith(prefix)}
        if not load_problems(own, closest_layout(layouts, part, own).rename_all(part)):
            fitting.append(prefix)
    return fitting


def load_problems(own: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> dict[str, list[str]]:
    """Return the names that prevent loading `tensors` into the state dict `own`, by kind of problem; {} if none."""
    kinds = {
        # checkpoints older than PyTorch's batch counters lack them
        "missing": [n for n in own if n not in tensors and not n.endswith("num_batches_tracked")],
        "unexpected": [name for name in tensors if name not in own],
        "of another shape": [
            f"{name} (expected {tuple(own[name].shape)}, found {tuple(tensor.shape)})"
            for name, tensor in tensors.items()
            if name in own and own[name].shape != tensor.shape
        ],
    }
    return {kind: names for kind, names in kinds.items() if names}


def closest_layout(layouts: Sequence[Layout], state: Mapping[str, Tensor], own: Iterable[str]) -> Layout:
    """Return the layout under which the names in a file differ least from the network's own."""
    wanted = set(own)
    return min(layouts, key=lambda layout: len(wanted.symmetric_difference(layout.rename_all(state))))


def own_names(*heads: str) -> Layout:
    """Return the layout with the network's own names. heads: names of linear layers that may be left over."""
    unused = f"({'|'.join(map(re.escape, heads))}){LINEAR}" if heads else ""
    return Layout(title="the network's own names", unused=unused)
