"""Weights files and training checkpoints: safetensors with metadata, and exact resume state.

Files are written atomically; a full disk raises StoreError.
"""

import argparse
import hashlib
import io
import json
import pickle
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from cache.durable import write_file
from pipeline.errors import PipelineError

METADATA_KEY = "anchorage"
STATE_DICT_KEYS = ("state_dict", "model", "teacher")
NAMES_SHOWN = 20


def save_safetensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write tensors and metadata atomically; equal content gives equal bytes."""
    # a single key, because safetensors orders metadata keys differently in each process
    header = {METADATA_KEY: json.dumps(dict(metadata), sort_keys=True)}
    dense = torch.contiguous_format
    own = {name: tensor.detach().cpu().clone(memory_format=dense) for name, tensor in tensors.items()}
    write_file(path, safetensors.torch.save(own, metadata=header))


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


def load_problems(own: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> dict[str, list[str]]:
    """Return the names that prevent loading `tensors` into the state dict `own`, by kind of problem; {} if none."""
    kinds = {
        # checkpoints older than PyTorch's batch counters lack them
        "missing": [n for n in own if n not in tensors and not n.endswith("num_batches_tracked")],
        "unexpected": [name for name in tensors if name not in own],
        "of another shape": [
            f"{name} (expected {tuple(own[name].shape)}, found {tuple(tensor.shape)})"
            for name, tensor in tensors.items()
            if name in own and own[name].shape != tensor.shape
        ],
    }
    return {kind: names for kind, names in kinds.items() if names}


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
    module.load_state_dict(dict(tensors), strict=False)


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

    key: the top-level key they were stored under, or "". prefix: removed from every name, or "". metadata: of a
    safetensors file.
    """

    state: dict[str, Tensor]
    key: str
    prefix: str
    metadata: dict[str, str]


def open_weights(path: Path) -> WeightsFile:
    """Open a .safetensors file, or a pickle with a state dict at the top level or under one of STATE_DICT_KEYS.

    A `module.` prefix common to all names is removed. Pickles are loaded with weights_only; the only class allowed is
    argparse.Namespace, in which training scripts save their options. Raises PipelineError.
    """
    safe = path.suffix == ".safetensors"
    held, metadata = load_safetensors(path) if safe else (_load_pickle(path, argparse.Namespace), {})
    nested = [
        key for key in STATE_DICT_KEYS if isinstance(held, Mapping) and isinstance(held.get(key), Mapping)
    ]
    key = nested[0] if nested else ""
    state = held[key] if key else held
    if not isinstance(state, Mapping) or not all(isinstance(tensor, Tensor) for tensor in state.values()):
        raise PipelineError(
            f"{path} holds no state dict; expected named tensors, at the top level or under "
            f"{' or '.join(map(repr, STATE_DICT_KEYS))}"
        )
    prefix = "module." if state and all(name.startswith("module.") for name in state) else ""
    named = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
    return WeightsFile(state=named, key=key, prefix=prefix, metadata=metadata)


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


def _load_pickle(path: Path, *allowed: type) -> Any:
    try:
        with torch.serialization.safe_globals(list(allowed)):
            return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise PipelineError(f"{path} does not exist") from error
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL (\S+)", str(error))
        if not found:
            raise PipelineError(
                f"{path} is not a weights file: expected .safetensors or a file saved by PyTorch"
            ) from error
        raise PipelineError(
            f"{path} holds more than tensors and plain values: a pickled {found[1]}, which is not loaded"
        ) from error
    except Exception as error:  # PyTorch raises many types for bytes that are not a pickle
        raise PipelineError(f"{path} is damaged ({first_line(error)}); copy or write it again") from error


def first_line(error: Exception) -> str:
    """Return the first line of an exception's message."""
    return (str(error) or type(error).__name__).splitlines()[0]
