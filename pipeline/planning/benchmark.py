"""How fast this machine runs a teacher and a student: each part measured for a few seconds."""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from distributed import wait
from torch import Tensor, nn

from pipeline.embedding.dask_workers import machine_share, open_client
from pipeline.embedding.extract import Settings, extract, forward, move, reader
from pipeline.errors import WrongUse
from pipeline.images.dataset import open_dataset
from pipeline.loading.image_loader import ImageLoader
from pipeline.loading.order import Order
from pipeline.loading.random_crop import RandomCrop
from pipeline.models.backbone import Backbone
from pipeline.models.optimizer import build_optimizer
from pipeline.models.students import build_student
from pipeline.objectives.streamed import streamed_kl
from pipeline.planning.inputs import Images, chunk_count
from pipeline.planning.network_cost import Costs, head, teacher_shape
from pipeline.planning.rates import Rates
from pipeline.runtime.distributed import resolve_device, use_every_core
from pipeline.settings.commands import DistillConfig, PlanConfig
from pipeline.teachers.registry import untrained_teacher

SECONDS = 4.0  # that each measurement takes at least
SMALLEST_BATCH = 4
MOST_ANCHORS = 16_384  # the loss takes as many times longer as there are more anchors
LOADER_EPOCH = 16  # batches


def measured_rates(config: PlanConfig, images: Images, teacher: Backbone, costs: Costs) -> Rates:
    """Rates of this machine, each measured for a few seconds. WrongUse for GPUs where there are none."""
    device = resolve_device("auto")
    if config.gpus and device == "cpu":
        raise WrongUse("--gpus: there is none here to measure; give --rate, what one trains a ResNet-50 with")
    workers, threads = machine_share(0, device, chunks=chunk_count(images, teacher.dim))
    whole, passes = measure_teacher(config, images, workers=workers, threads=threads, device=device)
    scale = config.gpus / workers if config.gpus else 1.0
    step = measure_student(config, teacher.dim, costs, device)
    loading = measure_loader(config, images, costs.share)
    cores = len(os.sched_getaffinity(0))
    is_cpu = device == "cpu"
    return Rates(
        teacher=passes * scale,
        # what decoding costs is what is missing to the rate of a forward pass alone
        decode=(1 / max(1 / whole - 1 / passes, 1e-12) if is_cpu else whole) * scale,
        step=step,
        loading=loading * config.workers / cores if is_cpu else loading,
        overlap=not is_cpu,
        source=f"measured here, {SECONDS:g} s each",
    )


@dataclass(frozen=True, kw_only=True)
class TeacherJob:
    """What a worker measures: a teacher, over the images of a dataset if there is one."""

    teacher: str
    image_size: int | None
    dataset: Path | None
    settings: Settings


def measure_teacher(
    config: PlanConfig, images: Images, *, workers: int, threads: int, device: str
) -> tuple[float, float]:
    """Images/s of all workers of `cache-teacher` at once, with decoding, and of their forward passes alone."""
    settings = Settings(
        device=device,
        precision=config.teacher_amp_dtype,
        batch_size=config.teacher_batch_size,
        threads=threads,
    )
    path = images.dataset.path.resolve() if images.dataset else None
    job = TeacherJob(
        teacher=config.teacher, image_size=config.teacher_size or None, dataset=path, settings=settings
    )
    with open_client(workers=workers, threads=threads, device=device, scheduler=None) as client:
        client.wait_for_workers(workers)
        addresses = list(client.scheduler_info()["workers"])
        loaded = [client.submit(load, job, pure=False, workers=address) for address in addresses]
        wait(loaded)  # or the first would run alone while the others load
        futures = [client.submit(run_teacher, job, pure=False, workers=address) for address in addresses]
        rates: list[tuple[float, float]] = client.gather(futures)
    return sum(whole for whole, _ in rates), sum(passes for _, passes in rates)


def load(job: TeacherJob) -> None:
    """Make the worker import what it needs."""
    untrained_teacher(job.teacher, image_size=job.image_size)


def run_teacher(job: TeacherJob) -> tuple[float, float]:
    """Images/s of one worker, with decoding, and of its forward passes alone."""
    settings = job.settings
    torch.set_num_threads(settings.threads)
    backbone = untrained_teacher(job.teacher, image_size=job.image_size)
    initialise(backbone.module.to_empty(device=settings.device))
    move(backbone, settings.device)
    batch = torch.randn(teacher_shape(backbone, settings.batch_size))
    passes = images_per_second(
        lambda count: forward(backbone, batch[:count], settings), settings.batch_size, settings.device
    )
    if job.dataset is None:
        return passes, passes
    split = open_dataset(job.dataset).split("train")
    read = reader(split)
    whole = images_per_second(
        lambda count: extract(backbone, read, range(count), settings),
        min(4 * settings.batch_size, split.rows),
        settings.device,
    )
    return min(whole, passes), passes


def initialise(module: nn.Module) -> None:
    """Numbers of an ordinary size for a network without weights: odd ones are slow to compute with."""
    for tensor in (*module.parameters(), *module.buffers()):
        if tensor.is_floating_point():
            nn.init.normal_(tensor, std=0.02)
    for layer in module.modules():
        reset = getattr(layer, "reset_parameters", None)
        if callable(reset):
            reset()


def measure_student(config: PlanConfig, teacher_dim: int, costs: Costs, device: str) -> float:
    """Seconds of a step of one rank's share: the network and its optimiser, the key encoder, and the loss."""
    use_every_core()
    student = build_student(config.student, image_size=config.image_size, seed=0)
    network = nn.Sequential(student, head(config, student.dim, teacher_dim))
    network.to(device).to(memory_format=torch.channels_last).train()
    settings = DistillConfig(dataset=Path(), cache=Path(), run=Path(), optimizer=config.optimizer, lr=1e-3)
    optimizer = build_optimizer(settings, network)
    size = config.image_size
    images = torch.randn(costs.share, 3, size, size, device=device).to(memory_format=torch.channels_last)
    bf16 = config.amp_dtype == "bf16"

    def descend(count: int) -> None:
        with torch.autocast(device, torch.bfloat16, enabled=bf16):
            embedding: Tensor = network(images[:count])
        optimizer.zero_grad()
        embedding.float().square().mean().backward()
        optimizer.step()

    def embed(count: int) -> None:
        with torch.no_grad(), torch.autocast(device, torch.bfloat16, enabled=bf16):
            network(images[:count])

    seconds = costs.share / images_per_second(descend, costs.share, device)
    if costs.key.flops:
        seconds += costs.share / images_per_second(embed, costs.share, device)
    own = teacher_dim if config.objective == "1q" else config.head_dim or costs.student_dim
    return seconds + measure_loss(costs, (own, teacher_dim), device)


def measure_loss(costs: Costs, dims: tuple[int, int], device: str) -> float:
    """Seconds of the loss of a share against all anchors. dims: of the student's and the teacher's."""
    count = min(costs.anchors, MOST_ANCHORS)
    query, teacher = (
        nn.functional.normalize(torch.randn(costs.share, dim, device=device), dim=1) for dim in dims
    )
    keys = nn.functional.normalize(torch.randn(count, dims[1], device=device), dim=1).half()
    own = keys if dims[0] == dims[1] else torch.randn(count, dims[0], device=device)
    query.requires_grad_()

    def score(queries: int) -> None:
        streamed_kl(query[:queries], teacher[:queries], own, keys, tau=0.04).backward()

    rate = images_per_second(score, costs.share, device)
    return costs.share / rate * costs.anchors / count


def measure_loader(config: PlanConfig, images: Images, share: int) -> float:
    """Seconds in which a rank's loader makes a step's images; 0 without a dataset."""
    if images.dataset is None:
        return 0.0
    split = images.dataset.split("train")
    rows = np.arange(min(split.rows, LOADER_EPOCH * share))
    loader = ImageLoader(
        split.beton,
        Order(rows=rows, batch=min(share, len(rows))),
        image_size=config.image_size,
        crops=(RandomCrop(),),
        workers=config.workers,
    )
    for _ in loader.epoch(0):  # compiles, and reads the file into the page cache
        pass
    began = time.perf_counter()
    for _ in loader.epoch(1):
        pass
    return (time.perf_counter() - began) / len(loader)


def images_per_second(run: Callable[[int], object], largest: int, device: str) -> float:
    """The rate of run(images), with as many images a call as are done in SECONDS, at most `largest`."""

    def timed(count: int) -> float:
        began = time.perf_counter()
        run(count)
        if device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - began

    count = min(SMALLEST_BATCH, largest)
    timed(count)
    while (spent := timed(count)) < SECONDS / 2 and count < largest:
        count = min(2 * count, largest)
    done = count
    while spent < SECONDS:
        spent += timed(count)
        done += count
    return done / spent
