"""A table of the results of runs, caches and sweeps in a Markdown file, with its provenance."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from pipeline.results.markdown_file import has_markers, write_into
from pipeline.results.records import Result, load_metrics, metrics_path
from pipeline.results.table import markdown_table, provenance_lines
from pipeline.sweeps.recipe import SweepRecipe, read_recipe


def write_report(targets: Sequence[Path], out: Path, name: str) -> None:
    """Write the metrics of runs, caches, metrics files or a sweep's recipe between the markers `name` of `out`.

    The provenance follows below the table, or goes between markers `name`-provenance if `out` has them.
    Raises WrongUse when `out` lacks the markers, or a target other than a sweep is not evaluated yet.
    """
    results, notes = [], []
    for target in targets:
        if target.suffix == ".toml":
            recipe = read_recipe(target)
            results += list(sweep_results(recipe))
            notes.append(f"{progress(recipe)}: `python cli.py sweep {target}`.")
        else:
            results.append(load_metrics(metrics_path(target)))
    lines = "\n".join(provenance_lines([result for result in results if result.metrics]))
    parts = [markdown_table(results).rstrip(), *notes]
    if has_markers(out, f"{name}-provenance"):
        write_into(out, f"{name}-provenance", lines)
    else:
        parts.append(f"<details><summary>where these numbers come from</summary>\n\n{lines}\n\n</details>")
    write_into(out, name, "\n\n".join(parts))


def sweep_results(recipe: SweepRecipe) -> Iterator[Result]:
    """Yield the results of a sweep's reference stores and trials in the recipe's order; without metrics if pending."""
    for store in recipe.references:
        record = recipe.result_path(store.stem)
        yield load_metrics(record) if record.exists() else Result(name=store.stem, metrics={})
    done = {trial.row for trial in recipe.trials if recipe.result_path(trial.name).exists()}
    pending: set[str] = set()
    for trial in recipe.trials:
        record = recipe.result_path(trial.name)
        if record.exists():
            yield load_metrics(record)
        elif trial.row not in done | pending:
            pending.add(trial.row)
            yield Result(name=trial.row, metrics={})


def progress(recipe: SweepRecipe) -> str:
    """Describe how many trials are done and how long they took."""
    records = [record for trial in recipe.trials if (record := recipe.result_path(trial.name)).exists()]
    hours = sum(json.loads(record.read_text())["seconds"] for record in records) / 3600
    return f"{len(records)} of {len(recipe.trials)} trials, {hours:.1f} hours of one process"
