"""`cache-teacher`, and the function behind every store of embeddings: one dask task per chunk.

Existing chunks are kept, so a command that was interrupted resumes when it is run again.
"""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from distributed import Client

from cache.layout import FORMAT
from cache.lock import sole_writer
from cache.metadata import read_store
from cache.reader import open_store
from cache.user_folder import as_typed
from cache.writer import create_store
from pipeline.embedding.alike_rows import warn_of_alike_features, warn_of_alike_rows
from pipeline.embedding.dask_workers import open_client, share_of_machine
from pipeline.embedding.dispatch import EmbedReport, dispatch
from pipeline.embedding.missing_chunks import chunks_to_do, stored_views
from pipeline.embedding.random_views import SEED, random_view_of
from pipeline.embedding.tasks import Chunk, Job, chunk_count
from pipeline.errors import PipelineError, WrongUse, suggest
from pipeline.images.dataset import Dataset, open_dataset
from pipeline.models.backbone import Backbone, comparable
from pipeline.runtime.device import resolve_device
from pipeline.runtime.out_of_memory import explain_out_of_memory
from pipeline.runtime.outputs import require_writable_folder
from pipeline.settings.cache_commands import CacheTeacherConfig
from pipeline.teachers.backbone_spec import BackboneSpec
from pipeline.teachers.preprocessing_check import warn_of_preprocessing

FAILURES_SHOWN = 5


@explain_out_of_memory("--batch-size", "--image-size")
def cache_teacher(config: CacheTeacherConfig) -> None:
    """Run the `cache-teacher` command: embed a dataset with a teacher into config.cache."""
    spec = BackboneSpec(
        kind="teacher", name=config.teacher, weights=config.weights, image_size=config.image_size
    )
    report = embed(
        spec,
        open_dataset(config.dataset),
        config.cache,
        splits=config.split,
        views=config.views,
        crop_scale=config.crop_scale,
        device=config.device,
        precision=config.amp_dtype,
        batch_size=config.batch_size,
        workers=config.workers,
        scheduler=config.scheduler,
        progress=True,
    )
    print(f"{as_typed(config.cache)}: {report}")


def embed(
    backbone_spec: BackboneSpec,
    dataset: Dataset,
    out: Path,
    *,
    splits: Sequence[str] = (),
    views: int = 0,
    crop_scale: tuple[float, float] | None = None,
    device: str = "auto",
    precision: str = "fp32",
    batch_size: int = 128,
    workers: int | None = None,
    scheduler: str | None = None,
    progress: bool = False,
) -> EmbedReport:
    """Write the embeddings of the images' centre crops to the store `out`; without `splits`, of all splits.

    views: random crops of each training image to embed as well. crop_scale: range of their areas; None means that of
    the store's views, or 0.08 to 1. workers: None means one per GPU, or one per core up to four. scheduler: address of
    a running dask cluster to use instead; its workers must run in a checkout of this project and see the same paths,
    and each resolves the device for itself.

    Raises:
        IdentityMismatch: `out` holds the embeddings of another backbone, setting or dataset, or other random views.
        InUse: another process is writing `out`.
        WrongUse: an unknown split, or random views for a preprocessing of the user's own.
        PipelineError: some chunks could not be computed; it names them, and all others are written. Or no worker
            can compute.
    """
    names = _selected_splits(dataset, splits)
    if not (out / "zarr.json").exists():
        require_writable_folder(out)
        if scheduler is None:  # a cluster's workers have devices of their own
            resolve_device(device)  # refused before the store is created; a complete one needs no device
    backbone = backbone_spec.load()
    identity = _identity_for(out, backbone, precision=precision, batch_size=batch_size)
    warn_of_preprocessing(identity, backbone_spec.origin())
    if backbone_spec.kind == "teacher":
        warn_of_alike_features(backbone)
    if views and "train" not in names:
        raise WrongUse("--views: random views are of the split train, which --split leaves out")
    stored, crop_scale = stored_views(out, crop_scale)
    random_view_of(backbone, views, crop_scale)  # refuses what cannot be cropped
    grows = views > stored
    if grows and scheduler is None:
        resolve_device(device)
    create_store(out, identity, backbone_spec.origin())
    with sole_writer(out) if grows else contextlib.nullcontext():
        chunks = chunks_to_do(dataset, names, out, backbone.dim, views, crop_scale, progress)
    if not chunks:
        return EmbedReport()
    job = Job(
        spec=backbone_spec.resolve(),
        weights_sha256=backbone.weights_sha256,
        store=out.resolve(),
        device=device,
        precision=precision,
        batch_size=batch_size,
        crop_scale=crop_scale,
    )
    # threads decide bits, so they follow from the whole dataset and not from the chunks still to compute
    total = chunk_count((split.rows for split in dataset.splits.values()), backbone.dim)
    with sole_writer(out), _cluster(job, scheduler, workers, total, len(chunks)) as (client, job):
        report = dispatch(client, job, chunks, progress)
    _raise_failures(report, len(chunks))
    store = open_store(out, views=1)
    for name in names:
        warn_of_alike_rows(store.split(name))
    return report


@contextlib.contextmanager
def _cluster(
    job: Job, scheduler: str | None, workers: int | None, total: int, missing: int
) -> Iterator[tuple[Client, Job]]:
    """Open a running dask cluster, or one of our own for the missing ones of `total` chunks; and the job for it."""
    if scheduler is not None:
        with open_client(scheduler=scheduler) as client:
            yield client, job
        return
    device = resolve_device(job.device)
    count, threads = share_of_machine(workers, device, chunks=total)
    with open_client(workers=min(count, missing), threads=threads, device=device) as client:
        yield client, replace(job, device=device.type, threads=threads)


def _identity_for(out: Path, backbone: Backbone, *, precision: str, batch_size: int) -> dict[str, Any]:
    """Return `teacher_identity`, comparable with that of a store at `out` if there is one."""
    identity = teacher_identity(backbone, precision=precision, batch_size=batch_size)
    return comparable(identity, read_store(out)["teacher"]) if (out / "zarr.json").exists() else identity


def teacher_identity(backbone: Backbone, *, precision: str, batch_size: int) -> dict[str, Any]:
    """Return the part of a store's identity that decides its values, apart from the images."""
    return {
        **backbone.identity(),
        "dtype": "float16",
        "precision": precision,
        "batch_size": batch_size,
        "views_seed": SEED,
        "format": FORMAT,
    }


def _selected_splits(dataset: Dataset, splits: Sequence[str]) -> list[str]:
    for name in splits:
        if name not in dataset.splits:
            raise WrongUse(f"{dataset.path} has no split {name!r}{suggest(name, dataset.splits)}")
    return [name for name in dataset.splits if not splits or name in splits]


def _of_view(chunk: Chunk) -> str:
    return f"view {chunk.key.view}, " if chunk.key.view else ""


def _raise_failures(report: EmbedReport, total: int) -> None:
    if not report.failures:
        return
    named = [
        f"{chunk.split} chunk {chunk.key.index} ({_of_view(chunk)}rows {chunk.rows.start} to {chunk.rows.stop - 1}): "
        f"{reason}"
        for chunk, reason in report.failures.items()
    ]
    more = f"; and {len(named) - FAILURES_SHOWN} more" if len(named) > FAILURES_SHOWN else ""
    raise PipelineError(
        f"{report.chunks} of {total} chunks were computed; {'; '.join(named[:FAILURES_SHOWN])}{more}. "
        "Once the cause is fixed, the same command computes only the missing ones; a change of your own network or "
        "preprocessing needs a new cache"
    )
