"""Seconds of a training step on this machine: student, loss and loader, each measured for a few seconds."""

import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.loading.image_loader import ImageLoader
from pipeline.loading.order import Order
from pipeline.loading.random_crop import RandomCrop
from pipeline.models.optimizer import build_optimizer
from pipeline.models.students import build_student
from pipeline.objectives.streamed import SimilarityLoss
from pipeline.planning.given_rates import decoding_threads
from pipeline.planning.inputs import Images
from pipeline.planning.network_cost import NetworkCosts, build_head
from pipeline.runtime.distributed import use_all_cores
from pipeline.settings.plan import PlanConfig
from pipeline.settings.training import DistillConfig

SECONDS = 4.0  # minimum duration of a network's measurement
SMALLEST_BATCH = 4
MOST_ANCHORS = 16_384  # for more, the loss's time is extrapolated, which is linear in their number
LOADER_EPOCH = 16  # batches


def measure_step(
    config: PlanConfig, images: Images, teacher_dim: int, costs: NetworkCosts, device: torch.device
) -> tuple[dict[str, float], float]:
    """Return the seconds of each part of a training step of one rank, and those of loading its images."""
    use_all_cores()
    parts = {
        "student": measure_student(config, teacher_dim, costs, device),
        "loss": measure_loss(config, teacher_dim, costs, device),
    }
    loading = measure_loader(config, images, costs.share, device)
    if device.type == "cpu":
        # one of its cores decodes while the others compute
        loading *= decoding_threads(config) / len(os.sched_getaffinity(0))
    return parts, loading


def measure_student(config: PlanConfig, teacher_dim: int, costs: NetworkCosts, device: torch.device) -> float:
    """Return the seconds of a training step on one rank's share: network, optimizer and key encoder."""
    student = build_student(config.student, image_size=config.image_size, seed=0)
    network = nn.Sequential(student, build_head(config, student.dim, teacher_dim))
    network.to(device).to(memory_format=torch.channels_last).train()
    settings = DistillConfig(dataset=Path(), cache=Path(), run=Path(), optimizer=config.optimizer, wd=1e-4)
    optimizer = build_optimizer(settings, network)
    size = config.image_size
    images = torch.randn(costs.share, 3, size, size, device=device).to(memory_format=torch.channels_last)
    bf16 = config.amp_dtype == "bf16"

    def train(count: int) -> None:
        optimizer.zero_grad()
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            embedding: Tensor = network(images[:count])
        embedding.float().square().mean().backward()

    def embed(count: int) -> None:
        with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            network(images[:count])

    seconds = costs.share / images_per_second(train, costs.share, device)
    # apart, since it takes as long for fewer images
    seconds += seconds_of(optimizer.step, device)
    if costs.key.flops:
        seconds += costs.share / images_per_second(embed, costs.share, device)
    return seconds


def measure_loss(config: PlanConfig, teacher_dim: int, costs: NetworkCosts, device: torch.device) -> float:
    """Return the seconds of the loss of a whole batch against the anchors that one rank holds."""
    dim = teacher_dim if config.objective == "1q" else config.head_dim or costs.student_dim
    count = min(costs.anchors, MOST_ANCHORS)
    query, teacher = (
        nn.functional.normalize(torch.randn(config.batch_size, width, device=device), dim=1)
        for width in (dim, teacher_dim)
    )
    keys = nn.functional.normalize(torch.randn(count, teacher_dim, device=device), dim=1).half()
    own = keys if config.objective == "1q" else torch.randn(count, dim, device=device)
    query.requires_grad_()
    loss = SimilarityLoss(tau=0.04, tf32=config.amp_dtype == "bf16")
    return seconds_of(lambda: loss(query, teacher, own, keys).backward(), device) * costs.anchors / count


def measure_loader(config: PlanConfig, images: Images, share: int, device: torch.device) -> float:
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
        device=device,  # which normalizes them
    )
    for _ in loader.epoch(0):  # compiles, and reads the file into the page cache
        pass
    began = time.perf_counter()
    for _ in loader.epoch(1):
        pass
    wait_for(device)
    return (time.perf_counter() - began) / len(loader)


def wait_for(device: torch.device) -> None:
    """Wait until a GPU has done what it was told to."""
    if device.type != "cpu":
        torch.cuda.synchronize(device)


def seconds_of(run: Callable[[], object], device: torch.device) -> float:
    """Return the seconds of run(), its mean over some calls."""
    return 1 / images_per_second(lambda _: run(), 1, device, SECONDS / 4)


def images_per_second(
    run: Callable[[int], object], largest: int, device: torch.device, seconds: float | None = None
) -> float:
    """Return the rate of run(count), with as many images per call as take about SECONDS, at most `largest`."""
    seconds = SECONDS if seconds is None else seconds

    def timed(count: int) -> float:
        began = time.perf_counter()
        run(count)
        wait_for(device)
        return time.perf_counter() - began

    count = min(SMALLEST_BATCH, largest)
    timed(count)
    while (spent := timed(count)) < seconds / 2 and count < largest:
        count = min(2 * count, largest)
    done = count
    while spent < seconds:
        spent += timed(count)
        done += count
    return done / spent
