"""1-NN of each method in the course of 48 epochs: what --eval-every logged in the runs of curves.toml.

python -m recipes.cifar10.curves            # writes docs/results/cifar10-curves.json from the runs
python -m recipes.cifar10.curves --table    # writes the table of docs/beyond.md from it
"""

import json
import sys
from pathlib import Path
from typing import Any

from cache.durable import write_file
from pipeline.report.curves import read_curves
from pipeline.results.markdown_file import write_into
from pipeline.runtime.provenance import provenance
from pipeline.sweeps.recipe import read_recipe

RECIPE = Path("recipes/cifar10/curves.toml")
RESULT, PAGE, NAME = Path("docs/results/cifar10-curves.json"), Path("docs/beyond.md"), "cifar10-curves"


def collect() -> None:
    """Record the finished runs of this machine, beside those that were recorded of others."""
    recipe = read_recipe(RECIPE)
    runs = {run["name"]: run for run in recorded()}
    for trial in recipe.trials:
        steps, accuracies = read_curves(recipe.runs / trial.name).get("nn1", ((), ()))
        epochs, every = trial.settings["epochs"], trial.settings["eval-every"]
        if len(steps) * every == epochs:  # it is finished
            curve = {str(every * (place + 1)): float(value) for place, value in enumerate(accuracies)}
            if runs.get(trial.row, {}).get("nn1") != curve:
                found = {"name": trial.row, "settings": trial.recorded, "nn1": curve}
                runs[trial.row] = {**found, "provenance": provenance()}
    if not runs:
        sys.exit(f"no run is finished: python cli.py sweep {RECIPE}")
    in_order = [runs[trial.row] for trial in recipe.trials if trial.row in runs]
    write_file(RESULT, (json.dumps({"runs": in_order}, indent=1) + "\n").encode())
    write_table()


def recorded() -> list[dict[str, Any]]:
    """Return the runs in the JSON file: name, settings, 1-NN by epoch, and provenance."""
    return json.loads(RESULT.read_text(encoding="utf-8"))["runs"] if RESULT.exists() else []


def write_table() -> None:
    runs = recorded()
    if not runs:
        write_into(PAGE, NAME, f"*pending*: `python cli.py sweep {RECIPE}`")
        return
    made = sorted({f"{run['provenance']['commit']} ({run['provenance']['date'][:10]})" for run in runs})
    epochs = list(runs[0]["nn1"])
    found = {run["name"]: [percent(run["nn1"][epoch]) for epoch in epochs] for run in runs}
    rows = {
        trial.row: found.get(trial.row, ["pending"] * len(epochs)) for trial in read_recipe(RECIPE).trials
    }
    lines = [
        f"| 1-NN after epoch | {' | '.join(epochs)} |",
        f"| --- |{' ---: |' * len(epochs)}",
        *(f"| {name} | {' | '.join(cells)} |" for name, cells in rows.items()),
        "",
        f"One seed; `python cli.py sweep {RECIPE}`, `python -m recipes.cifar10.curves`, commit {', '.join(made)}, "
        f"{runs[0]['provenance']['machine']}.",
    ]
    write_into(PAGE, NAME, "\n".join(lines))


def percent(share: float) -> str:
    return f"{100 * share:.1f}"


if __name__ == "__main__":
    write_table() if "--table" in sys.argv else collect()
