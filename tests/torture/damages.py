"""Random corruptions of a cache, each with the files that `cache verify` must name: those and no others."""

import json
import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.damage import extend, flip, flip_several, overwrite, truncate, zero

Files = Mapping[str, bytes]
COLUMNS_OF_ROWS = ("label", "thumb", "row_checksum")
NOWHERE = Path("nowhere")
SUFFIXES = ("~", ".bak", "1", " (copy)")


@dataclass(frozen=True, kw_only=True)
class Corruption:
    """One corruption.

    changed: the new content of each file: bytes, a link, or None for a deleted file. faults: the files that `verify`
    must name. units: no other corruption of the round may touch these, since one fault could hide another there.
    folder: for damaged metadata, the folder that must be named; "" for the store's own, which `repair` cannot rewrite.
    """

    kind: str
    units: frozenset[str]
    changed: Mapping[str, bytes | Path | None]
    faults: frozenset[str] = frozenset()
    folder: str | None = None


def corruption(
    kind: str, changed: Mapping[str, bytes | Path | None], faults: Iterable[str] | None = None
) -> Corruption:
    """Return a corruption of chunk files; without `faults`, every changed file is at fault."""
    named = frozenset(changed if faults is None else faults)
    return Corruption(kind=kind, units=frozenset(map(unit_of, changed)), changed=dict(changed), faults=named)


def unit_of(name: str) -> str:
    """Return what `verify` checks together with a file: its chunk, or the labels and hashes of a chunk's rows."""
    split, array, _, *place = name.split("/")
    is_of_rows = array in COLUMNS_OF_ROWS
    return f"{split} {'rows' if is_of_rows else 'chunk'} {place[0] if is_of_rows else place[1]}"


def units_of(files: Files) -> dict[str, list[str]]:
    """Return the files of each unit: the ledger first, and last the column that marks the unit as written."""
    order = ("checksum", "row_checksum", "status", "norm", "crop", "label", "thumb", "embedding")
    units: dict[str, list[str]] = {}
    for name in sorted(files, key=lambda name: order.index(name.split("/")[1])):
        units.setdefault(unit_of(name), []).append(name)
    return units


def bytes_changed(change: Callable[[random.Random, bytes], bytes]) -> Callable[..., Corruption]:
    def corrupt(draw: random.Random, files: Files, others: Files) -> Corruption:
        name = draw.choice(sorted(files))
        return corruption(change.__name__, {name: change(draw, files[name])})

    return corrupt


def pair(draw: random.Random, files: Files) -> tuple[str, str]:
    """Draw two files with different bytes, often of the same size."""
    one = draw.choice(sorted(files))
    other = [name for name in sorted(files) if files[name] != files[one]]
    alike = [name for name in other if len(files[name]) == len(files[one])]
    return one, draw.choice(alike if alike and draw.random() < 0.5 else other)


def swap_files(draw: random.Random, files: Files, others: Files) -> Corruption:
    one, other = pair(draw, files)
    return corruption("swap of two files", {one: files[other], other: files[one]})


def copy_over(draw: random.Random, files: Files, others: Files) -> Corruption:
    one, other = pair(draw, files)
    return corruption("a copy of another file", {other: files[one]})


def two_units(draw: random.Random, files: Files) -> tuple[list[str], list[str]]:
    """Draw two units of one kind; return their files."""
    units = units_of(files)
    kind = draw.choice(("rows", "chunk"))
    one, other = draw.sample([unit for unit in sorted(units) if kind in unit], 2)
    return units[one], units[other]


def swap_units(draw: random.Random, files: Files, others: Files) -> Corruption:
    one, other = two_units(draw, files)
    both = zip(one + other, other + one, strict=True)
    changed = {name: files[source] for name, source in both}
    return corruption("swap of two whole chunks with their ledgers", changed, {one[0], other[0]})


def copy_unit(draw: random.Random, files: Files, others: Files) -> Corruption:
    one, other = two_units(draw, files)
    changed = {name: files[source] for name, source in zip(other, one, strict=True)}
    return corruption("a copy of another whole chunk with its ledger", changed, {other[0]})


def delete_some(draw: random.Random, files: Files, others: Files) -> Corruption:
    names = draw.choice(sorted(units_of(files).values()))
    # the last column stays: without it the chunk counts as never written
    gone = draw.sample(names[:-1], draw.randint(1, len(names) - 1))
    return corruption("deletion of files", dict.fromkeys(gone))


def delete_unit(draw: random.Random, files: Files, others: Files) -> Corruption:
    names = draw.choice(sorted(units_of(files).values()))
    gone = names[draw.randrange(2) :]  # with the ledger or without
    return corruption("deletion of a whole chunk", dict.fromkeys(gone), {names[-1]})


def delete_array(draw: random.Random, files: Files, others: Files) -> Corruption:
    split, array = draw.choice(sorted({tuple(name.split("/")[:2]) for name in files}))
    gone = [name for name in files if name.startswith(f"{split}/{array}/c/")]
    return corruption("deletion of all files of an array", dict.fromkeys(gone))


def foreign_file(draw: random.Random, files: Files, others: Files) -> Corruption:
    name = draw.choice([name for name in sorted(files) if files[name] != others[name]])
    return corruption("a file of another store", {name: others[name]})


def foreign_columns(draw: random.Random, files: Files, others: Files) -> Corruption:
    names = draw.choice(sorted(units_of(files).values()))[1:]
    return corruption(
        "a chunk of another store",
        {name: others[name] for name in names},
        {name for name in names if files[name] != others[name]},
    )


def foreign_unit(draw: random.Random, files: Files, others: Files) -> Corruption:
    names = draw.choice(sorted(units_of(files).values()))
    changed = {name: others[name] for name in names}
    return corruption("a chunk of another store with its ledger", changed, {names[0]})


def stray(draw: random.Random, files: Files, others: Files) -> Corruption:
    name = draw.choice(sorted(files))
    stray = name + draw.choice(SUFFIXES)
    data = draw.choice((files[name], draw.randbytes(draw.randrange(1000))))
    return Corruption(
        kind="a file that is no chunk's",
        units=frozenset({stray}),
        changed={stray: data},
        faults=frozenset({stray}),
    )


def dangling_link(draw: random.Random, files: Files, others: Files) -> Corruption:
    return corruption("a link to nowhere", {draw.choice(sorted(files)): NOWHERE})


def metadata(draw: random.Random, files: Files, others: Files) -> Corruption:
    """Damage, edit or delete one of the zarr.json `files`."""
    name = draw.choice(sorted(files))
    change = draw.choice((edited, edited, edited, truncated_json, overwrite, None))
    data = change(draw, files[name]) if change else None
    kind = {edited: "edited metadata", None: "deleted metadata"}.get(change, "damaged metadata")
    folder = name.removesuffix("zarr.json").rstrip("/")
    whose = "a split" if folder else "the store"
    return Corruption(
        kind=f"{kind} of {whose}", units=frozenset({"all"}), changed={name: data}, folder=folder
    )


def truncated_json(draw: random.Random, data: bytes) -> bytes:
    """Cut off at least the last brace, which leaves invalid JSON."""
    return truncate(draw, data.rstrip())


def edited(draw: random.Random, data: bytes) -> bytes:
    """Change one value."""
    whole = json.loads(data)
    place, key = draw.choice(list(leaves(whole)))
    place[key] = other_value(draw, place[key])
    return json.dumps(whole, indent=2).encode()


def leaves(value: Any) -> Iterable[tuple[Any, Any]]:
    """Yield the container and key of each value, without `origin`, which no check covers."""
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
        if isinstance(inner, dict | list) and inner:
            if key != "origin":
                yield from leaves(inner)
        elif not (key == "attributes" or inner is None or inner == []):
            yield value, key


def other_value(draw: random.Random, value: Any) -> Any:
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + draw.choice((-1, 1, 7))
    return f"{value}{draw.choice('abc')}" if isinstance(value, str) else [value]


OF_CHUNKS = (
    *map(bytes_changed, (flip, flip_several, truncate, extend, zero, overwrite)),
    *(swap_files, copy_over, swap_units, copy_unit, delete_some, delete_unit, delete_array),
    *(foreign_file, foreign_columns, foreign_unit, stray, dangling_link),
)
SHARE_OF_METADATA = 0.1


def draw_round(draw: random.Random, files: Files, others: Files, most: int) -> list[Corruption]:
    """Draw one to six corruptions of different units, or a single one of metadata."""
    if draw.random() < SHARE_OF_METADATA:
        return [metadata(draw, {name: files[name] for name in files if name.endswith("zarr.json")}, others)]
    chunks = {name: data for name, data in files.items() if "/c/" in name}
    drawn: list[Corruption] = []
    for _ in range(draw.randint(1, min(6, most))):
        new = draw.choice(OF_CHUNKS)(draw, chunks, others)
        if not any(new.units & other.units for other in drawn):
            drawn.append(new)
    return drawn
