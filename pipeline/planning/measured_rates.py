"""Throughput of this machine: the teacher in each worker of stage one, and a training step."""

from dataclasses import dataclass
from pathlib import Path

import torch
from distributed import wait
from torch import nn

from pipeline.embedding.dask_workers import open_client, share_of_machine
from pipeline.embedding.extract import ExtractionSettings, extract, forward, image_reader, move_to_device
from pipeline.embedding.tasks import chunk_count
from pipeline.errors import WrongUse
from pipeline.images.dataset import open_dataset
from pipeline.models.backbone import Backbone
from pipeline.planning import measured_step
from pipeline.planning.assumed_gpu import describe_exchange, exchange_seconds
from pipeline.planning.given_rates import Rates
from pipeline.planning.inputs import Images
from pipeline.planning.measured_step import images_per_second, measure_step
from pipeline.planning.network_cost import NetworkCosts, teacher_shape
from pipeline.runtime.device import resolve_device
from pipeline.runtime.precision import use_full_float32
from pipeline.settings.plan import PlanConfig
from pipeline.teachers.registry import untrained_teacher


def measure_rates(config: PlanConfig, images: Images, teacher: Backbone, costs: NetworkCosts) -> Rates:
    """Measure the rates of this machine. Raises WrongUse for --gpus without a GPU here."""
    device = resolve_device("auto")
    if config.gpus and device.type == "cpu":
        raise WrongUse("--gpus: this machine has none to measure; give --rate, a GPU's images/s on ResNet-50")
    workers, threads = share_of_machine(None, device, chunks=chunk_count(images.rows.values(), teacher.dim))
    whole, passes = measure_teacher(config, images, workers=workers, threads=threads, device=device)
    scale = config.gpus / workers if config.gpus else 1.0
    parts, loading = measure_step(config, images, teacher.dim, costs, device)
    is_cpu, gpus = device.type == "cpu", config.gpus or 1
    if gpus > 1:
        parts["exchange"] = exchange_seconds(gpus, costs.parameters, costs.loss)
    return Rates(
        teacher=passes * scale,
        # decoding accounts for the difference to forward passes alone
        decode=(1 / max(1 / whole - 1 / passes, 1e-12) if is_cpu else whole) * scale,
        parts=parts,
        loading=loading,
        overlap=not is_cpu,
        source=f"measured here, {measured_step.SECONDS:g} s each",
        assumptions=(describe_exchange(gpus),) if gpus > 1 else (),
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
    use_full_float32()  # as stage one, whose worker resolves the device
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
