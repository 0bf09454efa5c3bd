"""A table of the results of runs, caches and sweeps in a Markdown file, with its provenance."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.errors import PipelineError
from pipeline.report.cache_comparison import comparison_markdown
from pipeline.report.systems import System, load_system, with_distinct_names
from pipeline.results.markdown_file import has_markers, require_markers, write_into
from pipeline.results.metrics_file import recorded_path
from pipeline.results.records import Result, is_run, is_store, load_metrics, metrics_path
from pipeline.results.table import markdown_table, note_on_datasets, provenance_lines
from pipeline.sweeps.recipe import SweepRecipe, read_recipe


def write_report(targets: Sequence[Path], out: Path, name: str) -> None:
    """Write the metrics of runs, caches, metrics files or a sweep's recipe between the markers `name` of `out`.

    Or, as the only target, what `cache compare --json` printed into a file.

    The provenance follows below the table, or goes between markers `name`-provenance if `out` has them.
    Raises WrongUse when `out` lacks the markers, or a target other than a sweep is not evaluated yet.
    """
    require_markers(out, name)
    if len(targets) == 1 and (compared := recorded_comparison(targets[0])):
        write_into(out, name, comparison_markdown(compared))
        return
    systems: dict[Path, System] = {}
    notes = []
    for target in targets:
        if target.suffix == ".toml":
            recipe = read_recipe(target)
            # as part of a sweep, a run has its row's name, also if it is named on its own before
            systems |= sweep_systems(recipe)
            notes.append(f"{progress(recipe)}: `python cli.py sweep {target}`.")
        else:
            systems.setdefault(metrics_path(target).resolve(), evaluated_system(target))
    results = [system.result for system in with_distinct_names([*systems.values()]) if system.result]
    lines = "\n".join(provenance_lines([result for result in results if result.metrics]))
    if note := note_on_datasets(results):
        notes.insert(0, note)
    parts = [markdown_table(results).rstrip(), *notes]
    if has_markers(out, f"{name}-provenance"):
        write_into(out, f"{name}-provenance", lines)
    elif lines:
        parts.append(f"<details><summary>where these numbers come from</summary>\n\n{lines}\n\n</details>")
    write_into(out, name, "\n\n".join(parts))


def recorded_comparison(target: Path) -> dict[str, Any] | None:
    """Return what `cache compare --json` printed into a file, None for any other target."""
    if target.suffix != ".json" or not target.is_file():
        return None
    try:
        content = json.loads(target.read_text(encoding="utf-8"))
    except ValueError as error:
        raise PipelineError(f"{target} is not JSON: {error}") from error
    return content if isinstance(content, dict) and "caches" in content else None


def evaluated_system(target: Path) -> System:
    """Load a run, a cache or a metrics file; its metrics are enough. Raises WrongUse if there are none."""
    path = recorded_path(target)
    load_metrics(path)
    is_there = is_run(target) or is_store(target)
    return load_system(target if is_there else path)


def sweep_systems(recipe: SweepRecipe) -> dict[Path, System]:
    """Return a sweep's reference stores and trials in the recipe's order, by the path of their own metrics.

    A row without a finished trial has a result without metrics.
    """
    systems = {}
    for store in recipe.references:
        record = recipe.reference_path(store)
        found = load_system(record) if record.exists() else pending(store, store.stem)
        systems[metrics_path(store).resolve()] = found
    done = {trial.row for trial in recipe.trials if recipe.result_path(trial.name).exists()}
    for trial in recipe.trials:
        run, record = recipe.runs / trial.name, recipe.result_path(trial.name)
        if record.exists():
            systems[metrics_path(run).resolve()] = load_system(record)
        elif trial.row not in done:
            done.add(trial.row)
            systems[metrics_path(run).resolve()] = pending(run, trial.row)
    return systems


def pending(path: Path, name: str) -> System:
    """Return a system that is not evaluated yet."""
    return System(path=path, name=name, role="student", result=Result(name=name, metrics={}))


def progress(recipe: SweepRecipe) -> str:
    """Describe how many trials are done and how long they took."""
    records = [record for trial in recipe.trials if (record := recipe.result_path(trial.name)).exists()]
    hours = sum(json.loads(record.read_text(encoding="utf-8"))["seconds"] for record in records) / 3600
    return f"{len(records)} of {len(recipe.trials)} trials, {hours:.1f} hours of one process"
