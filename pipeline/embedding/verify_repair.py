"""`cache verify` and `cache repair`: a store's bytes, rows of it computed again, what is at fault written anew."""

import os
import sys
from collections.abc import Iterator

import numpy as np
from tqdm import tqdm

from cache.audit import Audit, Fault, audit, remove
from cache.columns import chunk_columns
from cache.durable import write_file
from cache.errors import CorruptStore, IdentityMismatch
from cache.identity import identity_difference
from cache.layout import ChunkKey, Status
from cache.lock import sole_writer
from cache.metadata import read_split
from cache.reader import Split, Store, open_store
from cache.restore import damaged_metadata
from pipeline.embedding.cache_teacher import embed
from pipeline.embedding.extract import Settings, as_rows, extract, move, reader
from pipeline.errors import WrongUse
from pipeline.images.dataset import Dataset, DatasetSplit, open_dataset
from pipeline.models.backbone import Backbone
from pipeline.runtime.distributed import resolve_device
from pipeline.settings.commands import RepairConfig, VerifyConfig
from pipeline.teachers.teacher_of_cache import open_teacher_of_cache

LOWEST_COSINE = 0.999
MOST_SHOWN = 50


def verify_cache(config: VerifyConfig) -> None:
    """Run `cache verify`: print the faults and a verdict.

    Raises CorruptStore when anything is at fault, WrongUse for --rows without --dataset, and IdentityMismatch when
    the dataset or the teacher is not the store's.
    """
    if config.rows and config.dataset is None:
        raise WrongUse("--rows computes embeddings from the images: give their --dataset too")
    done, faults = find(config)
    tell(config, done, faults)


def repair_cache(config: RepairConfig) -> None:
    """Run `cache repair`: write what is at fault anew, then verify. Raises as `verify_cache` and `embed` do."""
    restore(config)
    done, faults = find(config)
    # damaged bytes first, since rows of a damaged chunk cannot be compared; then those of a wrong meaning
    for _ in ("bytes", "meaning"):
        if faults:
            mend(config, faults)
            done, faults = find(config)
    tell(config, done, faults)


def find(config: VerifyConfig) -> tuple[Audit, list[Fault]]:
    """What is wrong with a store's bytes; if nothing is and --rows is given, what is wrong with its rows."""
    with tqdm(unit=" chunks", dynamic_ncols=True, disable=not sys.stderr.isatty(), leave=False) as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        done = audit(config.cache, progress)
    faults = list(done.faults)
    if config.dataset is not None and not faults:
        store, dataset = open_store(config.cache), open_dataset(config.dataset)
        require_same(store, dataset)
        faults += [fault for name in store.splits for fault in joins(store.split(name), dataset.splits[name])]
        if config.rows and not faults:
            faults += meaning(config, store, dataset)
    return done, faults


def tell(config: VerifyConfig, done: Audit, faults: list[Fault]) -> None:
    """Print each fault and the verdict; CorruptStore if there is a fault."""
    for fault in faults[:MOST_SHOWN]:
        print(fault)
    if len(faults) > MOST_SHOWN:
        print(f"and {len(faults) - MOST_SHOWN:,} faults more")
    if faults:
        repair = f"python cli.py cache repair {config.cache} --dataset {config.dataset or 'DATASET'}"
        count = f"{len(faults):,} fault{'' if len(faults) == 1 else 's'}"
        raise CorruptStore(
            f"{config.cache} has {count}; `{repair}` computes the chunks at fault anew, and no others"
        )
    compared = f", {config.rows:,} rows computed again" if config.rows else ""
    print(f"{config.cache}: sound ({done.files:,} chunk files, {done.bytes / 2**20:,.1f} MiB{compared})")
    if done.without_ledger:
        print(
            f"{', '.join(done.without_ledger)}: written before checksums were kept beside the chunks, so only "
            "--rows can tell of two chunks that were swapped"
        )


def restore(config: RepairConfig) -> None:
    """Write lost and damaged zarr.json files of splits anew, where the ledgers show that the dataset is theirs."""
    dataset, path = open_dataset(config.dataset), config.cache
    damaged = {
        path / name / file: data
        for name, split in dataset.splits.items()
        for file, data in damaged_metadata(path, name, split.identity, split.rows).items()
    }
    if damaged:
        with sole_writer(path):
            for file, data in damaged.items():
                print(f"repairing: {file.relative_to(path)}", file=sys.stderr)
                write_file(file, data)


def mend(config: RepairConfig, faults: list[Fault]) -> None:
    """Delete the chunks at fault and extract them again, once it is known that this can be done."""
    store, dataset = open_store(config.cache), open_dataset(config.dataset)
    require_same(store, dataset)
    spec, _ = open_teacher_of_cache(store, config.teacher, config.weights)
    for fault in faults[:MOST_SHOWN]:
        print(f"repairing: {fault}", file=sys.stderr)
    with sole_writer(config.cache):
        remove(config.cache, faults)
    embed(
        spec,
        dataset,
        config.cache,
        splits=sorted({fault.split for fault in faults}),
        device=config.device,
        precision=store.teacher["precision"],
        batch_size=store.teacher["batch_size"],
        workers=config.workers,
        scheduler=config.scheduler,
        progress=True,
    )


def require_same(store: Store, dataset: Dataset) -> None:
    """IdentityMismatch, field by field, unless every split of a store was made of this dataset's."""
    for name in store.splits:
        known = dataset.splits.get(name)
        differences = identity_difference(known.identity if known else {}, read_split(store.path, name)[1])
        if differences:
            raise IdentityMismatch(
                f"the split '{name}' of {store.path} was not made of {dataset.path}: {'; '.join(differences)}"
            )


def joins(split: Split, dataset: DatasetSplit) -> Iterator[Fault]:
    """The chunks of labels and perceptual hashes that are not the dataset's."""
    for column, differs in (
        ("label", split.label != dataset.labels),
        ("thumb", split.thumb != dataset.thumbs),
    ):
        for index in np.unique(np.flatnonzero(differs) // split.shape.chunk_rows):
            key = ChunkKey(0, int(index))
            reason = "is not what the dataset says of these rows"
            rows = split.shape.rows_of(key)
            yield Fault(split=split.name, file=f"{column}/c/{index}", reason=reason, key=key, rows=rows)


def meaning(config: VerifyConfig, store: Store, dataset: Dataset) -> Iterator[Fault]:
    """The chunks of view 0 with rows, of the random ones of all splits, that the teacher does not say again."""
    _, backbone = open_teacher_of_cache(store, config.teacher, config.weights)
    splits = [store.split(name) for name in store.splits]
    ends = np.cumsum([split.shape.rows for split in splits])
    draws = np.random.default_rng(config.seed)
    drawn = np.sort(draws.choice(ends[-1], min(config.rows, ends[-1]), replace=False))
    device = resolve_device(config.device)
    move(backbone, device)
    settings = Settings(
        device=device,
        precision=store.teacher["precision"],
        batch_size=store.teacher["batch_size"],
        threads=len(os.sched_getaffinity(0)),
    )
    for split, end in zip(splits, ends, strict=True):
        start = end - split.shape.rows
        rows = drawn[(drawn >= start) & (drawn < end)] - start
        yield from unlike(split, dataset.splits[split.name], backbone, settings, rows)


def unlike(
    split: Split, dataset: DatasetSplit, backbone: Backbone, settings: Settings, rows: np.ndarray
) -> Iterator[Fault]:
    """One fault a chunk for the `rows` whose status differs or whose cosine is below LOWEST_COSINE."""
    again = as_rows(extract(backbone, reader(dataset), rows.tolist(), settings))
    said, kept = again.embedding.astype(np.float64), split.gather(rows).astype(np.float64)
    with np.errstate(invalid="ignore"):
        cosine = (said * kept).sum(1) / (np.linalg.norm(said, axis=1) * np.linalg.norm(kept, axis=1))
    same_status = again.status == split.status[0, rows]
    wrong = ~same_status | ((again.status == Status.OK) & ~(cosine >= LOWEST_COSINE))
    for index in np.unique(rows[wrong] // split.shape.chunk_rows):
        key = ChunkKey(0, int(index))
        held = wrong & (rows // split.shape.chunk_rows == index)
        lowest = np.nan_to_num(cosine[held], nan=0).min()
        reason = (
            f"is not what the teacher says of rows {', '.join(map(str, rows[held][:5]))}"
            f"{', ...' if held.sum() > 5 else ''}: cosine {lowest:.4f}, expected {LOWEST_COSINE} or more"
        )
        file = chunk_columns(split.shape)[-1].file_name(key)
        yield Fault(split=split.name, file=file, reason=reason, key=key, rows=split.shape.rows_of(key))
