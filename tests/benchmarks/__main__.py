"""`python -m tests.benchmarks [NAME ...]`: run benchmarks, print their figures and keep them in results/."""

import importlib
import tempfile
from pathlib import Path

import click
from rich.console import Console

from pipeline.errors import WrongUse
from pipeline.results.markdown_file import write_into
from tests.benchmarks.figure import write_figure
from tests.benchmarks.tables import benchmarks_table, headline_table, latency_table, terminal

# Each is a module bench_NAME with `measure(folder) -> Iterator[Figure]`, called with a scratch folder of its own.
BENCHMARKS = (
    "rows",
    "cold_start",
    "pack",
    "stage_one",
    "student_epoch",
    "live_teacher",
    "streamed_loss",
    "bf16_gradient",
    "loader",
    "nearest",
    "clusters",
    "linear",
    "students_together",
    "growth",
    "start",
    "latency",
    "plan",
    "plan_students",
)
PAGE = Path("docs/benchmarks.md")
FOLDER = click.Path(exists=True, file_okay=False, writable=True, path_type=Path)
MARKDOWN = click.Path(exists=True, dir_okay=False, writable=True, path_type=Path)


@click.command()
@click.argument("names", nargs=-1, metavar="[NAME ...]", type=click.Choice(BENCHMARKS))
@click.option(
    "--scratch", type=FOLDER, help="folder for scratch data, 6 GB for all benchmarks; default: TMPDIR"
)
@click.option(
    "--readme",
    type=MARKDOWN,
    is_flag=False,
    flag_value=PAGE,
    metavar="[FILE]",
    help=f"measure nothing; write the table of the kept figures into FILE, by default {PAGE}",
)
@click.option(
    "--headlines", type=MARKDOWN, metavar="FILE", help="measure nothing; write the six main figures into FILE"
)
def main(names: tuple[str, ...], scratch: Path | None, readme: Path | None, headlines: Path | None) -> None:
    """Run the named benchmarks, or all: each times two things by turns and reports the ratio of their medians."""
    try:
        if readme:
            write_into(readme, "bench", benchmarks_table())
            write_into(readme, "latency", latency_table())
        if headlines:
            write_into(headlines, "headlines", headline_table())
    except WrongUse as error:
        raise click.UsageError(str(error)) from error
    if readme or headlines:
        return
    for name in names or BENCHMARKS:
        click.echo(f"{name} ...", err=True)
        module = importlib.import_module(f"tests.benchmarks.bench_{name}")
        with tempfile.TemporaryDirectory(prefix=f"bench-{name}-", dir=scratch) as folder:
            for figure in module.measure(Path(folder)):
                write_figure(figure)
                Console().print(terminal([figure]))


if __name__ == "__main__":
    main()
