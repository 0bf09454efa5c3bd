"""What a field of a command's config says of itself: its default, its help, and what it may be."""

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.errors import WrongUse, suggest


def setting(
    default: Any = dataclasses.MISSING,
    help: str = "",
    choices: tuple[str, ...] = (),
    least: float = -math.inf,
    most: float = math.inf,
    several: bool = False,
) -> Any:
    """A field that is an option of the command line, with its help and, where closed, its choices or bounds.

    several: the option may be given again and again, each for a run of its own in one pass.
    """
    bounds = {"choices": choices, "least": least, "most": most}
    return dataclasses.field(default=default, metadata={"help": help, "several": several, **bounds})


def argument(help: str = "", default: Any = dataclasses.MISSING) -> Any:
    """A field that is a positional argument of the command line, which need not be given if it has a default."""
    return dataclasses.field(default=default, metadata={"help": help, "argument": True})


def options(config: type) -> list[dataclasses.Field[Any]]:
    """The fields that a user can set, in order."""
    return [field for field in dataclasses.fields(config) if field.metadata]


def checked(config: Any) -> Any:
    """The config itself, if each setting is one of its choices and a number within its bounds.

    Raises WrongUse: a TOML file may say anything, and no flag may be infinite or NaN.
    """
    for field in options(type(config)):
        value, flag = getattr(config, field.name), f"--{field.name.replace('_', '-')}"
        choices = field.metadata.get("choices")
        if choices and value is not None and value not in choices:
            raise WrongUse(f"{flag} {value}: expected {', '.join(choices)}{suggest(str(value), choices)}")
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, int | float):
                require_within(number, field.metadata, flag)
    low, high = getattr(config, "crop_scale", (0.0, 1.0))
    if low > high:
        raise WrongUse(f"--crop-scale {low} {high}: expected the lower share of the area first")
    return config


def require_within(number: float, bounds: Mapping[str, Any], flag: str) -> None:
    """Raise WrongUse unless a number is finite and from bounds["least"] to bounds["most"]."""
    least, most = bounds["least"], bounds["most"]
    if not least <= number <= most or abs(number) == math.inf:
        expected = [f"at least {least}"] * (least > -math.inf) + [f"at most {most}"] * (most < math.inf)
        raise WrongUse(f"{flag} {number}: expected a number {' and '.join(expected) or 'that is finite'}")


def as_json(config: Any) -> dict[str, Any]:
    """A config as plain data, paths as strings, for the run folder."""
    return {
        field.name: str(value) if isinstance(value := getattr(config, field.name), Path) else value
        for field in dataclasses.fields(config)
    }


def defaults(config: type) -> dict[str, Any]:
    """The settings of a command that need not be given, with what they are then."""
    given = {field.name: field.default for field in dataclasses.fields(config)}
    return {name: value for name, value in given.items() if value is not dataclasses.MISSING}
