"""`cache verify` and `cache repair`: check a store's bytes and a sample of its rows, and recompute faulty chunks."""

import os
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np

from cache.audit import Audit, Fault, audit, remove_chunks
from cache.columns import chunk_columns
from cache.durable import write_file
from cache.errors import CorruptStore, IdentityMismatch
from cache.identity import identity_difference
from cache.layout import ChunkKey, Status
from cache.lock import sole_writer
from cache.metadata import archive_of, read_split, read_split_attributes, read_store
from cache.reader import Split, Store, open_store
from cache.restore import damaged_metadata
from cache.user_folder import as_typed
from cache.writer import ChunkRows
from pipeline.embedding.alike_rows import warn_of_alike_rows
from pipeline.embedding.cache_teacher import embed
from pipeline.embedding.extract import (
    ExtractionSettings,
    extract,
    image_reader,
    move_to_device,
    to_chunk_rows,
)
from pipeline.embedding.random_views import random_view_of
from pipeline.errors import WrongUse
from pipeline.images.dataset import Dataset, DatasetSplit, open_dataset
from pipeline.runtime.device import resolve_device
from pipeline.runtime.progress import Progress
from pipeline.settings.cache_commands import RepairConfig, VerifyConfig
from pipeline.teachers.teacher_of_cache import open_teacher_of_cache

LOWEST_COSINE = 0.999
FAULTS_SHOWN = 50
ROWS_SHOWN = 5


def verify_cache(config: VerifyConfig) -> None:
    """Run the `cache verify` command: print the faults and a verdict.

    Raises:
        CorruptStore: the store has a fault.
        WrongUse: --rows without --dataset.
        IdentityMismatch: the dataset or the teacher is not the store's.
    """
    if config.rows and config.dataset is None:
        raise WrongUse("--rows computes embeddings from the images: give their --dataset too")
    done, faults = find_faults(config)
    print_verdict(config, done, faults)
    store = open_store(config.cache, views=1)
    for name in store.splits:
        if store.split(name).complete:
            warn_of_alike_rows(store.split(name))


def repair_cache(config: RepairConfig) -> None:
    """Run the `cache repair` command: recompute what is faulty, then verify. Raises as `verify_cache` and `embed`."""
    restore_metadata(config)
    done, faults = find_faults(config)
    # damaged bytes first, since rows of a damaged chunk cannot be compared; then chunks whose rows are wrong
    for _ in ("bytes", "rows"):
        if faults:
            recompute(config, faults)
            done, faults = find_faults(config)
    print_verdict(config, done, faults)


def find_faults(config: VerifyConfig) -> tuple[Audit, list[Fault]]:
    """Check a store's bytes; if they are sound, also its labels (with --dataset) and a sample of its rows (--rows)."""
    with Progress(unit=" chunks", leave=False) as bar:
        done = audit(config.cache, bar.move_to)
    faults = list(done.faults)
    if config.dataset is not None and not faults:
        store, dataset = open_store(config.cache), open_dataset(config.dataset)
        require_same_dataset(store, dataset)
        for name in store.splits:
            faults += column_faults(store.split(name), dataset.splits[name])
        if config.rows and not faults:
            faults += row_faults(config, store, dataset)
    return done, faults


def print_verdict(config: VerifyConfig, done: Audit, faults: list[Fault]) -> None:
    """Print the faults, or that the store is sound. Raises CorruptStore if there are faults."""
    for fault in faults[:FAULTS_SHOWN]:
        print(fault)
    if len(faults) > FAULTS_SHOWN:
        print(f"and {len(faults) - FAULTS_SHOWN:,} more faults")
    if faults:
        repair = f"python cli.py cache repair {config.cache} --dataset {config.dataset or 'DATASET'}"
        count = f"{len(faults):,} fault{'' if len(faults) == 1 else 's'}"
        way_out = f"`{repair}` recomputes the faulty chunks, and no others"
        if archive_of(config.cache):
            way_out = "fetch or make the archive again"
        elif read_store(config.cache)["teacher"].get("conversions"):
            way_out = "delete these files and run the command that made it from another cache, which makes them again"
        raise CorruptStore(f"{config.cache} has {count}; {way_out}")
    compared = f", {config.rows:,} rows computed again" if config.rows else ""
    print(
        f"{as_typed(config.cache)}: sound ({done.files:,} chunk files, {done.bytes / 2**20:,.1f} MiB{compared})"
    )
    if done.without_ledger:
        print(
            f"{', '.join(done.without_ledger)}: written before checksums were kept beside the chunks, so only "
            "--rows can find swapped chunks"
        )


def restore_metadata(config: RepairConfig) -> None:
    """Rewrite lost and damaged zarr.json files of splits whose ledgers show that they belong to the dataset."""
    dataset, path = open_dataset(config.dataset), config.cache
    damaged = {
        path / name / file: data
        for name, split in dataset.splits.items()
        for file, data in damaged_metadata(path, name, split.identities, split.rows).items()
    }
    if damaged:
        with sole_writer(path):
            for file, data in damaged.items():
                print(f"repairing: {file.relative_to(path)}", file=sys.stderr)
                write_file(file, data)


def recompute(config: RepairConfig, faults: list[Fault]) -> None:
    """Delete the faulty chunks and compute them again, after checking that dataset and teacher are the store's."""
    store, dataset = open_store(config.cache), open_dataset(config.dataset)
    require_same_dataset(store, dataset)
    spec, _ = open_teacher_of_cache(store, config.teacher, config.weights)
    for fault in faults[:FAULTS_SHOWN]:
        print(f"repairing: {fault}", file=sys.stderr)
    with sole_writer(config.cache):
        remove_chunks(config.cache, faults)
    embed(
        spec,
        dataset,
        config.cache,
        splits=sorted({fault.split for fault in faults}),
        device=config.device,
        precision=store.teacher["precision"],
        batch_size=store.teacher["batch_size"],
        **random_views(store),
        workers=config.workers,
        scheduler=config.scheduler,
        progress=True,
    )


def random_views(store: Store) -> dict[str, Any]:
    """Return the arguments of `embed` for the random views that a store has."""
    if "train" not in store.splits:
        return {}
    shape, _, crop_scale = read_split_attributes(store.path, "train")
    return {"views": shape.views - 1, "crop_scale": crop_scale} if crop_scale else {}


def require_same_dataset(store: Store, dataset: Dataset) -> None:
    """Raise IdentityMismatch, naming the fields, unless every split of the store was computed from the dataset."""
    for name in store.splits:
        split = dataset.splits.get(name)
        found = read_split(store.path, name)[1]
        differences = split.difference_from(found) if split else identity_difference({}, found)
        if differences:
            raise IdentityMismatch(
                f"the split '{name}' of {store.path} was not made from {dataset.path}: {'; '.join(differences)}"
            )


def column_faults(split: Split, dataset: DatasetSplit) -> Iterator[Fault]:
    """Yield a fault for each chunk of labels or perceptual hashes that differs from the dataset.

    The labels of a store that was made before `pack --relabel` are not those of the dataset.
    """
    columns = {"thumb": split.thumb != dataset.thumbs}
    if split.dataset == dataset.identity:
        columns["label"] = split.label != dataset.labels
    for column, differs in columns.items():
        for index in np.unique(np.flatnonzero(differs) // split.shape.chunk_rows):
            key = ChunkKey(0, int(index))
            reason = "differs from the dataset"
            rows = split.shape.rows_of(key)
            yield Fault(split=split.name, file=f"{column}/c/{index}", reason=reason, key=key, rows=rows)


def row_faults(config: VerifyConfig, store: Store, dataset: Dataset) -> Iterator[Fault]:
    """Recompute config.rows random rows of all splits and views, and yield a fault for each chunk that differs."""
    _, backbone = open_teacher_of_cache(store, config.teacher, config.weights)
    splits = [store.split(name) for name in store.splits]
    crop_scale = random_views(store).get("crop_scale", ())
    views = [(split, view) for split in splits for view in range(split.shape.views)]
    ends = np.cumsum([split.shape.rows for split, _ in views])
    draws = np.random.default_rng(config.seed)
    drawn = np.sort(draws.choice(ends[-1], min(config.rows, ends[-1]), replace=False))
    device = resolve_device(config.device)
    move_to_device(backbone, device)
    settings = ExtractionSettings(
        device=device,
        precision=store.teacher["precision"],
        batch_size=store.teacher["batch_size"],
        threads=len(os.sched_getaffinity(0)),
    )
    for (split, view), end in zip(views, ends, strict=True):
        start = end - split.shape.rows
        rows = drawn[(drawn >= start) & (drawn < end)] - start
        images, cut = dataset.splits[split.name], random_view_of(backbone, view, crop_scale)
        new = to_chunk_rows(extract(backbone, image_reader(images), rows.tolist(), settings, view=cut))
        yield from compare_rows(split, view, rows, new)


def compare_rows(split: Split, view: int, rows: np.ndarray, new: ChunkRows) -> Iterator[Fault]:
    """Yield a fault for each chunk with a row of another status than the new one, or a cosine below the limit."""
    computed, stored = new.embedding.astype(np.float64), split.gather(rows, view).astype(np.float64)
    with np.errstate(invalid="ignore"):
        norms = np.linalg.norm(computed, axis=1) * np.linalg.norm(stored, axis=1)
        cosine = (computed * stored).sum(1) / norms
    same_status = new.status == split.status[view, rows]
    wrong = ~same_status | ((new.status == Status.OK) & ~(cosine >= LOWEST_COSINE))
    for index in np.unique(rows[wrong] // split.shape.chunk_rows):
        key = ChunkKey(view, int(index))
        inside = wrong & (rows // split.shape.chunk_rows == index)
        lowest = np.nan_to_num(cosine[inside], nan=0).min()
        named = ", ".join(map(str, rows[inside][:ROWS_SHOWN]))
        if inside.sum() > ROWS_SHOWN:
            named += ", ..."
        reason = (
            f"differs from the teacher's output in rows {named}: cosine {lowest:.4f}, "
            f"expected {LOWEST_COSINE} or more"
        )
        file = chunk_columns(split.shape)[-1].file_name(key)
        yield Fault(split=split.name, file=file, reason=reason, key=key, rows=split.shape.rows_of(key))
