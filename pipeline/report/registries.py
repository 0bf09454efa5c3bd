"""`students`, `teachers`, `objectives` and `teachers --check`: registries and weights files, on the terminal."""

import shlex
from pathlib import Path

from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from pipeline.models.checkpoints import join_names
from pipeline.models.students import STUDENTS
from pipeline.models.weights_file import open_weights
from pipeline.objectives.registry import OBJECTIVES, ObjectiveEntry
from pipeline.teachers.identify_checkpoint import identify
from pipeline.teachers.registry import TEACHERS


def print_students() -> None:
    """Print name, dim, smallest input and description of each student."""
    for name, entry in STUDENTS.items():
        print_entry(name, f"{entry.dim}-d, images of {entry.smallest} px or more", entry.description)
    print_entry("timm/NAME", "", "any model of timm")
    print_entry("torchvision/NAME", "", "any classification model of torchvision")
    print_entry("package.module:function", "", "your own: the function returns an nn.Module")


def print_teachers() -> None:
    """Print name, dim, input, licence and weights of each teacher."""
    for name, entry in TEACHERS.items():
        weights = ", ".join(filter(None, (entry.weights, entry.checksum)))
        print_entry(
            name, f"{entry.dim}-d at {entry.input}", f"{entry.description}; licence: {entry.licence}", weights
        )
    needed = "--weights FILE; its input is the library's for these weights"
    print_entry("timm/NAME", "", "any model of timm", needed)
    published = "a published name ends in the sha256 that the file must have"
    print_entry("torchvision/NAME", "", "any classification model of torchvision", f"{needed}; {published}")
    print_entry(
        "package.module:function", "", "your own: it returns an nn.Module, or that and a preprocessing"
    )


def print_entry(name: str, facts: str, *lines: str) -> None:
    """Print a name with facts beside it and lines below, wrapped to the terminal."""
    console = Console(highlight=False)
    console.print(Text.assemble((name, "bold"), f"  {facts}".rstrip()), soft_wrap=True)
    for line in filter(None, lines):
        console.print(Padding(Text(line), (0, 0, 0, 4)))


def print_check(path: Path) -> None:
    """Print a weights file's contents, the teachers it fits, and the command that uses it. Raises PipelineError."""
    file = open_weights(path)
    under = f" under {file.key!r}" if file.key else ""
    print(f"{path}: {len(file.state)} tensors{under}")
    quoted = shlex.quote(str(path))
    if "student" in file.metadata:
        print(f"a student of this project, {file.metadata['student']}")
        print(f"use it: python cli.py embed DATASET OUT.zarr --run {quoted}")
        return
    fits = identify(file, path)
    if len(fits) > 1:
        print(
            "several teachers have these tensors, with different inputs: choose the one that the file comes from"
        )
    for fit in fits:
        entry = TEACHERS.get(fit.teacher)
        print(f"\n{fit.teacher}: {entry.description if entry else fit.architecture}")
        print(f"  layout        {fit.layout}")
        if fit.prefix:
            print(f"  prefix        {fit.prefix!r}, removed from every name")
        print(f"  architecture  {fit.architecture}")
        print(f"  input         {entry.input if entry else 'of the torchvision model for these weights'}")
        print(f"  unused        {join_names(fit.unused) or 'nothing'}")
        print(
            f"  usage         python cli.py cache-teacher DATASET CACHE.zarr --teacher {fit.teacher} --weights {quoted}"
        )


def print_objectives() -> None:
    """Print name, defaults, description and paper of each objective."""
    for name, entry in OBJECTIVES.items():
        print_entry(name, defaults_of(entry), entry.description, entry.paper)


def defaults_of(entry: ObjectiveEntry) -> str:
    """Return an objective's default settings in one line."""
    parts = [entry.defaults] if entry.defaults else []
    if entry.tau:
        parts.append(f"tau {entry.tau}")
    if entry.student_tau:
        parts.append(f"student-tau {entry.student_tau}")
    rates = f"lr {entry.lr}"
    if entry.mobilenet_lr:
        rates += f" ({entry.mobilenet_lr} for MobileNetV2)"
    if entry.scales_lr:
        rates += f" per {entry.batch_size} images of a batch"
    own = {"batch": entry.batch_size, "epochs": entry.epochs, "wd": entry.wd}
    usual = {"batch": ObjectiveEntry.batch_size, "epochs": ObjectiveEntry.epochs, "wd": ObjectiveEntry.wd}
    parts += [f"{name} {value:g}" for name, value in own.items() if value != usual[name]]
    optimizer = [entry.optimizer] if entry.optimizer != ObjectiveEntry.optimizer else []
    return ", ".join([*parts, rates, *optimizer, entry.schedule])
