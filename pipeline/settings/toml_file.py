"""Settings from TOML: unknown keys and wrong types are refused."""

import math
import tomllib
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.errors import WrongUse, suggest
from pipeline.settings.field import options
from pipeline.settings.local_path import local_path

NAMES = {bool: "true or false", int: "an integer", float: "a finite number", str: "a string", Path: "a path"}


def from_toml(config: type, path: Path) -> dict[str, Any]:
    """Return the settings in a TOML file, converted to the types of a command's settings.

    Raises WrongUse for a file that is missing or not TOML, an unknown key (naming the nearest) or a wrong type.
    """
    try:
        values = tomllib.loads(path.read_text())
    except (OSError, ValueError) as error:  # ValueError: not TOML, or not UTF-8
        raise WrongUse(f"cannot read the settings in {path}: {error}") from error
    return from_values(config, values, str(path))


def from_values(config: type, values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Convert parsed TOML to the types of a command's settings. `where` starts every error message.

    Raises WrongUse for an unknown key (naming the nearest) or a wrong type.
    """
    hints = typing.get_type_hints(config)
    settable = {field.name: field for field in options(config)}
    converted = {}
    for key, value in values.items():
        name = key.replace("-", "_")
        if name not in settable:
            raise WrongUse(f"{where}: unknown setting {key!r}{suggest(name, settable)}")
        url = bool(settable[name].metadata["url"])
        converted[name] = convert(value, without_none(hints[name]), f"{where}: {key}", url)
    return converted


def without_none(hint: Any) -> Any:
    """Return the type T of a hint T or T | None."""
    if isinstance(hint, types.UnionType):
        return next(kind for kind in typing.get_args(hint) if kind is not type(None))
    return hint


def convert(value: Any, hint: Any, where: str, url: bool = False) -> Any:
    """Convert a TOML value to a field's type. url: a path may be a URL. Raises WrongUse for a value of another type."""
    if typing.get_origin(hint) is tuple:
        kinds = typing.get_args(hint)
        if not isinstance(value, list):
            raise WrongUse(f"{where}: expected a list, found {value!r}")
        if kinds[-1] is not Ellipsis and len(value) != len(kinds):
            raise WrongUse(f"{where}: expected {len(kinds)} values, found {value!r}")
        return tuple(convert(item, kinds[0], where, url) for item in value)
    if hint is Path and isinstance(value, str):
        try:
            return local_path(value, url=url)
        except WrongUse as error:
            raise WrongUse(f"{where}: {error}") from error
    if hint is float and type(value) in (int, float) and math.isfinite(value):
        return float(value)
    if hint is not float and type(value) is hint:
        return value
    raise WrongUse(f"{where}: expected {NAMES[hint]}, found {value!r}")
