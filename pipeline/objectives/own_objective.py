"""A user's own objective: `--objective package.module:function`, with the interface of the built-in ones."""

import inspect
from collections.abc import Sequence
from functools import partial
from typing import Any

from pipeline.errors import PipelineError, WrongUse
from pipeline.models.architectures import describe, imported_function
from pipeline.objectives.objective import Objective
from pipeline.runtime.code_identity import code_sha256


def is_own(name: str) -> bool:
    """Whether an objective's name is that of a user's function."""
    return ":" in name


def own_builder(spec: str, arguments: Sequence[str]) -> partial[Any]:
    """Return the user's function with the arguments of --objective-args.

    It is called as the built-in ones are built, function(config, student_dim, split, rows, key=value, ...), and returns
    an `Objective`. WrongUse if it cannot be imported or an argument is not of the form key=value.
    """
    return partial(_build, spec, imported_function(spec), parsed(arguments))


def _build(spec: str, function: Any, arguments: dict[str, Any], *given: Any) -> Objective:
    try:
        inspect.signature(function).bind(*given, **arguments)
    except TypeError as error:
        raise WrongUse(
            f"{spec} was called as function(config, student_dim, split, rows, key=value, ...), with what "
            f"--objective-args gives: {error}"
        ) from error
    objective = function(*given, **arguments)
    if not isinstance(objective, Objective):
        raise PipelineError(
            f"{spec} returned {describe(objective)}; expected a pipeline.objectives.objective.Objective"
        )
    objective.code = code_sha256(function, strict=False)
    return objective


def parsed(arguments: Sequence[str]) -> dict[str, Any]:
    """Return key=value pairs as keyword arguments: numbers, true and false as such, anything else as text.

    WrongUse for one without a key or a value, and for a key that occurs twice.
    """
    found: dict[str, Any] = {}
    for argument in arguments:
        key, equals, text = argument.partition("=")
        key = key.strip().replace("-", "_")
        if not equals or not key.isidentifier() or not text:
            raise WrongUse(f"--objective-args {argument}: expected key=value")
        if key in found:
            raise WrongUse(f"--objective-args: {key} is given twice")
        found[key] = _value(text.strip())
    return found


def _value(text: str) -> Any:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
