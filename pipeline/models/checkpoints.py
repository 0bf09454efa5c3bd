"""Weights and training state on disk: safetensors with readable metadata, and exact resume state.

A file is written whole or not at all; a full disk is a StoreError.
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
PLACES = ("state_dict", "model", "teacher")
NAMES_SHOWN = 20


def save_safetensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write tensors and metadata atomically; the same content gives the same bytes."""
    # safetensors writes several metadata keys in an order that differs between processes, so there is one
    header = {METADATA_KEY: json.dumps(dict(metadata), sort_keys=True)}
    dense = torch.contiguous_format
    own = {name: tensor.detach().cpu().clone(memory_format=dense) for name, tensor in tensors.items()}
    write_file(path, safetensors.torch.save(own, metadata=header))


def load_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors on the CPU and the metadata; raises PipelineError when the file is missing or damaged."""
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


def misfits(own: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> dict[str, list[str]]:
    """Names of tensors that a network with the state dict `own` cannot be loaded from, by kind; {} when it can."""
    kinds = {
        # torch itself starts the batch counters of files that are older than those
        "missing": [n for n in own if n not in tensors and not n.endswith("num_batches_tracked")],
        "unexpected": [name for name in tensors if name not in own],
        "of another shape": [
            f"{name} (expected {tuple(own[name].shape)}, found {tuple(tensor.shape)})"
            for name, tensor in tensors.items()
            if name in own and own[name].shape != tensor.shape
        ],
    }
    return {kind: names for kind, names in kinds.items() if names}


def listed(names: Sequence[str]) -> str:
    """Names for a sentence; of very many, the first and how many more."""
    more = f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
    return ", ".join(names[:NAMES_SHOWN]) + more


def load_strictly(module: nn.Module, tensors: Mapping[str, Tensor], what: str) -> None:
    """Load every tensor; raises PipelineError naming those that are missing, unexpected or of another shape."""
    problems = [f"{kind}: {listed(names)}" for kind, names in misfits(module.state_dict(), tensors).items()]
    if problems:
        raise PipelineError(f"the weights of {what} do not fit its architecture; {'; '.join(problems)}")
    module.load_state_dict(dict(tensors), strict=False)


def load_optimizer(optimizer: torch.optim.Optimizer, state: Any) -> None:
    """Load an optimiser's state; raises ValueError when it is of other parameters or of another optimiser.

    PyTorch itself compares little more than how many parameters there are, and fails at the first step of others.
    """
    own = [set(group) for group in optimizer.param_groups]
    optimizer.load_state_dict(state)
    if [set(group) for group in optimizer.param_groups] != own:
        raise ValueError("the state of another optimiser")
    for parameter, values in optimizer.state.items():
        for name, value in values.items():
            if isinstance(value, Tensor) and value.ndim and value.shape != parameter.shape:
                expected, found = tuple(parameter.shape), tuple(value.shape)
                raise ValueError(f"the optimiser's {name} of a parameter: expected {expected}, found {found}")


@dataclass(frozen=True, kw_only=True)
class WeightsFile:
    """The tensors of a weights file by name, without `prefix`, which every name had.

    place: the top-level key that held them; "" for a file of tensors alone. metadata: of a safetensors file.
    """

    state: dict[str, Tensor]
    place: str
    prefix: str
    metadata: dict[str, str]


def open_weights(path: Path) -> WeightsFile:
    """Tensors of a .safetensors file, or of a pickle that holds a state dict or has it under one of PLACES.

    A `module.` prefix is dropped when every name has it. Pickles are opened with weights_only, and of classes they
    may hold argparse.Namespace alone, which training scripts save their options as. Raises PipelineError.
    """
    safe = path.suffix == ".safetensors"
    held, metadata = load_safetensors(path) if safe else (_load_pickle(path, argparse.Namespace), {})
    place = next(
        (key for key in PLACES if isinstance(held, Mapping) and isinstance(held.get(key), Mapping)), ""
    )
    state = held[place] if place else held
    if not isinstance(state, Mapping) or not all(isinstance(tensor, Tensor) for tensor in state.values()):
        raise PipelineError(
            f"{path} holds no state dict; expected named tensors, or those under {' or '.join(map(repr, PLACES))}"
        )
    prefix = "module." if state and all(name.startswith("module.") for name in state) else ""
    named = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
    return WeightsFile(state=named, place=place, prefix=prefix, metadata=metadata)


def load_state(path: Path) -> dict[str, Tensor]:
    """The named tensors of a weights file; see open_weights."""
    return open_weights(path).state


def check_sha256(path: Path) -> None:
    """Compare a file with the hash that ends its name, as in resnet50-11ad3fa6.pth; PipelineError if it differs."""
    wanted = path.stem.rpartition("-")[2]
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if not found.startswith(wanted):
        raise PipelineError(
            f"{path} is not the published file: its name says that its sha256 begins with {wanted}, and it begins "
            f"with {found[: len(wanted)]}; fetch it again, or rename it if these are weights of your own"
        )


def weights_sha256(module: nn.Module) -> str:
    """sha256 hex over name, dtype, shape and little-endian bytes of each tensor of the state dict, by name.

    It is about the tensors as loaded: the same weights in another kind of file have the same hash.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        own = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {str(own.dtype).removeprefix('torch.')} {tuple(own.shape)}\n".encode())
        digest.update(own.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def save_resume(path: Path, state: Mapping[str, Any]) -> None:
    """Write the state that training goes on from, atomically: tensors and plain values."""
    content = io.BytesIO()
    torch.save(dict(state), content)
    write_file(path, content.getvalue())


def load_resume(path: Path) -> dict[str, Any]:
    """What save_resume wrote, on the CPU; raises PipelineError when the file is missing or damaged."""
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
                f"{path} is no weights file: expected .safetensors, or what PyTorch saved"
            ) from error
        raise PipelineError(
            f"{path} holds more than tensors and plain values: a pickled {found[1]}, which is not opened"
        ) from error
    except Exception as error:  # of bytes that are no pickle PyTorch's reader may raise anything
        raise PipelineError(f"{path} is damaged ({first_line(error)}); copy or write it again") from error


def first_line(error: Exception) -> str:
    """What an exception says, without what follows its first line."""
    return (str(error) or type(error).__name__).splitlines()[0]
