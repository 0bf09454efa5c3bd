"""Whether two sweeps put methods in the same order: `python recipes/cifar10/agreement.py RESULTS OTHER [METRIC]`.

Prints Spearman's rank correlation over the rows that both folders have, of each row's mean over its seeds, and the same
without the baselines.
"""

import json
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np
from scipy.stats import spearmanr

BASELINES = ("untrained", "from scratch")


def means(folder: Path, metric: str) -> dict[str, float]:
    """Return the mean of a metric for each row of a sweep's results, in percent, without the student in its name."""
    found = defaultdict(list)
    for file in sorted(folder.glob("*-seed*.json")):
        record = json.loads(file.read_text(encoding="utf-8"))
        row = record["name"].removeprefix(f"{record['settings'].get('student')} ")
        found[row].append(100 * record["metrics"][metric])
    return {name: float(np.mean(values)) for name, values in found.items()}


def main(first: Path, second: Path, metric: str = "nn1") -> None:
    ours, theirs = means(first, metric), means(second, metric)
    names = sorted(ours.keys() & theirs.keys(), key=lambda name: -theirs[name])
    print(f"{metric:16} {first.name:>20} {second.name:>20}")
    for name in names:
        print(f"{name:16} {ours[name]:20.1f} {theirs[name]:20.1f}")
    methods = [name for name in names if name not in BASELINES]
    for chosen, which in ((names, "rows"), (methods, "methods")):
        correlation = spearmanr([ours[name] for name in chosen], [theirs[name] for name in chosen]).statistic
        print(f"rank correlation {correlation:.2f} over {len(chosen)} {which}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:])
