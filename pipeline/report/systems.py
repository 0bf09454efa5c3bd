"""The systems of a report: runs, caches and metrics files, each with its settings, metrics and store."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from cache.errors import StoreError
from cache.reader import Store, open_store
from pipeline.errors import WrongUse
from pipeline.results.metrics_file import Evaluation, read_evaluations
from pipeline.results.records import Result, load_metrics, metrics_path
from pipeline.results.run_record import FREE_SETTINGS, modernized, read_config
from pipeline.results.targets import target_of
from pipeline.settings.field import defaults
from pipeline.settings.training import DistillConfig, PretrainConfig
from pipeline.sweeps.recipe import read_recipe

CONFIGS = {"distill": DistillConfig, "pretrain": PretrainConfig}
NOT_COMPARED = (*FREE_SETTINGS, "seed")  # settings that do not make a different system


@dataclass(frozen=True, kw_only=True)
class System:
    """One target of a report. result is None if it is not evaluated, store if it is not embedded."""

    path: Path
    name: str
    role: str
    result: Result | None = None
    store: Store | None = None
    evaluations: Sequence[Evaluation] = ()  # that the result consists of
    record: Mapping[str, Any] = field(default_factory=dict)  # config.json of a run
    settings: Mapping[str, Any] = field(default_factory=dict)  # of a run, or of a sweep's metrics file

    @property
    def seed(self) -> int | None:
        """The seed of the training, None if it was not trained here."""
        seed: int | None = self.settings.get("seed")
        return seed if seed is not None or self.result is None else self.result.provenance.get("seed")

    @property
    def title(self) -> str:
        """The name, with the seed if there is one."""
        return self.name if self.seed is None else f"{self.name}, seed {self.seed}"

    @property
    def images(self) -> Mapping[str, Any]:
        """The identity of the training images, {} if unknown."""
        if "made_of" in self.record:
            identity: Mapping[str, Any] = self.record["made_of"]["dataset"]
            return identity
        return self.store.split("train").dataset if self.store and "train" in self.store.splits else {}


def load_systems(targets: Sequence[Path]) -> list[System]:
    """Load the targets; a sweep's recipe means all of its trials.

    Runs with the same name that differ in a setting get it appended to their names.
    Raises WrongUse for a target of another kind, PipelineError for a damaged record.
    """
    systems: list[System] = []
    for target in targets:
        systems += _load_sweep(target) if target.suffix == ".toml" else [_load(target)]
    return _with_distinct_names(systems)


def teacher_store(run: System, systems: Sequence[System]) -> Store | None:
    """Return the cache that a run was trained from, among the systems or at its recorded path; None if it is gone."""
    cache_id = run.record.get("made_of", {}).get("cache")
    if not cache_id:
        return None
    for other in systems:
        if other.store and other.store.id == cache_id:
            return other.store
    return _open_if_exists(Path(run.settings["cache"]), cache_id) if "cache" in run.settings else None


def _load_sweep(path: Path) -> Iterator[System]:
    """Yield a sweep's existing reference stores and trials; a trial is named by its row."""
    recipe = read_recipe(path)
    for store in recipe.references:
        if store.is_dir():
            yield _load(store)
    for trial in recipe.trials:
        run, metrics = recipe.runs / trial.name, recipe.result_path(trial.name)
        if (run / "config.json").is_file():
            yield replace(_load(run), name=trial.row)
        elif metrics.is_file():
            yield _load(metrics)


def _load(path: Path) -> System:
    if path.suffix == ".json":
        result, content = load_metrics(path), json.loads(path.read_text(encoding="utf-8"))
        return System(
            path=path,
            name=result.name,
            role=result.role,
            result=result,
            evaluations=read_evaluations(path),
            settings=content.get("settings", {}),
        )
    if not path.is_dir():
        raise WrongUse(f"there is no {path}; name run folders, caches, metrics files or sweep recipes")
    target = target_of(path)
    record = read_config(path) if target.run else {}
    metrics = metrics_path(path)
    return System(
        path=path,
        name=target.name,
        role=target.role,
        result=load_metrics(metrics) if metrics.is_file() else None,
        store=_open_if_exists(target.store),
        evaluations=read_evaluations(metrics),
        record=record,
        settings=_settings(record) if record else {},
    )


def _settings(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return a run's settings, with defaults for those that were added after it was created."""
    plain: dict[str, Any] = json.loads(json.dumps(defaults(CONFIGS[record["command"]])))
    return {**plain, **modernized(record["config"])}


def _open_if_exists(path: Path, store_id: str | None = None) -> Store | None:
    """Return the store at a path, or None if it does not exist or does not have the given id."""
    try:
        store = open_store(path)
    except StoreError:
        return None
    return store if store_id in (None, store.id) else None


def _with_distinct_names(systems: list[System]) -> list[System]:
    renamed = []
    for system in systems:
        namesakes = [other for other in systems if (other.name, other.role) == (system.name, system.role)]
        name = ", ".join([system.name, *_differing([other.settings for other in namesakes], system.settings)])
        result = system.result and replace(system.result, name=name)
        renamed.append(replace(system, name=name, result=result))
    return renamed


def _differing(namesakes: Sequence[Mapping[str, Any]], own: Mapping[str, Any]) -> list[str]:
    """Return a system's settings that differ among its namesakes, such as ["tau 0.02"]."""
    differing = []
    for key in own:
        values = {repr(settings[key]) for settings in namesakes if key in settings}
        if key not in NOT_COMPARED and len(values) > 1:
            differing.append(f"{key} {own[key]}")
    return differing
