"""A sweep's recipe: rows x grid over one cache, as a list of trials with whole and checked settings."""

import itertools
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from pipeline.errors import WrongUse, suggest
from pipeline.settings.commands import DistillConfig, PretrainConfig
from pipeline.settings.toml_file import from_values

CONFIGS = {"distill": DistillConfig, "pretrain": PretrainConfig}
SEED = "seed"
NAMES = ("protocol", "references")  # lists of names


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One run: `row` is its line in the table, `name` its folder, settings those of its command, as in TOML."""

    row: str
    name: str
    command: str
    settings: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class SweepRecipe:
    """What a recipe says. references: stores that stand in the same table, such as the teacher's cache.

    results: where each trial's metrics are kept, a JSON file each.
    """

    dataset: Path
    cache: Path
    runs: Path
    results: Path
    protocol: tuple[str, ...]
    references: tuple[Path, ...]
    trials: tuple[Trial, ...]


def read_recipe(path: Path) -> SweepRecipe:
    """Read and check RECIPE.toml, down to the settings of every trial.

        dataset, cache, runs      folders; results: another folder for the metrics than RUNS/results
        protocol, references      lists; the protocols of `eval`, and stores to evaluate as well
        [settings]                of every run
        [grid]                    key = list of values: every combination, the last key varying fastest
        [[row]]                   name, command (distill unless pretrain), and settings that win over all others

    Raises WrongUse for a file that is missing or no TOML, an unknown key, a wrong value or two trials of one name.
    """
    try:
        found = tomllib.loads(path.read_text())
    except (OSError, ValueError) as error:  # not TOML, or not even text
        raise WrongUse(f"cannot read the recipe {path}: {error}") from error
    known = [field.name for field in fields(SweepRecipe) if field.name != "trials"] + [
        "settings",
        "grid",
        "row",
    ]
    for key in found:
        if key not in known:
            raise WrongUse(f"{path}: unknown key {key!r}{suggest(key, known)}")
    folders = {key: Path(_of_kind(found, key, str, path)) for key in ("dataset", "cache", "runs")}
    trials = tuple(_trials(found, path))
    for number, trial in enumerate(trials):
        if trial.name in (other.name for other in trials[:number]):
            raise WrongUse(f"{path}: two trials are named {trial.name!r}; give the rows different names")
    return SweepRecipe(
        **folders,
        results=Path(_of_kind(found, "results", str, path, default=str(folders["runs"] / "results"))),
        protocol=tuple(_of_kind(found, "protocol", list, path, default=["nn", "linear", "ca"])),
        references=tuple(Path(store) for store in _of_kind(found, "references", list, path, default=[])),
        trials=trials,
    )


def _trials(found: Mapping[str, Any], path: Path) -> Iterator[Trial]:
    """All rows for the grid's first combination, then for the next: a table fills a column at a time."""
    shared = _of_kind(found, "settings", dict, path, default={})
    grid = _of_kind(found, "grid", dict, path, default={})
    rows = _of_kind(found, "row", list, path, default=[{}])
    for key, values in grid.items():
        if not isinstance(values, list) or not values:
            raise WrongUse(f"{path}: grid: expected a list of values for {key!r}, found {values!r}")
    for values in itertools.product(*grid.values()):
        for row in rows:
            yield _trial(shared, dict(zip(grid, values, strict=True)), row, path)


def _trial(shared: Mapping[str, Any], point: dict[str, Any], row: Any, path: Path) -> Trial:
    if not isinstance(row, dict):
        raise WrongUse(f"{path}: expected tables under [[row]], found {row!r}")
    command = row.get("command", "distill")
    if command not in CONFIGS:
        raise WrongUse(f"{path}: a row's command is distill or pretrain, found {command!r}")
    own = {key: value for key, value in row.items() if key not in ("name", "command")}
    settings = {**shared, **point, **own}
    name = str(row.get("name", settings.get("objective", command)))
    from_values(CONFIGS[command], settings, f"{path}: {name}")
    tags = [_tag(key, value) for key, value in point.items() if key not in own and value is not False]
    label = " ".join([*(tag for tag in tags if not tag.startswith(SEED)), name])
    folder = "-".join([name, *tags]).replace("/", "-").replace(" ", "-")
    return Trial(row=label, name=folder, command=command, settings=settings)


def _tag(key: str, value: Any) -> str:
    """A point of the grid in a name: words as they are, numbers after what they are."""
    if value is True:
        return key
    return value if isinstance(value, str) and not value.isdecimal() else f"{key}{value}"


def _of_kind(found: Mapping[str, Any], key: str, kind: type, path: Path, default: Any = None) -> Any:
    value = found.get(key, default)
    if not isinstance(value, kind):
        raise WrongUse(f"{path}: expected a {kind.__name__} for {key!r}, found {value!r}")
    if isinstance(value, list) and key in NAMES and not all(isinstance(item, str) for item in value):
        raise WrongUse(f"{path}: expected a list of names for {key!r}, found {value!r}")
    return value


def flags(settings: Mapping[str, Any]) -> list[str]:
    """Settings as a command's flags: {"image-size": 32} -> ["--image-size", "32"]."""
    made: list[str] = []
    for key, value in settings.items():
        flag = f"--{key.replace('_', '-')}"
        if value is True:
            made.append(flag)
        elif value is not False:
            made += [flag, *map(str, value if isinstance(value, list) else [value])]
    return made
