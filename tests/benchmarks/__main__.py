"""`python -m tests.benchmarks [NAME ...]`: measure, print a table, keep each figure in results/; without NAME, all."""

import importlib
import tempfile
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from pipeline.results.markdown_file import write_into
from tests.benchmarks.figure import RESULTS, Figure, read_figure, write_figure

# Each is a module bench_NAME with `measure(folder) -> Iterator[Figure]`; the folder is a scratch one of its own.
BENCHMARKS = (
    "rows",
    "cold_start",
    "stage_one",
    "student_epoch",
    "live_teacher",
    "streamed_loss",
    "loader",
    "nearest",
    "clusters",
    "linear",
    "students_together",
    "growth",
    "start",
    "plan",
)
HEAD = ("what", "against", "measured", "bar", "")


@click.command()
@click.argument("names", nargs=-1, metavar="[NAME ...]")
@click.option(
    "--scratch", type=Path, default=None, help="where scratch data goes: 6 GB for all; default: TMPDIR"
)
@click.option(
    "--readme", type=Path, default=None, help="measure nothing: write the kept figures' table into FILE"
)
def main(names: tuple[str, ...], scratch: Path | None, readme: Path | None) -> None:
    """Measure what is named, or everything: ratios of two things timed in one run, by turns, medians."""
    if readme:
        write_into(readme, "bench", markdown(sorted(RESULTS.glob("*.json"))))
        return
    if unknown := set(names) - set(BENCHMARKS):
        raise click.UsageError(
            f"unknown benchmark {', '.join(sorted(unknown))}: there are {', '.join(BENCHMARKS)}"
        )
    for name in names or BENCHMARKS:
        click.echo(f"{name} ...", err=True)
        module = importlib.import_module(f"tests.benchmarks.bench_{name}")
        with tempfile.TemporaryDirectory(prefix=f"bench-{name}-", dir=scratch) as folder:
            for figure in module.measure(Path(folder)):
                write_figure(figure)
                Console().print(table([figure]))


def table(figures: list[Figure]) -> Table:
    """Figures on the terminal."""
    shown = Table(*HEAD)
    for figure in figures:
        shown.add_row(*row(figure))
    return shown


def row(figure: Figure) -> tuple[str, ...]:
    return (figure.what, figure.against, f"{figure.ratio:.3g} {figure.unit}", figure.bar, figure.verdict)


def markdown(paths: list[Path]) -> str:
    """The kept figures as a Markdown table, with what bounds each and where it comes from."""
    kept = [read_figure(path) for path in paths]
    lines = [f"| {' | '.join(HEAD)} |", f"|{' --- |' * len(HEAD)}"]
    lines += [f"| {' | '.join(row(figure))} |" for figure, _ in kept]
    lines += ["", "<details><summary>what bounds them, and where they come from</summary>", ""]
    lines += [
        f"- {figure.what} against {figure.against}: {figure.bound} ({origin['machine']}; commit {origin['commit']}; "
        f"{origin['date']}; `{origin['command']}`)"
        for figure, origin in kept
    ]
    return "\n".join([*lines, "", "</details>"])


if __name__ == "__main__":
    main()
