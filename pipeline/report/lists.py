"""The commands that list what the registries know: `teachers`, `students` and `objectives`."""

from pathlib import Path

import click

from pipeline.settings.command_line import LocalPath


@click.command("teachers")
@click.option(
    "--check",
    type=LocalPath(),
    metavar="FILE",
    help="weights file to identify: its layout and the teachers it fits",
)
def teachers(check: Path | None) -> None:
    """List the registered teachers, or identify a weights file.

    Shows each teacher's input, width, licence and where to get its weights.
    """
    from pipeline.report.registries import print_check, print_teachers

    print_check(check) if check else print_teachers()


@click.command("students")
def students() -> None:
    """List the named students with width and smallest input."""
    from pipeline.report.registries import print_students

    print_students()


@click.command("objectives")
def objectives() -> None:
    """List the training objectives and their defaults."""
    from pipeline.report.registries import print_objectives

    print_objectives()
