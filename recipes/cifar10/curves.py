"""1-NN of each method in the course of 48 epochs: what --eval-every logged in the runs of curves.toml.

python -m recipes.cifar10.curves            # writes docs/results/cifar10-curves.json from the runs
python -m recipes.cifar10.curves --table    # writes the table of docs/beyond.md from it
"""

import json
import sys
from pathlib import Path

from cache.durable import write_file
from pipeline.report.curves import read_curves
from pipeline.results.markdown_file import write_into
from pipeline.runtime.provenance import provenance
from pipeline.sweeps.recipe import read_recipe

RECIPE = Path("recipes/cifar10/curves.toml")
RESULT, PAGE, NAME = Path("docs/results/cifar10-curves.json"), Path("docs/beyond.md"), "cifar10-curves"


def collect() -> None:
    recipe = read_recipe(RECIPE)
    runs = []
    for trial in recipe.trials:
        steps, accuracies = read_curves(recipe.runs / trial.name).get("nn1", ((), ()))
        epochs, every = trial.settings["epochs"], trial.settings["eval-every"]
        if len(steps) * every == epochs:  # it is finished
            curve = {str(every * (place + 1)): float(value) for place, value in enumerate(accuracies)}
            runs.append({"name": trial.row, "settings": trial.recorded, "nn1": curve})
    if not runs:
        sys.exit(f"no run is finished: python cli.py sweep {RECIPE}")
    write_file(RESULT, (json.dumps({"provenance": provenance(), "runs": runs}, indent=1) + "\n").encode())
    write_table()


def write_table() -> None:
    if not RESULT.exists():
        write_into(PAGE, NAME, f"*pending*: `python cli.py sweep {RECIPE}`")
        return
    content = json.loads(RESULT.read_text(encoding="utf-8"))
    origin, runs = content["provenance"], content["runs"]
    epochs = list(runs[0]["nn1"])
    lines = [
        f"| 1-NN after epoch | {' | '.join(epochs)} |",
        f"| --- |{' ---: |' * len(epochs)}",
        *(
            f"| {run['name']} | {' | '.join(percent(run['nn1'][epoch]) for epoch in epochs)} |"
            for run in runs
        ),
        "",
        f"One seed; `python cli.py sweep {RECIPE}`, `python -m recipes.cifar10.curves`, commit {origin['commit']}, "
        f"{origin['date'][:10]}, {origin['machine']}.",
    ]
    write_into(PAGE, NAME, "\n".join(lines))


def percent(share: float) -> str:
    return f"{100 * share:.1f}"


if __name__ == "__main__":
    write_table() if "--table" in sys.argv else collect()
