"""`cache info`: the contents of a store, on the terminal."""

import json
from collections.abc import Callable
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from cache.footprint import folder_bytes
from cache.layout import Status
from cache.reader import Split, Store, open_store
from cache.user_folder import as_typed
from pipeline.results.plain_text import human_bytes, plain_fields
from pipeline.results.records import ID_DIGITS
from pipeline.settings.cache_commands import InfoConfig


def print_store(config: InfoConfig) -> None:
    """Run the `cache info` command: print a store's identity, and the size and completeness of each split."""
    store, console = open_store(config.store), Console()
    splits = [store.split(name) for name in store.splits]
    if config.json:
        described = {split.name: describe_split(split) for split in splits}
        fields = {"id": store.id, "origin": dict(store.origin), "teacher": dict(store.teacher)}
        print(json.dumps({"store": as_typed(config.store), **fields, "splits": described}, indent=1))
        return
    console.print(f"[bold]{as_typed(config.store)}[/bold]  id {store.id[:ID_DIGITS]}", highlight=False)
    console.print(identity_table(store))
    console.print(split_table(splits))


def describe_split(split: Split) -> dict[str, Any]:
    """Return the numbers of a split and the id of its images, as JSON values."""
    counts = np.bincount(split.status[0], minlength=len(Status))
    return {
        "images": str(split.dataset.get("images", ""))[:ID_DIGITS],
        "rows": split.shape.rows,
        "views": split.shape.views,
        "dim": split.shape.dim,
        "encoding": split.shape.encoding,
        "chunks": len(split.shape.chunk_keys),
        "chunks_written": len(split.shape.chunk_keys) - len(split.absent),
        "usable": int(counts[Status.OK]),
        "unreadable": int(counts[Status.UNREADABLE]),
        "degenerate": int(counts[Status.DEGENERATE]),
        "bytes": folder_bytes(split.path / split.name),
    }


def identity_table(store: Store) -> Table:
    """Return the fields of a store's identity, one per row."""
    table = Table(show_header=False, box=None)
    for field, value in plain_fields({**store.origin, **store.teacher}).items():
        table.add_row(field, value)
    return table


def split_table(splits: list[Split]) -> Table:
    """Return dataset, rows, chunks and bytes of each split, one column per split, with unusable rows by reason."""
    table = Table("")
    for split in splits:
        table.add_column(split.name, justify="right")
    found = [describe_split(split) for split in splits]
    for title, cell in CELLS.items():
        table.add_row(title, *map(cell, found))
    return table


CELLS: dict[str, Callable[[dict[str, Any]], str]] = {
    "dataset": lambda split: split["images"] or "-",
    "rows": lambda split: f"{split['rows']:,}",
    "usable": lambda split: f"{split['usable']:,}",
    "unreadable": lambda split: f"{split['unreadable']:,}",
    "degenerate": lambda split: f"{split['degenerate']:,}",
    "views": lambda split: f"{split['views']}",
    "dim": lambda split: f"{split['dim']:,}",
    "chunks written": lambda split: f"{split['chunks_written']:,} of {split['chunks']:,}",
    "size": lambda split: human_bytes(split["bytes"]),
}
