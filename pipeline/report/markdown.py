"""A table of results in a Markdown file, with where its numbers come from: of runs, caches and sweeps."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from pipeline.results.markdown_file import write_into
from pipeline.results.records import Result, load_metrics, metrics_of
from pipeline.results.table import markdown_table, provenance_lines
from pipeline.sweeps.recipe import SweepRecipe, read_recipe


def write_report(targets: Sequence[Path], out: Path, name: str) -> None:
    """Write the metrics of runs, caches, metrics files or a sweep's recipe between the markers `name` of `out`.

    Raises WrongUse when `out` lacks the markers, or a target other than a sweep was not evaluated yet.
    """
    results, notes = [], []
    for target in targets:
        if target.suffix == ".toml":
            recipe = read_recipe(target)
            results += list(sweep_results(recipe))
            notes.append(f"{progress(recipe)}: `python cli.py sweep {target}`.")
        else:
            results.append(load_metrics(metrics_of(target)))
    lines = "\n".join(provenance_lines([result for result in results if result.metrics]))
    origin = f"<details><summary>where these numbers come from</summary>\n\n{lines}\n\n</details>"
    write_into(out, name, "\n\n".join([markdown_table(results).rstrip(), *notes, origin]))


def sweep_results(recipe: SweepRecipe) -> Iterator[Result]:
    """The stores that a sweep refers to, then every trial in the recipe's order; without metrics what is to come."""
    for store in recipe.references:
        record = recipe.results / f"{store.stem}.json"
        yield load_metrics(record) if record.exists() else Result(name=store.stem, metrics={})
    done = {trial.row for trial in recipe.trials if record_of(recipe, trial.name).exists()}
    waiting: set[str] = set()
    for trial in recipe.trials:
        record = record_of(recipe, trial.name)
        if record.exists():
            yield load_metrics(record)
        elif trial.row not in done | waiting:
            waiting.add(trial.row)
            yield Result(name=trial.row, metrics={})


def progress(recipe: SweepRecipe) -> str:
    """How many trials are done, and the hours that they took."""
    records = [record for trial in recipe.trials if (record := record_of(recipe, trial.name)).exists()]
    hours = sum(json.loads(record.read_text())["seconds"] for record in records) / 3600
    return f"{len(records)} of {len(recipe.trials)} trials, {hours:.1f} hours of one process"


def record_of(recipe: SweepRecipe, trial: str) -> Path:
    """Where a sweep keeps a trial's metrics."""
    return recipe.results / f"{trial}.json"
