"""Stage one, and every other embedding of a dataset: a backbone over all rows into a store, one task a chunk.

Chunks that are there are left alone, so a command that is run again goes on where it stopped.
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from cache.layout import FORMAT, SplitShape
from cache.lock import sole_writer
from cache.writer import absent_chunks, create_split, create_store
from pipeline.embedding.array_files import SUFFIXES, embed_images
from pipeline.embedding.dask_workers import open_client
from pipeline.embedding.dispatch import EmbedReport, dispatch
from pipeline.embedding.extract import BackboneSpec, Chunk, Job, Settings
from pipeline.errors import PipelineError, WrongUse, suggest
from pipeline.images.dataset import DESCRIPTION, Dataset, open_dataset
from pipeline.images.sources import open_sources
from pipeline.runtime.distributed import resolve_device
from pipeline.runtime.out_of_memory import memory_in_words
from pipeline.settings.commands import CacheTeacherConfig, EmbedConfig
from pipeline.teachers.preprocessing_check import warn_of_preprocessing
from pipeline.teachers.registry import Backbone

MOST_CPU_WORKERS = 4
FAILURES_SHOWN = 5


@memory_in_words("--batch-size", "--image-size")
def cache_teacher(config: CacheTeacherConfig) -> None:
    """Run `cache-teacher`: a teacher over a dataset into config.cache."""
    spec = BackboneSpec(
        kind="teacher", name=config.teacher, weights=config.weights, image_size=config.image_size or None
    )
    report = embed(
        spec,
        open_dataset(config.dataset),
        config.cache,
        splits=config.split,
        device=config.device,
        precision=config.amp_dtype,
        batch_size=config.batch_size,
        workers=config.workers,
        scheduler=config.scheduler,
        progress=True,
    )
    print(f"{config.cache}: {report}")


@memory_in_words("--batch-size", "--image-size")
def embed_any(config: EmbedConfig) -> None:
    """Run `embed`: a run's student or a teacher over a dataset or a plain folder, into a store or a file."""
    spec = _spec(config)
    is_dataset = (config.data / DESCRIPTION).exists()
    options: dict[str, Any] = {
        "device": config.device,
        "precision": config.amp_dtype,
        "batch_size": config.batch_size,
        "progress": True,
    }
    if config.out.suffix in SUFFIXES:
        dataset = open_dataset(config.data) if is_dataset else None
        sources = {name: split.source for name, split in dataset.splits.items()} if dataset else None
        rows, unreadable = embed_images(spec, sources or open_sources(config.data), config.out, **options)
        print(f"{config.out}: {rows} rows, {unreadable} of them unreadable")
    elif is_dataset:
        report = embed(spec, open_dataset(config.data), config.out, workers=config.workers, **options)
        print(f"{config.out}: {report}")
    else:
        raise WrongUse(
            f"{config.data} is no dataset, and a store has a dataset's rows; let OUT end in "
            f"{' or '.join(SUFFIXES)}, or `python cli.py pack {config.data} DATASET` first"
        )


def embed(
    backbone_spec: BackboneSpec,
    dataset: Dataset,
    out: Path,
    *,
    splits: Sequence[str] = (),
    device: str = "auto",
    precision: str = "fp32",
    batch_size: int = 128,
    workers: int = 0,
    scheduler: str | None = None,
    progress: bool = False,
) -> EmbedReport:
    """Write the centre-view embeddings of a dataset's splits (none named: all) into the store `out`.

    workers: 0 for one a GPU, or one a core up to four. scheduler: address of a dask cluster to use instead,
    whose workers run in a checkout of the project and see the same paths.
    Raises IdentityMismatch when `out` was made of something else, InUse when another process writes there,
    WrongUse for a wrong name or flag, and PipelineError naming the chunks that could not be computed; all others
    are written by then.
    """
    if batch_size < 1 or workers < 0:
        raise WrongUse(f"--batch-size {batch_size}, --workers {workers}: expected at least 1 and at least 0")
    names = _chosen_splits(dataset, splits)
    device = resolve_device(device)
    backbone = backbone_spec.load()
    identity = teacher_identity(backbone, precision=precision, batch_size=batch_size)
    warn_of_preprocessing(identity, backbone_spec.origin())
    create_store(out, identity, backbone_spec.origin())
    chunks = [chunk for name in names for chunk in _absent(dataset, name, out, backbone.dim, progress)]
    if not chunks:
        return EmbedReport()
    count, threads = share_of_machine(workers, device, dataset, backbone.dim)
    settings = Settings(device=device, precision=precision, batch_size=batch_size, threads=threads)
    job = Job(
        spec=backbone_spec.resolve(),
        weights_sha256=backbone.weights_sha256,
        store=out.resolve(),
        settings=settings,
    )
    count = min(count, len(chunks))
    with (
        sole_writer(out),
        open_client(workers=count, threads=threads, device=device, scheduler=scheduler) as client,
    ):
        report = dispatch(client, job, chunks, progress)
    _raise_failures(report, len(chunks))
    return report


def teacher_identity(backbone: Backbone, *, precision: str, batch_size: int) -> dict[str, Any]:
    """What decides the values of a store's rows, beside the images."""
    return {
        **backbone.identity(),
        "dtype": "float16",
        "precision": precision,
        "batch_size": batch_size,
        "views_seed": 0,
        "format": FORMAT,
    }


def share_of_machine(workers: int, device: str, dataset: Dataset, dim: int) -> tuple[int, int]:
    """Worker processes, and the threads of each.

    Threads decide bits, so they follow from machine, flag and whole dataset, not from what is still to do.
    """
    chunks = sum(SplitShape(rows=split.rows, views=1, dim=dim).chunks for split in dataset.splits.values())
    return machine_share(workers, device, chunks=chunks)


def machine_share(workers: int, device: str, *, chunks: int) -> tuple[int, int]:
    """Worker processes for so many chunks (`workers` 0: as many as the machine has room for), threads of each."""
    cores = len(os.sched_getaffinity(0))
    wanted = workers or (torch.cuda.device_count() if device == "cuda" else min(cores, MOST_CPU_WORKERS))
    count = min(wanted, chunks)
    return count, max(1, cores // count)


def _spec(config: EmbedConfig) -> BackboneSpec:
    if (config.run is None) == (config.teacher is None):
        raise WrongUse("give either --run RUN or --teacher NAME")
    if config.run is not None and config.weights is not None:
        raise WrongUse("--weights belongs to --teacher; a run has its own")
    return BackboneSpec(
        kind="teacher" if config.run is None else "run",
        name=config.teacher or "",
        weights=config.weights,
        image_size=config.image_size or None,
        run=config.run,
    )


def _chosen_splits(dataset: Dataset, splits: Sequence[str]) -> list[str]:
    for name in splits:
        if name not in dataset.splits:
            raise WrongUse(f"{dataset.path} has no split {name!r}{suggest(name, dataset.splits)}")
    return [name for name in dataset.splits if not splits or name in splits]


def _absent(dataset: Dataset, name: str, out: Path, dim: int, progress: bool) -> list[Chunk]:
    """Make sure that the store has the split, and list the chunks that are still to be computed."""
    split = dataset.splits[name]
    shape = SplitShape(rows=split.rows, views=1, dim=dim)
    labels, thumbs = split.labels, split.thumbs
    create_split(
        out, name, dataset=split.identity, rows=split.rows, views=1, dim=dim, labels=labels, thumbs=thumbs
    )
    absent = absent_chunks(out, name)
    if progress:
        print(f"{name}: {len(absent)} of {shape.chunks} chunks to do", file=sys.stderr)
    return [
        Chunk(
            dataset=dataset.path.resolve(),
            data=dataset.data.resolve(),
            split=name,
            images=split.identity["images"],
            key=key,
            rows=shape.rows_of(key),
        )
        for key in absent
    ]


def _raise_failures(report: EmbedReport, wanted: int) -> None:
    if not report.failures:
        return
    named = [
        f"{chunk.split} chunk {chunk.key.index} (rows {chunk.rows.start} to {chunk.rows.stop - 1}): {reason}"
        for chunk, reason in report.failures.items()
    ]
    more = f"; and {len(named) - FAILURES_SHOWN} more" if len(named) > FAILURES_SHOWN else ""
    raise PipelineError(
        f"{report.chunks} of {wanted} chunks were computed; {'; '.join(named[:FAILURES_SHOWN])}{more}. "
        "Run the command again: it computes only what is absent"
    )
