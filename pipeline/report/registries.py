"""What is known, as tables on the terminal."""

from rich.console import Console
from rich.table import Table

from pipeline.objectives.registry import OBJECTIVES
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
    """Name, licence, weights and description of each teacher."""
    table = Table("teacher", "what it is", "licence", "weights")
    for name, entry in TEACHERS.items():
        table.add_row(name, entry.description, entry.licence, entry.weights or "none needed")
    table.add_row("timm/NAME", "any model of timm", "the weights'", "--weights FILE")
    table.add_row(
        "torchvision/NAME", "any classification model of torchvision", "the weights'", "--weights FILE"
    )
    table.add_row(
        "package.module:function", "your own: returns an nn.Module, or that and a preprocessing", "yours", ""
    )
    Console().print(table)


def print_objectives() -> None:
    """Name, description, defaults and paper of each objective."""
    table = Table("objective", "the student learns", "defaults", "paper")
    for name, entry in OBJECTIVES.items():
        table.add_row(name, entry.description, entry.defaults, entry.paper)
    Console().print(table)
