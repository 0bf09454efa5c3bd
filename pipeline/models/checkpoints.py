"""Weights files and training checkpoints: safetensors with metadata, and exact resume state.

Files are written atomically; a full disk raises StoreError.
"""

import argparse
import hashlib
import io
import json
import pickle
import re
import zipfile
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from cache.durable import write_file
from pipeline.errors import PipelineError
from pipeline.models.state_dict_layout import load_problems

METADATA_KEY = "anchorage"
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
NAMES_SHOWN = 20
# numbers of training scripts: a best accuracy, say
NUMPY_SCALARS = [
    (np.float64().__reduce__()[0], "numpy._core.multiarray.scalar"),
    (np.float64().__reduce__()[0], "numpy.core.multiarray.scalar"),
    np.dtype,
    *(type(np.dtype(kind)) for kind in ("f2", "f4", "f8", "i4", "i8", "u1", "?")),
]


def save_safetensors(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str], *, resumes: bool = True
) -> None:
    """Write tensors and metadata atomically; equal content gives equal bytes. resumes: as for `write_file`."""
    # a single key, because safetensors orders metadata keys differently in each process
    header = {METADATA_KEY: json.dumps(dict(metadata), sort_keys=True)}
    dense = torch.contiguous_format
    own = {name: tensor.detach().cpu().clone(memory_format=dense) for name, tensor in tensors.items()}
    write_file(path, safetensors.torch.save(own, metadata=header), resumes=resumes)


def load_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors, on the CPU, and the metadata. Raises PipelineError if the file is missing or damaged."""
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a dict)
        if METADATA_KEY in metadata:
            metadata = dict(json.loads(metadata[METADATA_KEY]))
    except FileNotFoundError as error:
        raise PipelineError(f"{path} does not exist") from error
    except (OSError, ValueError, TypeError, safetensors.SafetensorError) as error:
        raise PipelineError(f"{path} is damaged ({first_line(error)}); copy or write it again") from error
    return tensors, metadata


def join_names(names: Sequence[str]) -> str:
    """Join names for an error message; after the first 20, only count them."""
    more = f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
    return ", ".join(names[:NAMES_SHOWN]) + more


def load_strictly(module: nn.Module, tensors: Mapping[str, Tensor], what: str) -> None:
    """Load all tensors. Raises PipelineError with the names that are missing, unexpected or of another shape."""
    problems = [
        f"{kind}: {join_names(names)}" for kind, names in load_problems(module.state_dict(), tensors).items()
    ]
    if problems:
        raise PipelineError(f"the weights of {what} do not fit its architecture; {'; '.join(problems)}")
    state = OrderedDict(tensors)
    # versions of the modules' own format: MNASNet, for one, loads nothing without
    state._metadata = module.state_dict()._metadata  # type: ignore[attr-defined]
    module.load_state_dict(state, strict=False)


def load_optimizer(optimizer: torch.optim.Optimizer, state: Any) -> None:
    """Load an optimizer's state. Raises ValueError if it belongs to other parameters or another optimizer.

    PyTorch compares little more than the number of parameters, and would fail only in the first step.
    """
    own = [set(group) for group in optimizer.param_groups]
    optimizer.load_state_dict(state)
    if [set(group) for group in optimizer.param_groups] != own:
        raise ValueError("the state of another optimizer")
    for parameter, values in optimizer.state.items():
        for name, value in values.items():
            if isinstance(value, Tensor) and value.ndim and value.shape != parameter.shape:
                expected, found = tuple(parameter.shape), tuple(value.shape)
                raise ValueError(f"the optimizer's {name} of a parameter: expected {expected}, found {found}")


@dataclass(frozen=True, kw_only=True)
class WeightsFile:
    """The tensors of a weights file by name.

    key: the key they were stored under, dotted if nested, or "". prefix: removed from every name, or "". metadata: of
    a safetensors file.
    """

    state: dict[str, Tensor]
    key: str
    prefix: str
    metadata: dict[str, str]


def open_weights(path: Path) -> WeightsFile:
    """Open a .safetensors file, or a pickle with a state dict at the top level or nested in a checkpoint.

    Of several state dicts, the first of STATE_DICT_KEYS is meant. A `module.` prefix common to all names is removed.
    Pickles are loaded with weights_only; the only classes allowed are argparse.Namespace, in which training scripts
    save their options, and NumPy's numbers. Raises PipelineError.
    """
    safe = path.suffix == ".safetensors"
    allowed = (argparse.Namespace, *NUMPY_SCALARS)
    held, metadata = load_safetensors(path) if safe else (_load_pickle(path, *allowed), {})
    key, state = _state_dict_in(held, path)
    prefix = "module." if state and all(name.startswith("module.") for name in state) else ""
    named = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
    return WeightsFile(state=named, key=key, prefix=prefix, metadata=metadata)


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
        return f"a dict with {other!r}, which is no tensor" if other is not None else "an empty dict"
    return f"{'an' if type(value).__name__[0] in 'aeiou' else 'a'} {type(value).__name__}"


def load_state(path: Path) -> dict[str, Tensor]:
    """Return the named tensors of a weights file; see open_weights."""
    return open_weights(path).state


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


def weights_sha256(module: nn.Module) -> str:
    """Return the sha256 over name, dtype, shape and little-endian bytes of each tensor of the state dict, by name.

    It depends on the loaded tensors only, so the same weights in another file format have the same hash.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        own = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {str(own.dtype).removeprefix('torch.')} {tuple(own.shape)}\n".encode())
        digest.update(own.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def save_resume(path: Path, state: Mapping[str, Any]) -> None:
    """Write the state to resume training from, tensors and plain values, atomically."""
    content = io.BytesIO()
    torch.save(dict(state), content)
    write_file(path, content.getvalue())


def load_resume(path: Path) -> dict[str, Any]:
    """Read what save_resume wrote, on the CPU. Raises PipelineError if the file is missing or damaged."""
    state = _load_pickle(path)
    if not isinstance(state, dict):
        raise PipelineError(f"{path} holds no training state; remove it to start from the beginning")
    return state


def _load_pickle(path: Path, *allowed: Any) -> Any:
    if program := _program_in(path):
        raise PipelineError(
            f"{path} is a {program}, not a state dict: load it with the version of PyTorch that wrote it, and save its "
            "state_dict() alone with torch.save"
        )
    try:
        with torch.serialization.safe_globals(list(allowed)):
            return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise PipelineError(f"{path} does not exist") from error
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL (\S+)|unsupported class (\S+)", str(error))
        if not found:
            raise PipelineError(
                f"{path} is not a weights file: expected .safetensors or a file saved by PyTorch"
            ) from error
        raise PipelineError(
            f"{path} holds more than tensors and plain values: a pickled {found[1] or found[2]}, which is not loaded; "
            "save its state dict alone, with the program that wrote it"
        ) from error
    except Exception as error:  # PyTorch raises many types for bytes that are not a pickle
        # PyTorch's own advice is to load the file with its code
        reason = "" if "weights_only" in str(error) else f" ({first_line(error)})"
        raise PipelineError(f"{path} is damaged{reason}; copy or write it again") from error


def _program_in(path: Path) -> str:
    """Return what kind of program a file saved by PyTorch is, or "" if it is none."""
    if not path.is_file() or not zipfile.is_zipfile(path):
        return ""
    try:
        with zipfile.ZipFile(path) as archive:
            names = {name.rpartition("/")[2] for name in archive.namelist()}
    except (OSError, zipfile.BadZipFile):
        return ""
    if "constants.pkl" in names:
        return "TorchScript program"
    return "program of torch.export" if "archive_format" in names else ""


def first_line(error: Exception) -> str:
    """Return the first line of an exception's message."""
    return (str(error) or type(error).__name__).splitlines()[0]
