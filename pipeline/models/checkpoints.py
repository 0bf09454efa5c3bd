"""Files of this project's own: safetensors with metadata, and the exact state to resume training from.

Files are written atomically; a full disk raises StoreError.
"""

import hashlib
import io
import json
import pickle
import re
import zipfile
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from cache.durable import write_file
from pipeline.errors import PipelineError, first_line
from pipeline.models.state_dict_layout import load_problems

METADATA_KEY = "anchorage"
LFS_POINTER = b"version https://git-lfs.github.com/"
NAMES_SHOWN = 20


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
    _refuse_pointer(path)
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
    state = load_pickle(path)
    if not isinstance(state, dict):
        raise PipelineError(f"{path} holds no training state; remove it to start from the beginning")
    return state


def load_pickle(path: Path, *allowed: Any) -> Any:
    """Read a file saved by PyTorch, on the CPU. allowed: classes that it may hold besides tensors and plain values.

    Raises PipelineError.
    """
    _refuse_pointer(path)
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


def _refuse_pointer(path: Path) -> None:
    """Raise PipelineError for what git leaves in place of a large file that it has not fetched."""
    if path.is_file():
        with path.open("rb") as file:
            if file.read(len(LFS_POINTER)) == LFS_POINTER:
                raise PipelineError(
                    f"{path} is a Git LFS pointer, not the file itself: run `git lfs pull` in its repository"
                )


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
