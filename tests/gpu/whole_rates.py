"""Rates of whole parts: the loader, stage one with decoding, and a run of `distill`."""

import json
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from cache.reader import open_store
from pipeline.embedding.extract import ExtractionSettings
from pipeline.images.dataset import open_dataset
from pipeline.loading.image_loader import ImageLoader
from pipeline.loading.order import Order
from pipeline.loading.random_crop import RandomCrop
from pipeline.planning.measured_rates import TeacherJob, run_teacher
from pipeline.planning.measured_step import wait_for
from pipeline.runtime.distributed import cores_of_rank
from pipeline.settings.training import DistillConfig
from pipeline.training.distill import distill
from tests.gpu.rates import Bench


def loader(bench: Bench) -> dict[str, float]:
    """Return images/s of the loader, with the join and the copies to the GPU, by decoding threads."""
    split, teacher = open_dataset(bench.dataset).split("train"), open_store(bench.cache).split("train")
    found = {}
    for threads in bench.scale.threads:
        order = Order(rows=np.arange(split.rows), batch=bench.scale.batch)
        images = ImageLoader(
            split.beton, order, image_size=bench.scale.image_size, crops=(RandomCrop(),), teacher=teacher,
            workers=threads, device=bench.device,
        )  # fmt: skip
        for _ in images.epoch(0):
            pass
        began = time.perf_counter()
        for _ in images.epoch(1):
            pass
        wait_for(bench.device)
        found[f"{threads} threads"] = len(images) * bench.scale.batch / (time.perf_counter() - began)
    return found


def stage_one(bench: Bench) -> dict[str, float]:
    """Return images/s of stage one with decoding, and of its forward passes alone."""
    found = {}
    for teacher in bench.scale.teachers:
        for precision in ("fp32", "bf16"):
            settings = ExtractionSettings(
                device=bench.device,
                precision=precision,
                batch_size=bench.scale.batch,
                threads=cores_of_rank(),
            )
            job = TeacherJob(teacher=teacher, image_size=None, dataset=bench.dataset, settings=settings)
            whole, passes = run_teacher(job)
            found |= {
                f"{teacher}, {precision}, whole": whole,
                f"{teacher}, {precision}, forward alone": passes,
            }
    return found


def whole_run(bench: Bench) -> dict[str, Any]:
    """Return images/s of a run of `distill` as a user starts it, from its second epoch on."""
    per_epoch = bench.scale.images // bench.scale.batch
    config = DistillConfig(
        dataset=bench.dataset, cache=bench.cache, run=bench.folder / "run", image_size=bench.scale.image_size,
        batch_size=bench.scale.batch, epochs=-(-bench.scale.steps // per_epoch), lr=0.01, device=bench.device.type,
    )  # fmt: skip
    began = time.perf_counter()
    distill(config)
    seconds = time.perf_counter() - began
    lines = map(json.loads, (config.run / "metrics.jsonl").read_text().splitlines())
    rates = [line["images_per_s"] for line in lines if "images_per_s" in line and line["step"] > per_epoch]
    return {
        "images/s, median": float(np.median(rates)),
        "steps": bench.scale.steps,
        "seconds, start included": seconds,
    }


WHOLE_SECTIONS: dict[str, Callable[[Bench], Any]] = {
    "loader, images/s": loader,
    "stage one, images/s": stage_one,
    "distill, resnet18": whole_run,
}
