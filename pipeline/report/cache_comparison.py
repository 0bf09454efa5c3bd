"""`cache compare`: properties of caches of the same images that may tell which teacher's students come out best."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from scipy.stats import skew

from cache.metadata import archive_of
from cache.reader import Split, Store, open_store
from cache.same_images import same_images
from pipeline.errors import WrongUse
from pipeline.evaluate import fidelity
from pipeline.evaluate.features import unit_rows
from pipeline.evaluate.fidelity import common_rows, recall
from pipeline.models.backbone import mean_cosine
from pipeline.neighbours import nearest_others
from pipeline.runtime.device import resolve_device
from pipeline.runtime.provenance import provenance
from pipeline.settings.cache_commands import CompareConfig

SPLIT = "train"
NEIGHBOURS = 10
FEWEST_ROWS = 2 * NEIGHBOURS
TITLES = ("cache", "dim", "bytes", "1-NN", "effective rank", "mean cosine", "hubness", "divergence")


@dataclass(frozen=True, kw_only=True)
class CacheProperties:
    """Properties of a cache on a sample of its training rows; no label is used but by nn1.

    nn1: leave-one-out accuracy of the nearest labelled neighbour, None without labels. effective_rank: exp of the
    entropy of the eigenvalues of the embeddings' covariance (Roy and Vetterli 2007), at most `dim`. mean_cosine: of all
    pairs. hubness: skewness of how often a row is among the 10 nearest neighbours of others (Radovanovic et al. 2010);
    0 if all are alike often. overlap: share of each row's 10 nearest neighbours that it has in the other caches too, in
    their order, 1 for the cache itself. bytes_per_row: of an embedding, as the cache holds it. divergence: mean of
    `fidelity.divergence` from the first cache, at temperature 0.04.
    """

    name: str
    dim: int
    nn1: float | None
    effective_rank: float
    mean_cosine: float
    hubness: float
    bytes_per_row: float = 0.0
    overlap: tuple[float, ...] = ()
    divergence: float = 0.0


def compare_caches(config: CompareConfig) -> None:
    """Run the `cache compare` command: print a table, or JSON.

    Raises WrongUse for caches of different images, or with too few common rows.
    """
    stores = [open_store(path, views=1) for path in config.caches]
    splits = [store.split(SPLIT) for store in stores]
    require_same_images(stores, splits)
    rows = compared_rows(splits, config.rows, config.seed)
    embeddings = [unit_rows(split, rows) for split in splits]
    device = resolve_device(config.device)
    near = [nearest_others(embedding, NEIGHBOURS, device) for embedding in embeddings]
    labels = splits[0].label[rows]
    found = [
        dataclasses.replace(
            properties(path.name, embedding, index, labels, device),
            bytes_per_row=embedding_bytes(path, split),
            overlap=tuple(float(recall(other, index).mean()) for other in near),
            divergence=divergence_from(embeddings[0], embedding),
        )
        for path, split, embedding, index in zip(config.caches, splits, embeddings, near, strict=True)
    ]
    if config.json:
        caches = [dataclasses.asdict(each) for each in found]
        print(json.dumps({"rows": len(rows), "caches": caches, "provenance": provenance()}, indent=1))
    else:
        print_comparison(found, len(rows))


def require_same_images(stores: Sequence[Store], splits: Sequence[Split]) -> None:
    """Raise WrongUse unless all splits are of the same images."""
    for store, split in zip(stores, splits, strict=True):
        if not same_images(split, splits[0]):
            raise WrongUse(
                f"{store.path} and {stores[0].path} are caches of different images; compare caches of one dataset"
            )


def compared_rows(splits: Sequence[Split], count: int, seed: int) -> NDArray[np.int64]:
    """Return at most `count` random rows, ascending, of those with an embedding in every split."""
    rows = common_rows(splits, count, np.random.default_rng(seed))
    if len(rows) < FEWEST_ROWS:
        raise WrongUse(f"{len(rows)} rows have an embedding in every cache: expected at least {FEWEST_ROWS}")
    return rows


def properties(
    name: str,
    embedding: NDArray[np.float32],
    index: NDArray[np.int64],
    labels: NDArray[np.int64],
    device: torch.device,
) -> CacheProperties:
    """Return the properties of embeddings (n, D) with neighbours (n, 10) and labels (n,), -1 for none."""
    rows = embedding.astype(np.float64)
    spectrum = np.linalg.eigvalsh(np.atleast_2d(np.cov(rows.T))).clip(0)
    share = spectrum[spectrum > 0] / spectrum.sum()
    known = np.flatnonzero(labels >= 0)
    nn1 = None
    if len(known) > 1:
        nearest = nearest_others(embedding[known], 1, device)[:, 0]
        nn1 = float((labels[known][nearest] == labels[known]).mean())
    return CacheProperties(
        name=name,
        dim=rows.shape[1],
        nn1=nn1,
        effective_rank=float(np.exp(-(share * np.log(share)).sum())),
        mean_cosine=mean_cosine(embedding),
        hubness=float(skew(np.bincount(index.ravel(), minlength=len(rows)))),
    )


def embedding_bytes(path: Path, split: Split) -> float:
    """Return the bytes on disk of an embedding of the centre crops, with its scale and its share of checksums."""
    arrays = [path / split.name / name / "c" / "0" for name in ("embedding", "scale")]
    files = [file for array in arrays for file in array.rglob("*") if file.is_file()]
    # the last chunk is padded in a store, and compressed in an archive
    rows = split.shape.rows if archive_of(path) else split.shape.chunks * split.shape.chunk_rows
    return sum(file.stat().st_size for file in files) / rows


def divergence_from(first: NDArray[np.float32], embedding: NDArray[np.float32]) -> float:
    """Return the mean divergence of a cache's similarities from the first cache's, over every other row as anchors."""
    return float(fidelity.divergence(embedding[::2], embedding[1::2], first[::2], first[1::2]).mean())


def cells(found: CacheProperties) -> list[str]:
    """Return a cache's row of the table."""
    return [
        found.name,
        f"{found.dim:,}",
        f"{found.bytes_per_row:,.0f}",
        "-" if found.nn1 is None else f"{100 * found.nn1:.1f}",
        f"{found.effective_rank:.1f}",
        f"{found.mean_cosine:.3f}",
        f"{found.hubness:.2f}",
        f"{found.divergence:.2g}",
    ]


def print_comparison(found: Sequence[CacheProperties], rows: int) -> None:
    """Print a table of properties, and one of overlaps if there are several caches."""
    console = Console()
    table = Table()
    for title in TITLES:
        table.add_column(title, no_wrap=title == "cache", overflow="fold")
    for each in found:
        table.add_row(*cells(each))
    console.print(table)
    if len(found) > 1:
        overlaps = Table("10 neighbours in common, %", *map(str, range(1, len(found) + 1)))
        for number, each in enumerate(found, start=1):
            shares = [f"{100 * share:.0f}" for share in each.overlap]
            overlaps.add_row(f"{number}  {each.name}", *shares)
        console.print(overlaps)
    console.print(f"on {rows:,} training images")


def comparison_markdown(content: Mapping[str, Any]) -> str:
    """Return the table of what `cache compare --json` printed, and where its numbers come from."""
    found = [CacheProperties(**each) for each in content["caches"]]
    lines = [f"| {' | '.join(row)} |" for row in (TITLES, *map(cells, found))]
    lines.insert(1, f"| --- |{' ---: |' * (len(TITLES) - 1)}")
    made = content["provenance"]
    note = f"{content['rows']:,} training images; `{made['command']}`, commit {made['commit']}, {made['date'][:10]}."
    return "\n".join(lines) + f"\n\n{note}"
