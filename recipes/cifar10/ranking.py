"""Which property of a cache ranks teachers as their students come out: `python -m recipes.cifar10.ranking [METRIC]`.

Reads what `cache compare --json` and teachers.toml recorded, and prints Spearman's rank correlation with the students'
1-NN (or another metric), for each property.
"""

import json
import sys
import tomllib
from pathlib import Path

from scipy.stats import spearmanr

from recipes.cifar10.agreement import means

RECIPE, PROPERTIES = Path("recipes/cifar10/teachers.toml"), Path("docs/results/cifar10-teachers.json")
COMPARED = ("nn1", "effective_rank", "mean_cosine", "hubness")


def main(metric: str = "nn1") -> None:
    recipe = tomllib.loads(RECIPE.read_text(encoding="utf-8"))
    students = means(Path(recipe["results"]), metric)
    rows = [row for row in recipe["row"] if "tau" not in row]  # the others are of the same caches
    caches = {Path(row.get("cache", recipe["cache"])).name: row["name"] for row in rows}
    compared = json.loads(PROPERTIES.read_text(encoding="utf-8"))["caches"]
    found = {caches[each["name"]]: each for each in compared if caches.get(each["name"]) in students}
    names = sorted(found, key=lambda name: -students[name])
    print(f"{'teacher':24} {'student ' + metric:>14}", *(f"{name:>14}" for name in COMPARED))
    for name in names:
        print(f"{name:24} {students[name]:14.1f}", *(f"{found[name][each]:14.3f}" for each in COMPARED))
    singles = [name for name in names if " and " not in name]
    for chosen, kind in ((names, "teachers"), (singles, "single teachers")):
        for each in COMPARED:
            properties = [found[name][each] for name in chosen]
            correlation = spearmanr(properties, [students[name] for name in chosen]).statistic
            print(f"{each}: rank correlation {correlation:.2f} over {len(chosen)} {kind}")


if __name__ == "__main__":
    main(*sys.argv[1:])
