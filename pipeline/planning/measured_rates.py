"""Throughput of this machine: teacher, student, loss and loader, each measured for a few seconds."""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from distributed import wait
from torch import Tensor, nn

from pipeline.embedding.dask_workers import open_client, share_of_machine
from pipeline.embedding.extract import ExtractionSettings, extract, forward, image_reader, move_to_device
from pipeline.embedding.tasks import chunk_count
from pipeline.errors import WrongUse
from pipeline.images.dataset import open_dataset
from pipeline.loading.image_loader import ImageLoader
from pipeline.loading.order import Order
from pipeline.loading.random_crop import RandomCrop
from pipeline.models.backbone import Backbone
from pipeline.models.optimizer import build_optimizer
from pipeline.models.students import build_student
from pipeline.objectives.streamed import SimilarityLoss
from pipeline.planning.given_rates import Rates, decoding_threads
from pipeline.planning.inputs import Images
from pipeline.planning.network_cost import NetworkCosts, build_head, teacher_shape
from pipeline.runtime.device import resolve_device
from pipeline.runtime.distributed import use_all_cores
from pipeline.settings.commands import PlanConfig
from pipeline.settings.training import DistillConfig
from pipeline.teachers.registry import untrained_teacher

SECONDS = 4.0  # minimum duration of each measurement
SMALLEST_BATCH = 4
MOST_ANCHORS = 16_384  # for more, the loss's time is extrapolated, which is linear in their number
LOADER_EPOCH = 16  # batches


def measure_rates(config: PlanConfig, images: Images, teacher: Backbone, costs: NetworkCosts) -> Rates:
    """Measure the rates of this machine. Raises WrongUse for --gpus without a GPU here."""
    device = resolve_device("auto")
    if config.gpus and device.type == "cpu":
        raise WrongUse("--gpus: this machine has none to measure; give --rate, a GPU's images/s on ResNet-50")
    workers, threads = share_of_machine(None, device, chunks=chunk_count(images.rows.values(), teacher.dim))
    whole, passes = measure_teacher(config, images, workers=workers, threads=threads, device=device)
    scale = config.gpus / workers if config.gpus else 1.0
    step = measure_student(config, teacher.dim, costs, device)
    loading = measure_loader(config, images, costs.share)
    cores = len(os.sched_getaffinity(0))
    is_cpu = device.type == "cpu"
    return Rates(
        teacher=passes * scale,
        # decoding accounts for the difference to forward passes alone
        decode=(1 / max(1 / whole - 1 / passes, 1e-12) if is_cpu else whole) * scale,
        step=step,
        loading=loading * decoding_threads(config) / cores if is_cpu else loading,
        overlap=not is_cpu,
        source=f"measured here, {SECONDS:g} s each",
    )


@dataclass(frozen=True, kw_only=True)
class TeacherJob:
    """What a worker measures: a teacher, on the images of a dataset if there is one."""

    teacher: str
    image_size: int | None
    dataset: Path | None
    settings: ExtractionSettings


def measure_teacher(
    config: PlanConfig, images: Images, *, workers: int, threads: int, device: torch.device
) -> tuple[float, float]:
    """Return the images/s of all `cache-teacher` workers together, with decoding, and of their forward passes alone."""
    settings = ExtractionSettings(
        device=device,
        precision=config.teacher_amp_dtype,
        batch_size=config.teacher_batch_size,
        threads=threads,
    )
    path = images.dataset.path.resolve() if images.dataset else None
    job = TeacherJob(teacher=config.teacher, image_size=config.teacher_size, dataset=path, settings=settings)
    with open_client(workers=workers, threads=threads, device=device, scheduler=None) as client:
        client.wait_for_workers(workers)
        addresses = list(client.scheduler_info()["workers"])
        ready = [client.submit(warm_up, job, pure=False, workers=address) for address in addresses]
        wait(ready)  # otherwise the first worker would run alone while the others import
        futures = [client.submit(run_teacher, job, pure=False, workers=address) for address in addresses]
        rates: list[tuple[float, float]] = client.gather(futures)
    return sum(whole for whole, _ in rates), sum(passes for _, passes in rates)


def warm_up(job: TeacherJob) -> None:
    """Let the worker import all modules it needs."""
    untrained_teacher(job.teacher, image_size=job.image_size)


def run_teacher(job: TeacherJob) -> tuple[float, float]:
    """Return the images/s of one worker with decoding, and of its forward passes alone."""
    settings = job.settings
    torch.set_num_threads(settings.threads)
    backbone = untrained_teacher(job.teacher, image_size=job.image_size)
    initialize(backbone.module.to_empty(device=settings.device))
    move_to_device(backbone, settings.device)
    batch = torch.randn(teacher_shape(backbone, settings.batch_size))
    passes = images_per_second(
        lambda count: forward(backbone, batch[:count], settings), settings.batch_size, settings.device
    )
    if job.dataset is None:
        return passes, passes
    split = open_dataset(job.dataset).split("train")
    read = image_reader(split)
    whole = images_per_second(
        lambda count: extract(backbone, read, range(count), settings),
        min(4 * settings.batch_size, split.rows),
        settings.device,
    )
    return min(whole, passes), passes


def initialize(module: nn.Module) -> None:
    """Give a network without weights values of ordinary size, since denormal numbers slow it down."""
    for tensor in (*module.parameters(), *module.buffers()):
        if tensor.is_floating_point():
            nn.init.normal_(tensor, std=0.02)
    for layer in module.modules():
        reset = getattr(layer, "reset_parameters", None)
        if callable(reset):
            reset()


def measure_student(config: PlanConfig, teacher_dim: int, costs: NetworkCosts, device: torch.device) -> float:
    """Return the seconds of a training step on one rank's share: network, optimizer, key encoder and loss."""
    use_all_cores()
    student = build_student(config.student, image_size=config.image_size, seed=0)
    network = nn.Sequential(student, build_head(config, student.dim, teacher_dim))
    network.to(device).to(memory_format=torch.channels_last).train()
    settings = DistillConfig(dataset=Path(), cache=Path(), run=Path(), optimizer=config.optimizer, wd=1e-4)
    optimizer = build_optimizer(settings, network)
    size = config.image_size
    images = torch.randn(costs.share, 3, size, size, device=device).to(memory_format=torch.channels_last)
    bf16 = config.amp_dtype == "bf16"

    def train(count: int) -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            embedding: Tensor = network(images[:count])
        optimizer.zero_grad()
        embedding.float().square().mean().backward()
        optimizer.step()

    def embed(count: int) -> None:
        with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            network(images[:count])

    seconds = costs.share / images_per_second(train, costs.share, device)
    if costs.key.flops:
        seconds += costs.share / images_per_second(embed, costs.share, device)
    own = teacher_dim if config.objective == "1q" else config.head_dim or costs.student_dim
    return seconds + measure_loss(costs, (own, teacher_dim), device)


def measure_loss(costs: NetworkCosts, dims: tuple[int, int], device: torch.device) -> float:
    """Return the seconds of the loss of one share against all anchors. dims: the student's and the teacher's."""
    count = min(costs.anchors, MOST_ANCHORS)
    query, teacher = (
        nn.functional.normalize(torch.randn(costs.share, dim, device=device), dim=1) for dim in dims
    )
    keys = nn.functional.normalize(torch.randn(count, dims[1], device=device), dim=1).half()
    own = keys if dims[0] == dims[1] else torch.randn(count, dims[0], device=device)
    query.requires_grad_()

    def score(queries: int) -> None:
        SimilarityLoss(tau=0.04)(query[:queries], teacher[:queries], own, keys).backward()

    rate = images_per_second(score, costs.share, device)
    return costs.share / rate * costs.anchors / count


def measure_loader(config: PlanConfig, images: Images, share: int) -> float:
    """Return the seconds a rank's loader takes for a step's images; 0 without a dataset."""
    if images.dataset is None:
        return 0.0
    split = images.dataset.split("train")
    rows = np.arange(min(split.rows, LOADER_EPOCH * share))
    loader = ImageLoader(
        split.beton,
        Order(rows=rows, batch=min(share, len(rows))),
        image_size=config.image_size,
        crops=(RandomCrop(),),
        workers=decoding_threads(config),
    )
    for _ in loader.epoch(0):  # compiles, and reads the file into the page cache
        pass
    began = time.perf_counter()
    for _ in loader.epoch(1):
        pass
    return (time.perf_counter() - began) / len(loader)


def images_per_second(run: Callable[[int], object], largest: int, device: torch.device) -> float:
    """Return the rate of run(count), with as many images per call as take about SECONDS, at most `largest`."""

    def timed(count: int) -> float:
        began = time.perf_counter()
        run(count)
        if device.type != "cpu":
            torch.cuda.synchronize(device)
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
