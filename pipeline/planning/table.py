"""`plan`: a table and a summary on the terminal, in Markdown, or all numbers as JSON."""

import dataclasses
import json
import math

import torch
from rich.console import Console
from rich.table import Table

from pipeline.embedding.dask_workers import share_of_machine
from pipeline.embedding.tasks import chunk_count
from pipeline.errors import WrongUse
from pipeline.planning.given_rates import given_rates, has_rates
from pipeline.planning.inputs import planned_images
from pipeline.planning.network_cost import network_costs, planned_teacher
from pipeline.planning.plan import Plan, make_plan
from pipeline.results.markdown_file import require_markers, write_into
from pipeline.results.plain_text import human_bytes
from pipeline.runtime.device import CPU
from pipeline.runtime.idle_gpu import find_cuda
from pipeline.runtime.precision import usual_precision
from pipeline.settings.plan import PlanConfig

UNITS = (("days", 86_400.0), ("hours", 3600.0), ("minutes", 60.0))
HEAD = ("", "dataset", "cache", "stage one", "stage two", "live teacher")
Rows = list[tuple[str, ...]]


def report_plan(config: PlanConfig) -> None:
    """Run the `plan` command."""
    if config.out:
        require_markers(config.out, config.name)
    plan = compute_plan(config)
    if config.out:
        write_into(config.out, config.name, markdown(config, plan))
    elif config.json:
        print(json.dumps(dataclasses.asdict(plan), indent=1))
    else:
        Console().print(table(plan))
        print("\n".join(summary(config, plan)))


def compute_plan(config: PlanConfig) -> Plan:
    """Compute the plan, measuring this machine if the config gives no rates.

    Raises WrongUse for settings that cannot be planned.
    """
    if not (config.gpus or has_rates(config)):
        # with a driver that is too old, PyTorch counts GPUs that it cannot use
        config = dataclasses.replace(config, gpus=torch.cuda.device_count() if find_cuda()[0] else 0)
    if config.amp_dtype is None:
        config = dataclasses.replace(config, amp_dtype="bf16" if config.gpus else usual_precision(CPU))
    images, teacher = planned_images(config), planned_teacher(config)
    if images.train < config.batch_size:
        raise WrongUse(
            f"{images.train:,} training images do not fill one batch of {config.batch_size}: "
            "give a smaller --batch-size"
        )
    costs = network_costs(config, images, teacher)
    rates = given_rates(config, costs)
    if rates is None:
        from pipeline.planning.measured_rates import measure_rates  # imports FFCV, which takes seconds

        rates = measure_rates(config, images, teacher, costs)
    chunks = chunk_count(images.rows.values(), teacher.dim)
    processes = config.gpus or share_of_machine(None, CPU, chunks=chunks)[0]
    return make_plan(config, images, teacher, costs, rates, processes)


def table(plan: Plan) -> Table:
    """Return the plan as a table for the terminal."""
    result = Table(*HEAD)
    for row in rows(plan):
        result.add_row(*row)
    return result


def rows(plan: Plan) -> Rows:
    """Return the cells of the table, one column for each title in HEAD."""
    one, two = plan.stage_one, plan.stage_two
    return [
        ("files", f"{plan.dataset.files:,}", f"{plan.cache.files:,}", "", "", ""),
        ("bytes", human_bytes(plan.dataset.bytes), human_bytes(plan.cache.bytes), "", "", ""),
        ("time", "", "", *map(human_time, (one.seconds, two.seconds, plan.live_seconds))),
        ("checksums", "", human_time(plan.check_seconds), "", "", ""),
        ("images/s", "", "", f"{one.rate:,.0f}", f"{two.rate:,.0f}", ""),
        ("bottleneck", "", "", one.bound, two.bound, ""),
        ("processes", "", "", f"{one.processes:,}", f"{two.processes:,}", ""),
        ("memory per process", "", "", human_bytes(one.host_bytes), human_bytes(two.host_bytes), ""),
        ("memory per GPU", "", "", *(human_bytes(stage.device_bytes) for stage in (one, two)), ""),
    ][: 9 if one.device_bytes else 8]


def summary(config: PlanConfig, plan: Plan) -> list[str]:
    """Return the conclusion, then the plan's assumptions."""
    one, two = plan.stage_one, plan.stage_two
    epochs = plan.break_even * plan.epochs
    when = (
        f"epoch {math.ceil(epochs)} of the first student"
        if plan.break_even < 1
        else f"student {math.ceil(plan.break_even)}"
    )
    return [
        f"The cache costs {human_time(one.seconds)} and {human_bytes(plan.cache.bytes)}, and each machine once "
        f"{human_time(plan.check_seconds)} to verify its checksums; each student then takes "
        f"{human_time(two.seconds)} instead of {human_time(plan.live_seconds)} with a live teacher "
        f"(break-even: {when}).",
        f"{plan.images:,} images, teacher {config.teacher}, student {config.student} with {config.objective} for "
        f"{plan.epochs} epochs, on {plan.devices}; {plan.chunks:,} chunks of {plan.chunk_rows:,} rows; training reads "
        f"{human_bytes(int(plan.reads))}/s. Rates {plan.rates}.",
        f"A training step computes for {milliseconds(sum(plan.step.values()))}"
        f" ({', '.join(f'{part} {milliseconds(seconds)}' for part, seconds in plan.step.items())})"
        + (f", and starting its operations takes {milliseconds(plan.launching)}." if plan.launching else "."),
        *([f"Not measured on a GPU, assumed: {'; '.join(plan.assumptions)}."] if plan.assumptions else []),
    ]


def markdown(config: PlanConfig, plan: Plan) -> str:
    """Return the table and the summary as Markdown, below the command that prints them."""
    lines = [f"| {' | '.join(row)} |" for row in [HEAD, ("---",) * len(HEAD), *rows(plan)]]
    return "\n".join([f"`{command(config)}`", "", *lines, "", *summary(config, plan)])


def command(config: PlanConfig) -> str:
    """Return the command line of the settings that are not defaults, without the output options."""
    parts = ["python cli.py plan"]
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if field.name in ("out", "name", "json") or value == field.default:
            continue
        flag = [] if field.metadata.get("argument") else [f"--{field.name.replace('_', '-')}"]
        parts += [*flag, f"{value:g}" if isinstance(value, float) else str(value)]
    return " ".join(parts)


def milliseconds(seconds: float) -> str:
    """Format a short time: 0.0123 -> "12.3 ms"."""
    return f"{seconds * 1e3:,.1f} ms"


def human_time(seconds: float) -> str:
    """Format seconds: 5400 -> "1.5 hours"."""
    for unit, size in UNITS:
        if seconds >= size:
            return f"{seconds / size:,.1f} {unit}"
    return f"{seconds:.0f} s"
