"""What Python objects consist of: which code is a library's, which types hold no setting, and what code refers to."""

import dis
import functools
import logging
import random
import re
import site
import sys
import sysconfig
import threading
import types
from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import torch

OWN_PACKAGES = ("cache", "pipeline")
PLAIN = (
    type(None),
    bool,
    int,
    float,
    complex,
    str,
    bytes,
    type(Ellipsis),
    type(NotImplemented),
    range,
    slice,
)
SCALARS = (int, float, complex, str, bytes)
BY_REPR = (re.Pattern, torch.dtype, torch.device, torch.layout, torch.memory_format, np.dtype, PurePath)
# they hold no setting, or a state that is random on purpose
BY_TYPE = (
    logging.Logger,
    random.Random,
    np.random.Generator,
    np.random.RandomState,
    np.random.BitGenerator,
    torch.Generator,
    type(threading.Lock()),
    type(threading.RLock()),
)
BUILTIN = (
    types.BuiltinFunctionType,
    types.MethodDescriptorType,
    types.WrapperDescriptorType,
    types.MethodWrapperType,
    types.GetSetDescriptorType,
    types.MemberDescriptorType,
    types.ClassMethodDescriptorType,
)
# of a class: text, caches, and what follows from its other attributes
NOT_CODE = {
    "__doc__",
    "__module__",
    "__dict__",
    "__weakref__",
    "__annotations__",
    "__annotate__",
    "__annotations_cache__",
    "__firstlineno__",
    "__static_attributes__",
    "__abstractmethods__",
    "_abc_impl",
    "__orig_bases__",
    "__parameters__",
    "__match_args__",
    "__dataclass_fields__",
    "__dataclass_params__",
    "__slots__",
}


@functools.cache
def _library_folders() -> tuple[Path, ...]:
    paths = sysconfig.get_paths()
    folders = [paths["stdlib"], paths["purelib"], paths["platlib"], *site.getsitepackages()]
    return tuple(Path(folder).resolve() for folder in [*folders, site.getusersitepackages()])


@functools.cache
def is_library(module: str | None) -> bool:
    """Return whether a module is installed, and not a user's own file or defined without one."""
    package = str(module).partition(".")[0]
    if package in OWN_PACKAGES or package in sys.builtin_module_names or package in sys.stdlib_module_names:
        return True
    files = (getattr(sys.modules.get(name), "__file__", None) for name in (str(module), package))
    file = next(filter(None, files), None)
    return file is not None and any(Path(file).resolve().is_relative_to(each) for each in _library_folders())


def qualified_name(value: Any) -> str:
    return f"{getattr(value, '__module__', None)}.{getattr(value, '__qualname__', type(value).__qualname__)}"


def cell_content(cell: Any) -> object:
    try:
        return cell.cell_contents
    except ValueError:  # not assigned yet
        return None


def slots_of(kind: type) -> tuple[str, ...]:
    slots = vars(kind).get("__slots__", ())
    named = (slots,) if isinstance(slots, str) else tuple(slots)
    return tuple(name for name in named if name not in ("__dict__", "__weakref__"))


def globals_of(code: types.CodeType, scope: Mapping[str, Any]) -> dict[str, object]:
    """Return the global values that code and the functions within it read, and attributes it reads of own modules."""
    found: dict[str, object] = {}
    for step in dis.get_instructions(code):
        if step.opname in ("LOAD_GLOBAL", "LOAD_NAME") and step.argval in scope:
            value = found[step.argval] = scope[step.argval]
            if isinstance(value, types.ModuleType) and not is_library(value.__name__):
                used = [name for name in code.co_names if name in vars(value)]
                found |= {f"{step.argval}.{name}": vars(value)[name] for name in used}
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            found |= globals_of(constant, scope)
    return found
