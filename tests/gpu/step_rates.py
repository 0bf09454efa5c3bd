"""Rates of what a training step consists of: copies, products, the loss, and its parts by the GPU's own clock."""

import itertools
import time
import warnings
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from cache.anchors import AnchorWindow
from cache.reader import open_store
from pipeline.loading.batch import Batch
from pipeline.models.students import build_student
from pipeline.objectives.compress import Compress1q
from pipeline.objectives.queues import AnchorQueue
from pipeline.objectives.running_softmax import product
from pipeline.objectives.streamed import SimilarityLoss
from pipeline.planning.measured_step import wait_for
from pipeline.runtime.distributed import World
from pipeline.runtime.precision import tf32_products, usual_precision
from pipeline.settings.training import DistillConfig
from pipeline.training.student_run import StudentRun
from tests.gpu.rates import Bench

MEGABYTES = 64
PRECISIONS = {"fp32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16}


def per_second(bench: Bench, run: Callable[[], object]) -> float:
    """Return how often run() can be done per second, one after the other without waiting for each."""
    calls, spent = 1, 0.0
    while spent < bench.scale.seconds:
        calls *= 2
        began = time.perf_counter()
        for _ in range(calls):
            run()
        wait_for(bench.device)
        spent = time.perf_counter() - began
    return calls / spent


def copies(bench: Bench) -> dict[str, float]:
    """Return GB/s of copies from and to the GPU."""
    host = torch.empty(MEGABYTES << 20, dtype=torch.uint8)
    pinned = host.pin_memory() if bench.device.type == "cuda" else host
    on_device = host.to(bench.device)
    gigabytes = host.nbytes / 1e9
    sides = {
        "pinned to GPU": lambda: on_device.copy_(pinned, non_blocking=True),
        "pageable to GPU": lambda: on_device.copy_(host),
        "GPU to pinned": lambda: pinned.copy_(on_device, non_blocking=True),
    }
    return {name: gigabytes * per_second(bench, copy) for name, copy in sides.items()}


def products(bench: Bench) -> dict[str, float]:
    """Return TFLOP/s of queries times a block of anchors, the loss's product."""
    queries, anchors = bench.scale.batch, min(8192, bench.scale.anchors)
    found = {}
    for name, dtype in PRECISIONS.items():
        a, b = (
            torch.randn(rows, bench.scale.dim, device=bench.device).to(dtype) for rows in (queries, anchors)
        )
        with tf32_products(name == "tf32"):
            rate = per_second(bench, lambda a=a, b=b: product(a, b.T, torch.float32))  # type: ignore[misc]
        found[name] = 2 * queries * anchors * bench.scale.dim * rate / 1e12
    return found


def similarity_loss(bench: Bench) -> dict[str, float]:
    """Return the milliseconds of the loss with its gradient, for batch x width x precision."""
    found = {}
    for batch, dim, (name, dtype) in itertools.product(
        bench.scale.batches, bench.scale.dims, PRECISIONS.items()
    ):
        rows = [F.normalize(torch.randn(count, dim, device=bench.device)) for count in (batch, batch)]
        stored = torch.bfloat16 if name == "bf16" else torch.float16
        anchors = torch.empty(bench.scale.anchors, dim, device=bench.device, dtype=stored).normal_()
        anchors.div_(dim**0.5)
        query, loss = (
            rows[0].requires_grad_(),
            SimilarityLoss(tau=0.04, product_dtype=dtype, tf32=name == "tf32"),
        )

        def run(
            loss: SimilarityLoss = loss,
            query: Tensor = query,
            teacher: Tensor = rows[1],
            anchors: Tensor = anchors,
        ) -> None:
            loss(query, teacher, anchors, anchors).backward()

        found[f"B {batch}, D {dim}, {name}"] = 1000 / per_second(bench, run)
    return found


def training_steps(bench: Bench) -> dict[str, Any]:
    """Return, for each student, the milliseconds of a step's parts, and how often it launches and waits."""
    return {student: training_step(bench, student) for student in bench.scale.students}


def training_step(bench: Bench, student: str) -> dict[str, float]:
    run, batch = open_run(bench, student), a_batch(bench)
    for _ in range(3):
        run.train_step(batch, 0.01)
    whole = 1 / per_second(bench, lambda: run.train_step(fresh(batch), 0.01))
    return {
        "images/s": bench.scale.batch / whole,
        "step": 1000 * whole,
        **parts(run, fresh(batch)),
        **calls(run, fresh(batch)),
    }


def open_run(bench: Bench, student: str) -> StudentRun:
    config = DistillConfig(
        dataset=bench.dataset, cache=bench.cache, run=bench.folder / student, student=student, optimizer="sgd",
        batch_size=bench.scale.batch, lr=0.01, wd=1e-4, amp_dtype=usual_precision(bench.device),
    )  # fmt: skip
    network = build_student(student, image_size=bench.scale.image_size, seed=0)
    split = open_store(bench.cache).split("train")
    window = AnchorWindow(split.eligible(), split.shape.rows, bench.scale.batch, seed=0)
    objective = Compress1q(AnchorQueue(split, window), student_dim=network.dim, tf32=True)
    run = StudentRun(config=config, student=network, objective=objective, world=World(), device=bench.device)
    run.model = run.wrap_model()
    return run


def a_batch(bench: Bench) -> Batch:
    size, device, count = bench.scale.image_size, bench.device, bench.scale.batch
    images = torch.randn(count, 3, size, size, device=device).to(memory_format=torch.channels_last)
    teacher = F.normalize(torch.randn(count, bench.scale.dim, device=device)).half()
    rows = torch.arange(count, device=device)
    return Batch(images=(images,), rows=rows, labels=rows, teacher=teacher)


def fresh(batch: Batch) -> Batch:
    """Return a batch for which the loss does not reuse the teacher's side of the last."""
    assert batch.teacher is not None
    return Batch(images=batch.images, rows=batch.rows, labels=batch.labels, teacher=batch.teacher.clone())


def parts(run: StudentRun, batch: Batch) -> dict[str, float]:
    """Return the milliseconds of forward pass, loss, backward pass and optimizer, medians of five steps."""
    steps = [one_step(run, fresh(batch)) for _ in range(5)]
    return {name: sorted(step[name] for step in steps)[2] for name in steps[0]}


def one_step(run: StudentRun, batch: Batch) -> dict[str, float]:
    marks = [mark(run.device)]
    with run.autocast():
        embeddings = (run.model(batch.images[0]),)
        marks.append(mark(run.device))
        loss = run.objective(embeddings, batch, run.step)
    marks.append(mark(run.device))
    run.optimizer.zero_grad()
    loss.backward()
    marks.append(mark(run.device))
    run.optimizer.step()
    marks.append(mark(run.device))
    wait_for(run.device)
    names = ("forward", "loss", "backward", "optimizer")
    return {name: between(a, b) for name, a, b in zip(names, marks[:-1], marks[1:], strict=True)}


def mark(device: torch.device) -> Any:
    """Return a point in time, on a GPU by its own clock."""
    if device.type == "cpu":
        return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def between(start: Any, end: Any) -> float:
    """Return the milliseconds between two marks."""
    return 1000 * (end - start) if isinstance(start, float) else start.elapsed_time(end)


def calls(run: StudentRun, batch: Batch) -> dict[str, float]:
    """Return how many kernels a step launches, and how many times the CPU waits for the GPU."""
    if run.device.type == "cpu":
        return {}
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as recorded:
        run.train_step(batch, 0.01)
        wait_for(run.device)
    launches = sum(event.count for event in recorded.key_averages() if "LaunchKernel" in event.key)
    torch.cuda.set_sync_debug_mode("warn")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run.train_step(fresh(batch), 0.01)
    torch.cuda.set_sync_debug_mode("default")
    waits = sum("synchronizing" in str(each.message) for each in caught)
    return {"launches": launches, "synchronizations": waits}


STEP_SECTIONS: dict[str, Callable[[Bench], Any]] = {
    "copies, GB/s": copies,
    "products, TFLOP/s": products,
    "similarity loss, ms": similarity_loss,
    "training steps, ms": training_steps,
}
