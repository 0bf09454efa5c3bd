"""Which known layout a weights file has: it is tried on each known network, and what fits is what it is."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import torch
import torchvision
from torch import nn

from pipeline.errors import PipelineError
from pipeline.models.architectures import open_network
from pipeline.models.checkpoints import WeightsFile, listed, misfits
from pipeline.models.state_dict_layout import Layout, choose
from pipeline.teachers.registry import TEACHERS, own_names

# The first computes its widths with tensors, which have no values on the meta device; two warn when they are built;
# the last has no linear classifier to leave out.
NOT_TRIED = ("regnet", "googlenet", "inception", "squeezenet")
KEYS_SHOWN = 5


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A network by its teacher's name, without values, and the layouts of its files."""

    teacher: str
    module: nn.Module
    architecture: str
    layouts: tuple[Layout, ...]


@dataclass(frozen=True, kw_only=True)
class Fit:
    """A teacher that a file can be loaded into. left_over: names in the file that no feature needs."""

    teacher: str
    architecture: str
    layout: str
    left_over: tuple[str, ...]


def identify(file: WeightsFile, path: Path) -> list[Fit]:
    """The teachers that a file fits: those whose layout has a mark that the file bears, else all.

    Raises PipelineError with the file's first keys, or with what keeps it from the nearest teacher.
    """
    nearest = ("", len(file.state) // 2, "")
    marked: list[Fit] = []
    plain: list[Fit] = []
    values = sum(tensor.numel() for tensor in file.state.values())
    for candidate in chain(registered(), of_torchvision(values)):
        if marked and candidate.teacher.startswith("torchvision/"):
            break
        own = candidate.module.state_dict()
        layout = choose(candidate.layouts, file.state, own)
        if layout.place and layout.place != file.place:
            continue
        problems = misfits(own, layout.read(file.state))
        count = sum(map(len, problems.values()))
        if not count:
            certain = layout.marks(file.state) or bool(layout.place)
            (marked if certain else plain).append(_fit(candidate, layout, file))
        elif count < nearest[1]:
            named = "; ".join(f"{kind}: {listed(names)}" for kind, names in problems.items())
            nearest = (candidate.teacher, count, named)
    if not marked and not plain:
        raise PipelineError(_unknown(file, path, nearest[0], nearest[2]))
    return marked or plain


def registered() -> Iterator[Candidate]:
    """Every registered teacher that takes a weights file."""
    for name, entry in TEACHERS.items():
        if entry.weights is not None:
            made = entry.recipe()
            yield Candidate(
                teacher=name, module=made.module, architecture=made.architecture, layouts=made.layouts
            )


def of_torchvision(values: int) -> Iterator[Candidate]:
    """torchvision's networks of about so many values: a file may lack a classifier, or hold buffers as well."""
    for name in torchvision.models.list_models(module=torchvision.models):
        if name.startswith(NOT_TRIED):
            continue
        whole = next(iter(torchvision.models.get_model_weights(name))).meta["num_params"]
        if 0.5 * whole < values < 1.1 * whole:
            with torch.device("meta"):
                network = open_network(f"torchvision/{name}")
            yield Candidate(
                teacher=f"torchvision/{name}",
                module=network.module,
                architecture=name,
                layouts=own_names(network),
            )


def _fit(candidate: Candidate, layout: Layout, file: WeightsFile) -> Fit:
    return Fit(
        teacher=candidate.teacher,
        architecture=candidate.architecture,
        layout=layout.title,
        left_over=tuple(layout.left_over(file.state)),
    )


def _unknown(file: WeightsFile, path: Path, teacher: str, problems: str) -> str:
    if teacher:
        return f"{path} has no known layout; the nearest is that of {teacher}, but for what is {problems}"
    return (
        f"{path} has no known layout; of its {len(file.state)} tensors the first are "
        f"{', '.join(list(file.state)[:KEYS_SHOWN]) or 'none'}; if timm has the network, load it with "
        "--teacher timm/NAME, else write a package.module:function that returns it"
    )
