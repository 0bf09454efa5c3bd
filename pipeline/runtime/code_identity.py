"""Hash a user's own functions and modules by what decides their results: code, settings, and values they refer to.

A name or a repr does not decide it: `T.Lambda(f)` has the same repr for every f, and a function can be edited.
"""

import functools
import hashlib
import sys
import types
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from enum import Enum
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from pipeline.errors import PipelineError
from pipeline.runtime.python_objects import (
    BUILTIN,
    BY_REPR,
    BY_TYPE,
    NOT_CODE,
    PLAIN,
    SCALARS,
    cell_content,
    globals_of,
    is_library,
    qualified_name,
    slots_of,
)

PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"


def code_sha256(value: object, *, weights: Iterable[Tensor] = (), strict: bool = True) -> str:
    """Return "PYTHON_VERSION:sha256" of a callable or module: of its code, its settings and what both refer to.

    Library functions and classes count by name; a user's own count by their bytecode, which is why the version of
    Python is part of the result. weights: tensors whose values do not count, because they are hashed elsewhere.
    strict: raise PipelineError for a value that hides its content, which otherwise counts by its type.
    """
    walk = _Walk({id(tensor) for tensor in weights}, strict)
    walk.add(value)
    while walk.waiting:
        walk.note("object")
        walk.describe(walk.waiting.popleft())
    return f"{PYTHON}:{walk.digest.hexdigest()}"


def is_same_python(code: object) -> bool:
    """Return whether a result of `code_sha256` comes from this version of Python and can be compared."""
    return isinstance(code, str) and code.partition(":")[0] == PYTHON


class _Walk:
    """A walk over a graph of Python objects, which feeds a hash; objects refer to each other by numbers."""

    def __init__(self, weights: set[int], strict: bool) -> None:
        self.digest = hashlib.sha256()
        self.weights, self.strict = weights, strict
        self.seen: dict[int, tuple[int, object]] = {}  # the objects too, so that no id is used twice
        self.waiting: deque[object] = deque()

    def note(self, *words: object) -> None:
        """Feed the hash with words."""
        self.digest.update("\0".join(map(str, words)).encode("utf-8", "surrogatepass") + b"\1")

    def add(self, value: Any) -> None:
        """Feed the hash with a value, or with the number of an object that waits to be described."""
        if isinstance(value, Enum):
            self.note("enum", qualified_name(type(value)), value.name)
        elif type(value) in PLAIN or isinstance(value, BY_REPR):
            self.note(type(value).__name__, repr(value))
        elif isinstance(value, BY_TYPE):
            self.note("type", qualified_name(type(value)))
        elif isinstance(value, tuple):  # not by number: the interpreter may share equal constants or not
            self._add_all(type(value).__name__, value)
        elif isinstance(value, set | frozenset):
            self._add_set(value)
        else:
            if id(value) not in self.seen:
                self.seen[id(value)] = (len(self.seen), value)
                self.waiting.append(value)
            self.note("see", self.seen[id(value)][0])

    def describe(self, value: Any) -> None:
        """Feed the hash with the content of an object."""
        for kinds, add in self._kinds():
            if isinstance(value, kinds):
                add(value)
                return
        self._add_object(value)

    def _kinds(self) -> tuple[tuple[Any, Callable[[Any], None]], ...]:
        return (
            (types.FunctionType, self._add_function),
            (types.CodeType, self._add_code),
            (types.MethodType, lambda method: self._add_all("method", [method.__func__, method.__self__])),
            (BUILTIN, self._add_builtin),
            (type, self._add_class),
            (types.ModuleType, lambda module: self.note("module", module.__name__)),
            (functools.partial, lambda part: self._add_all("partial", [part.func, part.args, part.keywords])),
            (staticmethod | classmethod, lambda method: self._add_all("static", [method.__func__])),
            (property, lambda each: self._add_all("property", [each.fget, each.fset])),
            (functools.cached_property, lambda each: self._add_all("cached", [each.func])),
            (Tensor, self._add_tensor),
            (np.ndarray | np.generic, self._add_array),
            (Image.Image, lambda image: self._add_all("image", [image.mode, image.size, image.tobytes()])),
            (Mapping, lambda held: self._add_all(type(held).__name__, [*held.keys(), *held.values()])),
            (list, lambda held: self._add_all(type(held).__name__, held)),
            (nn.Module, self._add_module),
        )

    def _add_all(self, kind: str, values: Iterable[object]) -> None:
        values = list(values)
        self.note(kind, len(values))
        for value in values:
            self.add(value)

    def _add_function(self, function: types.FunctionType) -> None:
        self.note("function", qualified_name(function))
        cells = [cell_content(cell) for cell in function.__closure__ or ()]
        if is_library(function.__module__):
            self._add_all("closure", cells)
            return
        self._add_code(function.__code__, function.__doc__)
        self._add_all("closure", [*function.__code__.co_freevars, *cells])
        self._add_all("defaults", [function.__defaults__, function.__kwdefaults__, vars(function)])
        for name, value in globals_of(function.__code__, function.__globals__).items():
            self.note("global", name)
            self.add(value)

    def _add_code(self, code: types.CodeType, doc: str | None = None) -> None:
        constants = code.co_consts[1:] if doc and code.co_consts[:1] == (doc,) else code.co_consts
        counts = (code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags)
        self._add_all("code", [code.co_code, code.co_exceptiontable, *counts, *code.co_names, *constants])

    def _add_builtin(self, function: Any) -> None:
        self.note("builtin", qualified_name(function))
        owner = getattr(function, "__self__", None)
        if owner is not None and not isinstance(owner, types.ModuleType):
            self.add(owner)

    def _add_class(self, kind: type) -> None:
        self.note("class", qualified_name(kind))
        if is_library(kind.__module__):
            return
        for name, value in sorted(vars(kind).items()):
            if name not in NOT_CODE:
                self.note("attribute", name)
                self.add(value)
        self._add_all("bases", kind.__bases__)

    def _add_tensor(self, tensor: Tensor) -> None:
        if id(tensor) in self.weights:
            self.note("weights")
            return
        self.note("tensor", tensor.dtype, tuple(tensor.shape))
        if not tensor.is_meta:
            own = tensor.detach().cpu().contiguous().reshape(-1)
            self.digest.update(own.view(torch.uint8).numpy().data)

    def _add_array(self, array: Any) -> None:
        self.note("array", array.dtype, array.shape)
        if array.dtype.hasobject:
            self.add(array.tolist())
        else:
            self.digest.update(array.tobytes())

    def _add_set(self, held: Iterable[object]) -> None:
        # a set has no order that lasts, so its members are sorted by their hashes
        members = sorted(code_sha256(member, strict=self.strict) for member in held)
        self.note("set", *members)

    def _add_module(self, module: nn.Module) -> None:
        self.add(type(module))
        for name, value in vars(module).items():
            if name == "training":
                continue
            # hooks are numbered by a counter of the process
            hooks = name.endswith(("_hooks", "_hooks_with_kwargs", "_hooks_always_called"))
            self.note("attribute", name)
            self.add(list(value.values()) if hooks and isinstance(value, dict) else value)

    def _add_object(self, value: Any) -> None:
        """Add an object by its class and attributes, or by what it would be pickled from."""
        self.add(type(value))
        if isinstance(value, SCALARS):
            self.note(repr(value))
        slots = [name for kind in type(value).__mro__ for name in slots_of(kind) if hasattr(value, name)]
        if hasattr(value, "__dict__") or slots:
            self._add_all("state", [vars(value) if hasattr(value, "__dict__") else {}, *slots])
            self._add_all("slots", [getattr(value, name) for name in slots])
        elif type(value) is not object and not isinstance(value, SCALARS):
            self._add_pickled(value)

    def _add_pickled(self, value: Any) -> None:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # of itertools, from Python 3.12 on
                parts = value.__reduce_ex__(4)
        except Exception as error:  # a foreign type may raise anything
            self.note("hidden")
            if self.strict:
                raise PipelineError(
                    f"a {qualified_name(type(value))} does not show its settings, so a change would go unnoticed; "
                    "use plain values, functions, and objects with attributes"
                ) from error
        else:
            self.add(parts)
