"""Identify the layout of a weights file by trying it on every known network."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import torchvision
from torch import nn

from pipeline.errors import PipelineError
from pipeline.models.architectures import open_network
from pipeline.models.checkpoints import join_names
from pipeline.models.state_dict_layout import Layout, Reading, best_reading
from pipeline.models.weights_file import WeightsFile
from pipeline.teachers.registry import TEACHERS, layouts_of

SKIPPED = ("squeezenet",)  # it has no linear classifier
ON_CPU = ("regnet",)  # computes its widths with tensors, which have no values on the meta device
KEYS_SHOWN = 5


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A teacher's network on the meta device, and the layouts of its files."""

    teacher: str
    module: nn.Module
    architecture: str
    layouts: tuple[Layout, ...]


@dataclass(frozen=True, kw_only=True)
class Fit:
    """A teacher the file can be loaded into.

    unused: names in the file that no feature needs. prefix: removed from all names, or "".
    """

    teacher: str
    architecture: str
    layout: str
    unused: tuple[str, ...]
    prefix: str = ""


def identify(file: WeightsFile, path: Path) -> list[Fit]:
    """Return the teachers a file can be loaded into; if some match by signature, only those.

    Raises PipelineError with the differences from the closest teacher, or with the file's first names.
    """
    nearest = ("", len(file.state) // 2, "")
    marked: list[Fit] = []
    plain: list[Fit] = []
    values = sum(tensor.numel() for tensor in file.state.values())
    for candidates in (registered_candidates(), torchvision_candidates(values)):
        if marked:  # torchvision's networks would be built for nothing, and some take seconds
            break
        for candidate in candidates:
            reading = best_reading(candidate.layouts, file.state, candidate.module.state_dict())
            layout, count = reading.layout, reading.count()
            if layout.key and layout.key != file.key:
                continue
            if not count:
                certain = layout.has_signature(reading.state) or bool(layout.key)
                (marked if certain else plain).append(_fit(candidate, reading))
            elif count < nearest[1]:
                named = "; ".join(f"{kind}: {join_names(names)}" for kind, names in reading.problems.items())
                nearest = (candidate.teacher, count, named)
    if not marked and not plain:
        raise PipelineError(_unknown(file, path, nearest[0], nearest[2]))
    return marked or plain


def registered_candidates() -> Iterator[Candidate]:
    """Yield every registered teacher that needs a weights file."""
    for name, entry in TEACHERS.items():
        if entry.weights is not None:
            recipe = entry.recipe()
            yield Candidate(
                teacher=name,
                module=recipe.module,
                architecture=recipe.architecture,
                layouts=recipe.layouts,
            )


def torchvision_candidates(values: int) -> Iterator[Candidate]:
    """Yield torchvision's networks with about this many values; a file may lack the classifier or contain buffers."""
    for name in torchvision.models.list_models(module=torchvision.models):
        if name.startswith(SKIPPED):
            continue
        whole = next(iter(torchvision.models.get_model_weights(name))).meta["num_params"]
        least, most = (0.8, 1.05) if name.startswith(ON_CPU) else (0.5, 1.1)
        # GoogLeNet's auxiliary heads are in its files but not counted
        if least * whole < values < (2.1 if name == "googlenet" else most) * whole:
            with torch.device("cpu" if name.startswith(ON_CPU) else "meta"):
                network = open_network(f"torchvision/{name}")
            yield Candidate(
                teacher=f"torchvision/{name}",
                module=network.module,
                architecture=name,
                layouts=layouts_of(network),
            )


def _fit(candidate: Candidate, reading: Reading) -> Fit:
    return Fit(
        teacher=candidate.teacher,
        architecture=candidate.architecture,
        layout=reading.layout.title,
        unused=tuple(reading.layout.unused_names(reading.state)),
        prefix=reading.prefix,
    )


def _unknown(file: WeightsFile, path: Path, teacher: str, problems: str) -> str:
    if teacher:
        return f"{path} has no known layout; the closest is that of {teacher}, apart from names that are {problems}"
    return (
        f"{path} has no known layout; the first of its {len(file.state)} tensors are "
        f"{', '.join(list(file.state)[:KEYS_SHOWN]) or 'none'}; if timm has the network, use "
        "--teacher timm/NAME, otherwise write a package.module:function that returns it"
    )
