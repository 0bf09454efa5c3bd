"""Names that tell results apart in one table: by the settings in which they differ, else by their folders."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.results.plain_text import plain

ID_DIGITS = 8


class Input(NamedTuple):
    """What a system was made from, such as its cache: compared by its id, shown by its name."""

    id: str
    name: str


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A system that needs a name. dataset: the id of the images it was evaluated on. path: its folder or file."""

    name: str
    role: str
    path: Path
    seed: int | None = None
    dataset: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)


def distinct_names(candidates: Sequence[Candidate]) -> list[str]:
    """Return a name for each candidate, in order, equal only for seeds of one system, which a table averages.

    Candidates with the same name and role get the settings in which they differ, such as "1q, tau 0.04". Those that
    still have the same name, but share a seed or were evaluated on different images, get as much of their paths as
    tells them apart, such as "1q (monday/run)".
    """
    named = [
        replace(own, name=", ".join([own.name, *differing(own, namesakes(own, candidates))]))
        for own in candidates
    ]
    names = []
    for own in named:
        others = namesakes(own, named)
        alone = are_seeds_of_one(others)
        names.append(own.name if alone else f"{own.name} ({shortest_suffix(own.path, others)})")
    return names


def namesakes(own: Candidate, candidates: Sequence[Candidate]) -> list[Candidate]:
    """Return the candidates with this one's name and role, itself included."""
    return [other for other in candidates if (other.name, other.role) == (own.name, own.role)]


def differing(own: Candidate, others: Sequence[Candidate]) -> list[str]:
    """Return the candidate's settings whose values differ among the others, such as ["tau 0.02"]."""
    found = []
    for key, value in own.settings.items():
        values = [other.settings[key] for other in others if key in other.settings]
        if len({identity(value) for value in values}) > 1:
            found.append(f"{key.replace('_', ' ')} {shown(value, values)}")
    return found


def identity(value: Any) -> str:
    """Return what a value is compared by."""
    return value.id if isinstance(value, Input) else repr(value)


def shown(value: Any, values: Sequence[Any]) -> str:
    """Return a value as text; for an input whose name another one has too, its name and its id."""
    if not isinstance(value, Input):
        return plain(value)
    same_name = {other.id for other in values if isinstance(other, Input) and other.name == value.name}
    return f"{value.name} {value.id[:ID_DIGITS]}" if len(same_name) > 1 else value.name


def are_seeds_of_one(candidates: Sequence[Candidate]) -> bool:
    """Whether candidates of one name may be averaged: each has a seed of its own, and all are of the same images."""
    seeds = {candidate.seed for candidate in candidates}
    datasets = {candidate.dataset for candidate in candidates if candidate.dataset is not None}
    return len(seeds) == len(candidates) and len(datasets) <= 1


def shortest_suffix(path: Path, others: Sequence[Candidate]) -> str:
    """Return the last parts of a path, as many as tell it from the paths of the others."""
    parts = path.resolve().parts
    rest = [other.path.resolve().parts for other in others]
    for count in range(1, len(parts)):
        if sum(other[-count:] == parts[-count:] for other in rest) == 1:
            return "/".join(parts[-count:])
    return str(path)
