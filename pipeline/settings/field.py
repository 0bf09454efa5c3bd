"""Fields of a command's settings: default, help, choices and bounds, all checked when the settings are made."""

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cache.user_folder import as_typed
from pipeline.errors import WrongUse, suggest

MAX_SEED = 2**32 - 1  # accepted by the generators of NumPy, PyTorch and faiss
PRECISIONS = ("fp32", "bf16")
DASK_WORKERS = "dask workers on this machine. Default: one per GPU, or one per core up to four"
DASK_SCHEDULER = "address of a running dask cluster to use instead"
DEVICE = "cpu, cuda, or auto"
READ, WRITE = "read", "write"
# What meant None before it was the default; older command lines, recipes and run folders still say so.
FORMERLY_NONE = (0, "", "own")


def setting(
    default: Any = dataclasses.MISSING,
    help: str = "",
    choices: tuple[str, ...] = (),
    minimum: float = 0,
    maximum: float = math.inf,
    repeatable: bool = False,
    keeps_zero: bool = False,
    url: str = "",
) -> Any:
    """Define a field that is an option of the command line.

    minimum, maximum: bounds of a number, or of each number in a tuple. repeatable: the option may be given several
    times; each value makes a run of its own. keeps_zero: 0 is a value of its own although the default is None. url:
    what the command does with a path that may be a URL, READ or WRITE; "" for one that may not.
    """
    return dataclasses.field(
        default=default,
        metadata={
            "help": help,
            "choices": choices,
            "minimum": minimum,
            "maximum": maximum,
            "repeatable": repeatable,
            "keeps_zero": keeps_zero,
            "url": url,
        },
    )


def argument(help: str = "", default: Any = dataclasses.MISSING, url: str = "") -> Any:
    """Define a field that is a positional argument of the command line, optional if it has a default. url: as above."""
    return dataclasses.field(default=default, metadata={"help": help, "argument": True, "url": url})


class CommandSettings:
    """Base of all commands' settings: making one checks choices and bounds."""

    def __post_init__(self) -> None:
        for field in options(type(self)):
            value = getattr(self, field.name)
            if field.default is None and value in FORMERLY_NONE and not field.metadata.get("keeps_zero"):
                object.__setattr__(self, field.name, None)
            elif not field.metadata.get("argument"):
                check(value, field.metadata, flag_of(field))


def flag_of(field: dataclasses.Field[Any]) -> str:
    """Return the flag of a field: --batch-size of batch_size, --as of as_."""
    return f"--{field.name.rstrip('_').replace('_', '-')}"


def options(config: type) -> list[dataclasses.Field[Any]]:
    """Return the fields that a user can set, in order."""
    return [field for field in dataclasses.fields(config) if field.metadata]


def check(value: Any, metadata: Mapping[str, Any], flag: str) -> None:
    """Raise WrongUse for a value that is not among the choices, out of bounds, infinite or NaN, or a falling range."""
    choices = metadata["choices"]
    if choices and value is not None and value not in choices:
        expected = f"{', '.join(choices[:-1])} or {choices[-1]}"
        raise WrongUse(f"{flag}: expected {expected}, found {value!r}{suggest(str(value), choices)}")
    values = value if isinstance(value, tuple) else (value,)
    numbers = [each for each in values if isinstance(each, int | float)]
    for number in numbers:
        check_number(number, metadata["minimum"], metadata["maximum"], flag)
    if numbers != sorted(numbers):
        raise WrongUse(f"{flag}: expected the lower bound first, found {' '.join(map(str, numbers))}")


def check_number(number: float, minimum: float, maximum: float, flag: str) -> None:
    """Raise WrongUse unless minimum <= number <= maximum and the number is finite."""
    if minimum <= number <= maximum and math.isfinite(number):
        return
    kind = "number" if math.isfinite(number) else "finite number"
    bounds = f"of at least {minimum}" if maximum == math.inf else f"from {minimum} to {maximum}"
    raise WrongUse(f"{flag}: expected a {kind} {bounds}, found {number}")


def as_json(config: Any) -> dict[str, Any]:
    """Return settings as plain data for a run folder, with paths as strings, and URLs as they were typed."""
    return {
        field.name: as_typed(value) if isinstance(value := getattr(config, field.name), Path) else value
        for field in dataclasses.fields(config)
    }


def defaults(config: type) -> dict[str, Any]:
    """Return the default of every field that has one."""
    return {
        field.name: field.default
        for field in dataclasses.fields(config)
        if field.default is not dataclasses.MISSING
    }
