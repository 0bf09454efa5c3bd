"""`cache combine`: one cache of several teachers, whose cosine is a weighted mean of theirs."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cache.layout import Status
from cache.lock import sole_writer
from cache.metadata import read_split
from cache.reader import Split, Store, open_store
from cache.rows import sample
from cache.same_images import same_images
from cache.user_folder import as_typed
from cache.writer import ChunkRows, absent_chunks, create_split, create_store, normalize, write_chunk
from pipeline.embedding.conversions import fingerprint
from pipeline.embedding.convert import require_own_place
from pipeline.errors import WrongUse
from pipeline.runtime.progress import Progress
from pipeline.settings.cache_commands import CombineConfig

SPLIT = "train"  # whose embeddings decide on means and spreads
MOST_ROWS = 100_000


@dataclass(frozen=True, kw_only=True)
class Part:
    """One teacher's part of a combined embedding: sqrt(weight) (u - mean) / spread, of its unit rows u (n, D).

    spread: the root mean square length of u - mean, so that every teacher's part is about equally long. As in PHI-S
    (Ranzinger et al. 2024, arXiv 2410.01680) it is one number for all dimensions; the rotation there, which spreads the
    variance over them, would change no cosine. Without centering, mean is 0 and spread 1.
    """

    mean: NDArray[np.float32]
    spread: float
    weight: float

    def __call__(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the part (n, D) of rows (n, D)."""
        return np.asarray((rows - self.mean) * (np.sqrt(self.weight) / self.spread), np.float32)

    def identity(self) -> dict[str, Any]:
        """Return what defines the part, as JSON values."""
        return {
            "mean": fingerprint(self.mean),
            "spread": f"{self.spread:.6g}",
            "weight": f"{self.weight:.6g}",
        }


def combine_caches(config: CombineConfig) -> None:
    """Run the `cache combine` command; an interrupted one goes on.

    Raises WrongUse for caches of different images, or weights that do not fit the caches; IncompleteStore for a cache
    that lacks chunks; IdentityMismatch if there is another store at `out`.
    """
    weights = checked_weights(config.weights, len(config.caches))
    require_own_place(config.out, config.caches)
    stores = [open_store(path, views=1) for path in config.caches]
    splits = common_splits(stores)
    for split in (split for of_teachers in splits.values() for split in of_teachers):
        split.require_complete()
        split.verify()
    parts = [
        part_of(split, weight, centered=not config.uncentered)
        for split, weight in zip(splits[SPLIT], weights, strict=True)
    ]
    create_store(config.out, combined_identity(stores, parts), origin(stores))
    with sole_writer(config.out):
        for name, of_teachers in splits.items():
            first, dim = of_teachers[0], sum(split.shape.dim for split in of_teachers)
            create_split(
                config.out,
                name,
                dataset=first.dataset,
                rows=first.shape.rows,
                views=1,
                dim=dim,
                labels=first.label,
                thumbs=first.thumb,
            )
        missing = [(name, key) for name in splits for key in absent_chunks(config.out, name)]
        crops = {name: of_teachers[0].crop_of(0) for name, of_teachers in splits.items()}
        for name, key in Progress(missing, unit=" chunks"):
            held = read_split(config.out, name)[0].rows_of(key)
            write_chunk(config.out, name, key, combined(splits[name], crops[name], held, parts))
    names = [f"{weight:g} x {path}" for weight, path in zip(weights, config.caches, strict=True)]
    written = [open_store(config.out).split(name) for name in splits]
    usable, rows = sum(len(split.eligible()) for split in written), sum(split.shape.rows for split in written)
    print(
        f"{as_typed(config.out)}: {' + '.join(names)}, {sum(len(part.mean) for part in parts):,} dimensions, "
        f"{usable:,} of {rows:,} rows with an embedding"
    )


def checked_weights(weights: Sequence[str], teachers: int) -> list[float]:
    """Return the teachers' weights, which sum to 1; equal ones if none are given. WrongUse for others."""
    if teachers < 2:
        raise WrongUse("cache combine: expected two caches or more")
    try:
        given = [float(weight) for weight in weights] or [1.0] * teachers
    except ValueError as error:
        raise WrongUse(f"--weights {','.join(weights)}: expected numbers separated by commas") from error
    if len(given) != teachers:
        raise WrongUse(f"--weights {','.join(weights)}: expected {teachers} numbers, one for each cache")
    if not all(0 < weight < np.inf for weight in given):
        raise WrongUse(f"--weights {','.join(weights)}: expected numbers above 0")
    shares = [weight / max(given) for weight in given]  # the sum of the weights themselves might overflow
    return [share / sum(shares) for share in shares]


def common_splits(stores: Sequence[Store]) -> dict[str, list[Split]]:
    """Return the splits that all stores have, by name. WrongUse for different images, or no training images."""
    names = [name for name in stores[0].splits if all(name in store.splits for store in stores)]
    if SPLIT not in names:
        raise WrongUse(f"not all of these caches have a split '{SPLIT}', in which their spreads are measured")
    splits = {name: [store.split(name) for store in stores] for name in names}
    for of_teachers in splits.values():
        first, *others = of_teachers
        for split in others:
            if not same_images(split, first):
                raise WrongUse(
                    f"{split.path} and {first.path} are caches of different images; combine caches of one dataset"
                )
    return splits


def part_of(split: Split, weight: float, *, centered: bool) -> Part:
    """Measure a teacher's mean and spread on at most 100,000 random training rows."""
    if not centered:
        return Part(mean=np.zeros(split.shape.dim, np.float32), spread=1.0, weight=weight)
    eligible = split.eligible()
    if not len(eligible):
        raise WrongUse(f"no training image of {split.path} has an embedding; leave it out")
    rows = sample(eligible, MOST_ROWS, np.random.default_rng(0))
    total, squares = np.zeros(split.shape.dim), 0.0
    for start in range(0, len(rows), split.shape.chunk_rows):
        embedding = split.gather(rows[start : start + split.shape.chunk_rows]).astype(np.float64)
        total += embedding.sum(0)
        squares += float((embedding * embedding).sum())
    mean = total / len(rows)
    # mean |u - m|^2 = mean |u|^2 - |m|^2
    spread = math.sqrt(max(squares / len(rows) - float(mean @ mean), 1e-12))
    return Part(mean=mean.astype(np.float32), spread=spread, weight=weight)


def combined_identity(stores: Sequence[Store], parts: Sequence[Part]) -> dict[str, Any]:
    """Return the identity of the combined store's teacher: those of its teachers, and how they are combined."""
    teachers = [dict(store.teacher) for store in stores]
    return {
        "architecture": "combined",
        "dim": sum(len(part.mean) for part in parts),
        "teachers": teachers,
        "parts": [part.identity() for part in parts],
        "conversions": ["combined"],
    }


def origin(stores: Sequence[Store]) -> dict[str, str]:
    """Return the readable name of the combined teacher."""
    return {"name": " + ".join(store.origin.get("name", store.teacher["architecture"]) for store in stores)}


def combined(
    splits: Sequence[Split], crops: NDArray[np.float32], held: range, parts: Sequence[Part]
) -> ChunkRows:
    """Return the combined rows of a chunk. A row without an embedding in a cache has the status that it has there.

    crops: of all rows.
    """
    rows = np.arange(held.start, held.stop)
    values = [part(split.gather(rows).astype(np.float32)) for split, part in zip(splits, parts, strict=True)]
    embedding, norm, fate = normalize(np.concatenate(values, axis=1))
    status = fate
    for split in splits:
        own = split.status[0, rows]
        status = np.where(own == Status.OK, status, own)
    norm = np.where(status == Status.OK, norm, np.float32(np.nan))
    return ChunkRows(embedding=embedding, norm=norm, crop=crops[rows], status=status)
