"""Settings that a TOML file says, with the types that a command's config asks for."""

import math
import tomllib
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.errors import WrongUse, suggest
from pipeline.settings.field import options


def from_toml(config: type, path: Path) -> dict[str, Any]:
    """The settings in a TOML file for a command's config, as Python values.

    Raises WrongUse on a file that is missing or not TOML, an unknown key (naming the nearest) or a wrong type.
    """
    try:
        values = tomllib.loads(path.read_text())
    except (OSError, ValueError) as error:  # not TOML, or not even text
        raise WrongUse(f"cannot read the settings in {path}: {error}") from error
    return from_values(config, values, str(path))


def from_values(config: type, values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Settings as TOML has them, for a command's config; `where` they stand begins what is refused.

    Raises WrongUse on an unknown key (naming the nearest) or a wrong type.
    """
    hints = typing.get_type_hints(config)
    settable = {field.name for field in options(config)}
    converted = {}
    for key, value in values.items():
        name = key.replace("-", "_")
        if name not in settable:
            raise WrongUse(f"{where}: unknown setting {key!r}{suggest(name, settable)}")
        converted[name] = convert(value, hints[name], f"{where}: {key}")
    return converted


def convert(value: Any, hint: Any, where: str) -> Any:
    """`value` as the type that a field asks for; WrongUse when it is of another kind."""
    if isinstance(hint, types.UnionType):
        hint = next(kind for kind in typing.get_args(hint) if kind is not type(None))
    if typing.get_origin(hint) is tuple:
        kinds = typing.get_args(hint)
        if not isinstance(value, list):
            raise WrongUse(f"{where}: expected a list, found {value!r}")
        if kinds[-1] is not Ellipsis and len(value) != len(kinds):
            raise WrongUse(f"{where}: expected {len(kinds)} values, found {value!r}")
        return tuple(convert(item, kinds[0], where) for item in value)
    if hint is Path and isinstance(value, str):
        return Path(value)
    if hint is float and type(value) in (int, float):
        if math.isfinite(value):
            return float(value)
    elif type(value) is hint:
        return value
    raise WrongUse(f"{where}: expected {hint.__name__}, found {value!r}")
