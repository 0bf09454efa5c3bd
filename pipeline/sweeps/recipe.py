"""A sweep's recipe: rows x grid over one cache, expanded to trials with checked settings."""

import itertools
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from pipeline.errors import WrongUse, suggest
from pipeline.settings.toml_file import from_values
from pipeline.settings.training import DistillConfig, PretrainConfig

CONFIGS = {"distill": DistillConfig, "pretrain": PretrainConfig}
SEED = "seed"
STRING_LISTS = ("protocol", "references")
KINDS: dict[type, str] = {str: "string", list: "list", dict: "table"}


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One run of a sweep. row: its row in the table. name: its folder. settings: its command's, as in TOML."""

    row: str
    name: str
    command: str
    settings: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class SweepRecipe:
    """A recipe.

    references: stores that are evaluated for the same table, such as the teacher's cache. results: the folder of the
    metrics, one JSON file per trial.
    """

    dataset: Path
    cache: Path
    runs: Path
    results: Path
    protocol: tuple[str, ...]
    references: tuple[Path, ...]
    trials: tuple[Trial, ...]

    def result_path(self, name: str) -> Path:
        """Return the path of the metrics of a trial, or of a reference store by the stem of its path."""
        return self.results / f"{name}.json"


def read_recipe(path: Path) -> SweepRecipe:
    """Read and check RECIPE.toml, including the settings of every trial.

        dataset, cache, runs      folders
        results                   folder of the metrics; default: RUNS/results
        protocol, references      lists: protocols of `eval`, and further stores to evaluate
        [settings]                settings of every run
        [grid]                    key = list of values; all combinations are run, the last key varying fastest
        [[row]]                   name, command (distill or pretrain; default: distill), and settings that take
                                  precedence over all others

    Raises WrongUse for a missing or malformed file, an unknown key, a wrong value, or two trials with the same name.
    """
    try:
        content = tomllib.loads(path.read_text())
    except (OSError, ValueError) as error:  # ValueError: not TOML, or not text
        raise WrongUse(f"cannot read the recipe {path}: {error}") from error
    known = [field.name for field in fields(SweepRecipe) if field.name != "trials"]
    known += ["settings", "grid", "row"]
    for key in content:
        if key not in known:
            raise WrongUse(f"{path}: unknown key {key!r}{suggest(key, known)}")
    folders = {key: Path(_get(content, key, str, path)) for key in ("dataset", "cache", "runs")}
    trials = tuple(_trials(content, path))
    for number, trial in enumerate(trials):
        if trial.name in (other.name for other in trials[:number]):
            raise WrongUse(f"{path}: two trials are named {trial.name!r}; give the rows different names")
    return SweepRecipe(
        **folders,
        results=Path(_get(content, "results", str, path, default=str(folders["runs"] / "results"))),
        protocol=tuple(_get(content, "protocol", list, path, default=["nn", "linear", "ca"])),
        references=tuple(Path(store) for store in _get(content, "references", list, path, default=[])),
        trials=trials,
    )


def _trials(content: Mapping[str, Any], path: Path) -> Iterator[Trial]:
    """Yield all rows for the first combination of the grid, then for the next, so that all rows progress together."""
    shared = _get(content, "settings", dict, path, default={})
    grid = _get(content, "grid", dict, path, default={})
    rows = _get(content, "row", list, path, default=[{}])
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
    """Return a grid value as part of a name: a word as it is, a number after its key."""
    if value is True:
        return key
    return value if isinstance(value, str) and not value.isdecimal() else f"{key}{value}"


def _get(content: Mapping[str, Any], key: str, kind: type, path: Path, default: Any = None) -> Any:
    """Return the value of a key. Raises WrongUse if it is not of the kind."""
    value = content.get(key, default)
    if not isinstance(value, kind):
        raise WrongUse(f"{path}: expected a {KINDS[kind]} for {key!r}, found {value!r}")
    if isinstance(value, list) and key in STRING_LISTS and not all(isinstance(item, str) for item in value):
        raise WrongUse(f"{path}: expected a list of strings for {key!r}, found {value!r}")
    return value


def flags(settings: Mapping[str, Any]) -> list[str]:
    """Return settings as command-line flags: {"image-size": 32} -> ["--image-size", "32"]."""
    result: list[str] = []
    for key, value in settings.items():
        flag = f"--{key.replace('_', '-')}"
        if value is True:
            result.append(flag)
        elif value is not False:
            result += [flag, *map(str, value if isinstance(value, list) else [value])]
    return result
