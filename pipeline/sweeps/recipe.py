"""A sweep's recipe: rows x grid over one cache, expanded to trials with checked settings."""

import itertools
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from cache.user_folder import as_typed
from pipeline.errors import WrongUse, suggest
from pipeline.settings.commands import PROTOCOLS
from pipeline.settings.field import CommandSettings, options
from pipeline.settings.local_path import local_path
from pipeline.settings.toml_file import from_values
from pipeline.settings.training import CONFIGS

SEED = "seed"
STRING_LISTS = ("protocol", "references")
KINDS: dict[type, str] = {str: "string", list: "list", dict: "table"}


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One run of a sweep. row: its row in the table. name: its folder. settings: its command's, as in TOML.

    cache: the teacher's store, if it is not the recipe's.
    """

    row: str
    name: str
    command: str
    settings: dict[str, Any]
    cache: Path | None = None

    @property
    def recorded(self) -> dict[str, Any]:
        """The settings as they are recorded with the metrics."""
        return self.settings | ({"cache": as_typed(self.cache)} if self.cache else {})


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
        """Return the path of the metrics of a trial."""
        return self.results / f"{name}.json"

    def reference_path(self, store: Path) -> Path:
        """Return the path of the metrics of a reference store."""
        return self.result_path(self.reference_name(store))

    def reference_name(self, store: Path) -> str:
        """Return a reference's name: its path's stem, or as much of its path as no other reference or trial has."""
        others = {name for other in self.references if other != store for name in path_ends(other)}
        others |= {trial.name for trial in self.trials}
        return next(name for name in path_ends(store) if name not in others)


def path_ends(store: Path) -> list[str]:
    """Return a path's stem, its name, its parent's name and its own, and so on: c, c.zarr, caches-c.zarr."""
    parts = store.resolve().parts
    return [store.stem, *("-".join(parts[-count:]) for count in range(1, len(parts) + 1))]


def read_recipe(path: Path) -> SweepRecipe:
    """Read and check RECIPE.toml, including the settings of every trial.

        dataset, cache, runs      folders
        results                   folder of the metrics; default: RUNS/results
        protocol, references      lists: protocols of `eval`, and further stores to evaluate
        [settings]                settings of every run
        [grid]                    key = list of values; all combinations are run, the last key varying fastest
        [[row]]                   name, command (distill or pretrain; default: distill), cache (default: the one
                                  above), and settings that take precedence over all others

    Raises WrongUse for a missing or malformed file, an unknown key, a wrong value, or two trials with the same name.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:  # ValueError: not TOML, or not text
        raise WrongUse(f"cannot read the recipe {path}: {error}") from error
    known = [field.name for field in fields(SweepRecipe) if field.name != "trials"]
    known += ["settings", "grid", "row"]
    for key in content:
        if key not in known:
            raise WrongUse(f"{path}: unknown key {key!r}{suggest(key, known)}")
    folders = {key: _path(content, key, path, url=key != "runs") for key in ("dataset", "cache", "runs")}
    trials = tuple(_trials(content, path))
    results = _path(content, "results", path, default=str(folders["runs"] / "results"))
    for number, trial in enumerate(trials):
        if folders["runs"] / trial.name == results:
            raise WrongUse(
                f"{path}: a trial is named {trial.name!r}, as the folder of the results; rename its row"
            )
        if trial.name in (other.name for other in trials[:number]):
            raise WrongUse(f"{path}: two trials are named {trial.name!r}; give the rows different names")
    references = [
        local_path(store, url=True) for store in _get(content, "references", list, path, default=[])
    ]
    return SweepRecipe(
        **folders,
        results=results,
        protocol=_protocols(content, path),
        references=tuple({store.resolve(): store for store in references}.values()),
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
    own = {key: value for key, value in row.items() if key not in ("name", "command", "cache")}
    settings = {**shared, **point, **own}
    name = str(row.get("name", settings.get("objective", command)))
    check_settings(CONFIGS[command], settings, f"{path}: {name}")
    tags = [_tag(key, value) for key, value in point.items() if key not in own and value is not False]
    seed = _tag(SEED, point.get(SEED))
    label = " ".join([*(tag for tag in tags if tag != seed), name])
    folder = "-".join([name, *tags]).replace("/", "-").replace(" ", "-")
    if not folder or folder.startswith("."):
        raise WrongUse(f"{path}: a row is named {name!r}, which cannot be a folder's name; give it another")
    cache = _path(row, "cache", path, url=True) if "cache" in row else None
    return Trial(row=label, name=folder, command=command, settings=settings, cache=cache)


def check_settings(config: type[CommandSettings], settings: Mapping[str, Any], where: str) -> None:
    """Raise WrongUse unless settings, as in TOML, are a trial's: flags of its command, with values in their bounds."""
    values = from_values(config, settings, where)
    arguments = [field.name for field in options(config) if field.metadata.get("argument")]
    for name in arguments:
        if name in values:
            raise WrongUse(
                f"{where}: {name!r} is not a setting: dataset, cache and runs stand at the top of a recipe, and a "
                "[[row]] may have a cache of its own"
            )
    try:
        config(**dict.fromkeys(arguments, Path()), **values)
    except WrongUse as error:
        raise WrongUse(f"{where}: {error}") from error


def _tag(key: str, value: Any) -> str:
    """Return a grid value as part of a name: a word as it is, a number after its key."""
    if value is True:
        return key
    return value if isinstance(value, str) and not value.isdecimal() else f"{key}{value}"


def _protocols(content: Mapping[str, Any], path: Path) -> tuple[str, ...]:
    """Return the protocols of a recipe. Raises WrongUse for one that cannot evaluate a run on its own images."""
    names = _get(content, "protocol", list, path, default=["nn", "linear", "ca"])
    known = [name for name in PROTOCOLS if name != "transfer"]
    for name in names:
        if name not in known:
            raise WrongUse(
                f"{path}: protocol: expected some of {', '.join(known)}, found {name!r}{suggest(name, known)}"
            )
    return tuple(names)


def _get(content: Mapping[str, Any], key: str, kind: type, path: Path, default: Any = None) -> Any:
    """Return the value of a key. Raises WrongUse if it is not of the kind."""
    value = content.get(key, default)
    if not isinstance(value, kind):
        raise WrongUse(f"{path}: expected a {KINDS[kind]} for {key!r}, found {value!r}")
    if isinstance(value, list) and key in STRING_LISTS and not all(isinstance(item, str) for item in value):
        raise WrongUse(f"{path}: expected a list of strings for {key!r}, found {value!r}")
    return value


def _path(content: Mapping[str, Any], key: str, path: Path, default: Any = None, url: bool = False) -> Path:
    """Return the value of a key as a path. url: or a URL. Raises WrongUse for anything else."""
    return local_path(_get(content, key, str, path, default), url=url)


def flags(settings: Mapping[str, Any]) -> list[str]:
    """Return settings as command-line flags: {"image-size": 32} -> ["--image-size", "32"]."""
    result: list[str] = []
    for key, value in settings.items():
        flag = f"--{key.replace('_', '-')}"
        if value is True:
            result.append(flag)
        elif isinstance(value, list) and all(isinstance(item, str) for item in value):
            result += [flag, ",".join(value)]
        elif value is not False:
            result += [flag, *map(str, value if isinstance(value, list) else [value])]
    return result
