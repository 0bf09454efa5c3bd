"""What is known, as tables on the terminal."""

import shlex
from pathlib import Path

from rich.console import Console
from rich.table import Column, Table

from pipeline.checkpoints import listed, open_weights
from pipeline.objectives.registry import OBJECTIVES, ObjectiveEntry
from pipeline.recognise import recognise
from pipeline.students import STUDENTS
from pipeline.teachers import TEACHERS


def print_students() -> None:
    """Name, width, smallest input and description of each student."""
    table = Table("student", "width", "from px", "what it is")
    for name, entry in STUDENTS.items():
        table.add_row(name, str(entry.dim), str(entry.smallest), entry.description)
    table.add_row("timm/NAME", "", "", "any model of timm")
    table.add_row("torchvision/NAME", "", "", "any classification model of torchvision")
    table.add_row("package.module:function", "", "", "your own: the function returns an nn.Module")
    Console().print(table)


def print_teachers() -> None:
    """Name, width, input, licence and weights of each teacher."""
    table = Table("teacher", "what it is", "width", "input", "licence", Column("weights", overflow="fold"))
    for name, entry in TEACHERS.items():
        weights = ", ".join(filter(None, (entry.weights or "none needed", entry.checksum)))
        table.add_row(name, entry.description, str(entry.dim), entry.input, entry.licence, weights)
    own = "the weights'"
    table.add_row("timm/NAME", "any model of timm", "", own, own, "--weights FILE")
    table.add_row(
        "torchvision/NAME",
        "any classification model of torchvision",
        "",
        own,
        own,
        "--weights FILE; a published name ends in the sha256 that the file must have",
    )
    function = "your own: returns an nn.Module, or that and a preprocessing"
    table.add_row(
        "package.module:function", function, "", "ImageNet's or yours", "yours", "--weights FILE if you like"
    )
    Console().print(table)


def print_check(path: Path) -> None:
    """What a weights file holds, which teachers it fits, and the command that uses it; raises PipelineError."""
    file = open_weights(path)
    within = f" under {file.place!r}" if file.place else ""
    prefixed = f", their names after {file.prefix!r}" if file.prefix else ""
    print(f"{path}: {len(file.state)} tensors{within}{prefixed}")
    quoted = shlex.quote(str(path))
    if "student" in file.metadata:
        print(f"a student of this project, {file.metadata['student']}")
        print(f"use it: python cli.py embed DATASET OUT.zarr --run {quoted}")
        return
    fits = recognise(file, path)
    if len(fits) > 1:
        print(
            "its names alone leave several possible; they differ in input, so choose by where the file is from"
        )
    for fit in fits:
        entry = TEACHERS.get(fit.teacher)
        print(f"\n{fit.teacher}: {entry.description if entry else fit.architecture}")
        print(f"  layout        {fit.layout}")
        print(f"  architecture  {fit.architecture}")
        print(f"  input         {entry.input if entry else 'as torchvision has it for these weights'}")
        print(f"  left over     {listed(fit.left_over) or 'nothing'}")
        print(
            f"  use it        python cli.py cache-teacher DATASET CACHE.zarr --teacher {fit.teacher} --weights {quoted}"
        )


def print_objectives() -> None:
    """Name, description, defaults and paper of each objective."""
    table = Table("objective", "the student learns", "defaults", "paper")
    for name, entry in OBJECTIVES.items():
        table.add_row(name, entry.description, defaults_of(entry), entry.paper)
    Console().print(table)


def defaults_of(entry: ObjectiveEntry) -> str:
    """An objective's own settings in a line."""
    parts = [entry.defaults] if entry.defaults else []
    if entry.tau:
        parts.append(f"tau {entry.tau}")
    if entry.student_tau:
        parts.append(f"student-tau {entry.student_tau}")
    return ", ".join([*parts, f"lr {entry.lr}", entry.schedule])
