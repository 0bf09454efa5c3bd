"""Options with a value outside their choices or bounds, for every command, derived from its settings."""

import dataclasses
import math
import typing
from collections.abc import Iterator
from typing import Any

from pipeline.settings import cache_commands, commands, training
from pipeline.settings.browse import BrowseConfig
from pipeline.settings.field import CommandSettings, options
from pipeline.settings.plan import PlanConfig
from pipeline.settings.toml_file import without_none
from tests.support.bad_cases import Case, with_flags
from tests.support.bad_files import nothing

SETTINGS: dict[str, type[CommandSettings]] = {
    "demo-data images": commands.DemoDataConfig,
    "pack {pictures} out": commands.PackConfig,
    "pretrain {dataset} r": training.PretrainConfig,
    "cache-teacher {dataset} c.zarr": cache_commands.CacheTeacherConfig,
    "cache info {cache}": cache_commands.InfoConfig,
    "cache verify {cache}": cache_commands.VerifyConfig,
    "cache repair {cache} --dataset {dataset}": cache_commands.RepairConfig,
    "cache compare {cache}": cache_commands.CompareConfig,
    "cache combine {cache} {cache} o.zarr": cache_commands.CombineConfig,
    "cache convert {cache} o.zarr --as int8": cache_commands.ConvertConfig,
    "cache neighbours {cache}": cache_commands.NeighboursConfig,
    "distill {dataset} {cache} r": training.DistillConfig,
    "embed {dataset} o.zarr": commands.EmbedConfig,
    "eval {run} --dataset {dataset}": commands.EvalConfig,
    "sweep s.toml": commands.SweepConfig,
    "report {run} --out r.html": commands.ReportConfig,
    "browse {run} --dataset {dataset}": BrowseConfig,
    "export {run} s.onnx": commands.ExportConfig,
    "plan {dataset}": PlanConfig,
}


def bad_values(field: dataclasses.Field[Any], hint: Any) -> Iterator[str]:
    """Yield values on the command line that break a field's choices or its bounds, NaN and infinity among them."""
    kinds = typing.get_args(hint) or (hint,)
    if field.metadata["choices"]:
        yield "nonesuch"
    numbers: list[float] = []
    if kinds[0] in (int, float):
        numbers += [field.metadata["minimum"] - 1, field.metadata["maximum"] + 1]
    if kinds[0] is float:
        numbers += [math.nan, math.inf]
    for number in numbers:
        if kinds[0] is float or math.isfinite(number):
            yield " ".join([str(number), *["1"] * (len(kinds) - 1)])


def cases(command: str, settings: type[CommandSettings]) -> Iterator[Case]:
    """Yield a case for each bad value of each option of a command."""
    hints = typing.get_type_hints(settings)
    for field in options(settings):
        if not field.metadata.get("argument"):
            flag = f"--{field.name.replace('_', '-')}"
            for value in dict.fromkeys(bad_values(field, without_none(hints[field.name]))):
                name = f"{command.split(' {')[0]}: {flag} {value}"
                yield name, f"{command} {flag} {value}", nothing, f"{flag}: expected "


BAD_OPTIONS = [case for command, settings in SETTINGS.items() for case in cases(command, settings)]
BAD_COMMANDS = [
    *with_flags("destill", ("", "no command 'destill'; did you mean 'distill'?")),
    *with_flags("cache", ("inof", "no command 'inof'; did you mean 'info'?")),
    *with_flags("students", ("resnet18", "unexpected extra argument"), ("--check w.pth", "No such option")),
    *with_flags("objectives", ("1q", "unexpected extra argument")),
    *with_flags(
        "browse {run} --dataset {dataset} --no-open",
        ("--split vall", "has no split 'vall'; it has train, val; did you mean 'val'?"),
        ("--export map.csv", "map.csv: name a file that ends in .parquet"),
        ("--device tpu", "unknown device 'tpu': expected auto, cpu or cuda"),
    ),
]
