"""Weights files as people have them: safetensors or pickles, with a state dict somewhere in it."""

import argparse
import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from pipeline.errors import PipelineError
from pipeline.models.checkpoints import join_names, load_pickle, load_safetensors

STATE_DICT_KEYS = (
    "state_dict",
    "model",
    "teacher",
    "model_state_dict",
    "model_state",
    "network",
    "net",
    "module",
)
DEEPEST = 4  # levels of nesting at which a state dict is looked for
# numbers of training scripts: a best accuracy, say
NUMPY_SCALARS = [
    (np.float64().__reduce__()[0], "numpy._core.multiarray.scalar"),
    (np.float64().__reduce__()[0], "numpy.core.multiarray.scalar"),
    np.dtype,
    *(type(np.dtype(kind)) for kind in ("f2", "f4", "f8", "i4", "i8", "u1", "?")),
]


@dataclass(frozen=True, kw_only=True)
class WeightsFile:
    """The tensors of a weights file by name.

    key: the key they were stored under, dotted if nested, or "". metadata: of a safetensors file.
    """

    state: Mapping[str, Tensor]
    key: str
    metadata: dict[str, str]


def open_weights(path: Path) -> WeightsFile:
    """Open a .safetensors file, or a pickle with a state dict at the top level or nested in a checkpoint.

    Of several state dicts, the first of STATE_DICT_KEYS is meant. Pickles are loaded with weights_only; the only
    classes allowed are argparse.Namespace, in which training scripts save their options, and NumPy's numbers. Raises
    PipelineError.
    """
    safe = path.suffix == ".safetensors"
    allowed = (argparse.Namespace, *NUMPY_SCALARS)
    held, metadata = load_safetensors(path) if safe else (load_pickle(path, *allowed), {})
    key, state = _state_dict_in(held, path)
    return WeightsFile(state=state, key=key, metadata=metadata)


def _state_dict_in(held: Any, path: Path) -> tuple[str, Mapping[str, Tensor]]:
    """Return a checkpoint's state dict and the key it is under. Raises PipelineError unless there is exactly one."""
    if isinstance(held, Mapping) and all(isinstance(tensor, Tensor) for tensor in held.values()):
        return "", held
    found = dict(_nested_state_dicts(held))
    known = [key for key in STATE_DICT_KEYS if key in found] or list(found)
    if known and (len(found) == 1 or known[0] in STATE_DICT_KEYS):
        return known[0], found[known[0]]
    if found:
        raise PipelineError(
            f"{path} holds several state dicts, under {join_names([repr(key) for key in found])}: write a file with "
            "the one to use"
        )
    content = [f"{key!r}: {_kind(value)}" for key, value in held.items()] if isinstance(held, Mapping) else []
    raise PipelineError(
        f"{path} holds no state dict; expected named tensors, at the top level or nested in dicts, and found "
        f"{join_names(content) or _kind(held)}"
    )


def _nested_state_dicts(
    held: Any, within: str = "", depth: int = 0
) -> Iterator[tuple[str, Mapping[str, Tensor]]]:
    """Yield the dicts in a checkpoint that hold only named tensors, with their keys, except the optimizer's."""
    if not isinstance(held, Mapping) or depth > DEEPEST:
        return
    for key, value in held.items():
        if isinstance(key, str) and isinstance(value, Mapping) and value and "optim" not in key:
            name = f"{within}{key}"
            if all(isinstance(each, str) and isinstance(tensor, Tensor) for each, tensor in value.items()):
                yield name, value
            else:
                yield from _nested_state_dicts(value, f"{name}.", depth + 1)


def _kind(value: Any) -> str:
    if isinstance(value, Mapping):
        other = next((key for key, item in value.items() if not isinstance(item, Tensor)), None)
        return f"a dict with {other!r}, which is not a tensor" if other is not None else "an empty dict"
    return f"{'an' if type(value).__name__[0] in 'aeiou' else 'a'} {type(value).__name__}"


def check_sha256(path: Path) -> None:
    """Check a file against the hash in its name, as in resnet50-11ad3fa6.pth. Raises PipelineError on a mismatch."""
    wanted = path.stem.rpartition("-")[2]
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if not found.startswith(wanted):
        raise PipelineError(
            f"{path} is not the published file: by its name its sha256 begins with {wanted}, but it begins "
            f"with {found[: len(wanted)]}; download it again, or rename it if these are your own weights"
        )
