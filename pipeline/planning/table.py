"""A plan in words: a table and a sentence on the terminal, in Markdown, or all of it as JSON."""

import dataclasses
import json
import math

import torch
from rich.console import Console
from rich.table import Table

from pipeline.embedding.dask_workers import machine_share
from pipeline.planning.inputs import chunk_count, planned_images
from pipeline.planning.network_cost import network_costs, open_teacher
from pipeline.planning.plan import Plan, make_plan
from pipeline.planning.rates import given_rates, is_told
from pipeline.results.markdown_file import write_into
from pipeline.results.plain_text import human_bytes
from pipeline.settings.commands import PlanConfig

UNITS = (("days", 86_400.0), ("hours", 3600.0), ("minutes", 60.0))
HEAD = ("", "dataset", "cache", "stage one", "stage two", "live teacher")
Rows = list[tuple[str, ...]]


def report_plan(config: PlanConfig) -> None:
    """Run `plan`."""
    plan = planned(config)
    if config.out:
        write_into(config.out, config.name, markdown(config, plan))
    elif config.json:
        print(json.dumps(dataclasses.asdict(plan), indent=1))
    else:
        Console().print(table(plan))
        print("\n".join(sentences(config, plan)))


def planned(config: PlanConfig) -> Plan:
    """The plan that a config asks for, measuring where it gives no rates."""
    # FFCV takes seconds to import, and given rates do without
    from pipeline.planning.benchmark import measured_rates

    if not (config.gpus or is_told(config)):
        config = dataclasses.replace(config, gpus=torch.cuda.device_count())
    images, teacher = planned_images(config), open_teacher(config)
    costs = network_costs(config, images, teacher)
    rates = given_rates(config, costs) or measured_rates(config, images, teacher, costs)
    processes = config.gpus or machine_share(0, "cpu", chunks=chunk_count(images, teacher.dim))[0]
    return make_plan(config, images, teacher, costs, rates, processes)


def table(plan: Plan) -> Table:
    """What is written, and the stages."""
    shown = Table(*HEAD)
    for row in rows(plan):
        shown.add_row(*row)
    return shown


def rows(plan: Plan) -> Rows:
    """The cells of the table: what is written, the cache's making, a student, and a student without a cache."""
    one, two = plan.stage_one, plan.stage_two
    return [
        ("files", f"{plan.dataset.files:,}", f"{plan.cache.files:,}", "", "", ""),
        ("bytes", human_bytes(plan.dataset.bytes), human_bytes(plan.cache.bytes), "", "", ""),
        ("time", "", "", *map(human_time, (one.seconds, two.seconds, plan.live_seconds))),
        ("images/s", "", "", f"{one.rate:,.0f}", f"{two.rate:,.0f}", ""),
        ("bound by", "", "", one.bound, two.bound, ""),
        ("processes", "", "", f"{one.processes:,}", f"{two.processes:,}", ""),
        ("memory of each", "", "", human_bytes(one.host_bytes), human_bytes(two.host_bytes), ""),
        ("memory of a GPU", "", "", *(human_bytes(stage.device_bytes) for stage in (one, two)), ""),
    ][: 8 if one.device_bytes else 7]


def sentences(config: PlanConfig, plan: Plan) -> list[str]:
    """The conclusion, then what the figures rest on."""
    one, two = plan.stage_one, plan.stage_two
    epochs = plan.break_even * plan.epochs
    when = (
        f"in epoch {math.ceil(epochs)} of the first student"
        if plan.break_even < 1
        else f"with student {math.ceil(plan.break_even)}"
    )
    return [
        f"The cache costs {human_time(one.seconds)} and {human_bytes(plan.cache.bytes)}, and each student "
        f"{human_time(two.seconds)} in place of {human_time(plan.live_seconds)} with a live teacher: "
        f"it has paid {when}.",
        f"{plan.images:,} images, teacher {config.teacher}, student {config.student} with {config.objective} for "
        f"{plan.epochs} epochs, on {plan.devices}; {plan.chunks:,} chunks of {plan.chunk_rows:,} rows; a student reads "
        f"{human_bytes(int(plan.reads))} a second. Rates {plan.rates}.",
    ]


def markdown(config: PlanConfig, plan: Plan) -> str:
    """The same as Markdown, with the command that made it."""
    lines = [f"| {' | '.join(row)} |" for row in [HEAD, ("---",) * len(HEAD), *rows(plan)]]
    told = [f"`{command(config)}`", "", *lines, "", *sentences(config, plan)]
    return "\n".join(told)


def command(config: PlanConfig) -> str:
    """The command line of a config's settings that are not the defaults, without where it writes to."""
    parts = ["python cli.py plan"]
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if field.name in ("out", "name", "json") or value == field.default:
            continue
        flag = [] if field.metadata.get("argument") else [f"--{field.name.replace('_', '-')}"]
        parts += [*flag, f"{value:g}" if isinstance(value, float) else str(value)]
    return " ".join(parts)


def human_time(seconds: float) -> str:
    """5400 -> "1.5 hours"."""
    for unit, size in UNITS:
        if seconds >= size:
            return f"{seconds / size:,.1f} {unit}"
    return f"{seconds:.0f} s"
