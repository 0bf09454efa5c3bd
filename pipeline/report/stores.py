"""`cache info`: the contents of a store, on the terminal."""

from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from cache.layout import Status
from cache.reader import Split, Store, open_store
from pipeline.results.plain_text import human_bytes, plain_fields


def print_store(path: Path) -> None:
    """Print a store's identity, and the size and completeness of each split."""
    store, console = open_store(path), Console()
    console.print(f"[bold]{path}[/bold]  id {store.id[:16]}", highlight=False)
    console.print(identity_table(store))
    console.print(split_table([store.split(name) for name in store.splits]))


def identity_table(store: Store) -> Table:
    """Return the fields of a store's identity, one per row."""
    table = Table(show_header=False, box=None)
    for field, value in plain_fields({**store.origin, **store.teacher}).items():
        table.add_row(field, value)
    return table


def split_table(splits: list[Split]) -> Table:
    """Return rows, chunks and bytes of each split, with unusable rows by reason."""
    table = Table(
        "split", "rows", "views", "dim", "chunks written", "usable rows", "unreadable", "degenerate", "size"
    )
    for split in splits:
        chunks = len(split.shape.chunk_keys)
        counts = np.bincount(split.status[0], minlength=len(Status))
        table.add_row(
            split.name,
            f"{split.shape.rows:,}",
            str(split.shape.views),
            str(split.shape.dim),
            f"{chunks - len(split.absent):,} of {chunks:,}",
            f"{counts[Status.OK]:,}",
            f"{counts[Status.UNREADABLE]:,}",
            f"{counts[Status.DEGENERATE]:,}",
            human_bytes(folder_bytes(split)),
        )
    return table


def folder_bytes(split: Split) -> int:
    """Return the bytes on disk of a split's files."""
    return sum(file.stat().st_size for file in (split.path / split.name).rglob("*") if file.is_file())
