"""The systems of a report: runs, caches and metrics files, each with its settings, metrics and store."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from cache.errors import StoreError
from cache.reader import Store, open_store
from pipeline.errors import WrongUse
from pipeline.results.distinct_names import Candidate, distinct_names
from pipeline.results.metrics_file import Evaluation, read_evaluations, recorded_path
from pipeline.results.records import Result, is_run, load_metrics, metrics_path
from pipeline.results.run_record import read_config
from pipeline.results.targets import NOT_COMPARED, run_settings, target_of
from pipeline.settings.local_path import local_path
from pipeline.sweeps.recipe import read_recipe


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
    compared: Mapping[str, Any] = field(default_factory=dict)  # what tells it from others of the same name

    @property
    def seed(self) -> int | None:
        """The seed of the training, None if it was not trained here."""
        seed: int | None = self.settings.get("seed")
        return seed if seed is not None or self.result is None else self.result.provenance.get("seed")

    @property
    def candidate(self) -> Candidate:
        """The system as one that needs a name in a table."""
        dataset = self.result.provenance.get("dataset") if self.result else None
        return Candidate(
            name=self.name,
            role=self.role,
            path=self.path,
            seed=self.seed,
            dataset=dataset,
            settings=self.compared,
        )

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
    """Load the targets; a sweep's recipe means all of its trials. What is named twice is loaded once.

    Different systems get distinct names, see `distinct_names`.
    Raises WrongUse for a target of another kind, PipelineError for a damaged record.
    """
    systems: dict[Path, System] = {}
    for target in targets:
        if target.suffix == ".toml":
            # as part of a sweep, a run has its row's name, also if it is named on its own before
            systems |= {metrics_path(system.path).resolve(): system for system in _load_sweep(target)}
        else:
            systems.setdefault(metrics_path(target).resolve(), load_system(target))
    return with_distinct_names(list(systems.values()))


def teacher_store(run: System, systems: Sequence[System]) -> Store | None:
    """Return the cache that a run was trained from, among the systems or at its recorded path; None if it is gone.

    Caches of one teacher share their id: one of the run's images is preferred.
    """
    cache_id = run.record.get("made_of", {}).get("cache")
    if not cache_id:
        return None
    found = [other.store for other in systems if other.store and other.store.id == cache_id]
    same = [
        store for store in found if "train" in store.splits and store.split("train").dataset == run.images
    ]
    if "cache" in run.settings and not same:
        same = [
            store
            for store in [_open_if_exists(local_path(run.settings["cache"], url=True), cache_id)]
            if store
        ]
    return next(iter([*same, *found]), None)


def _load_sweep(path: Path) -> Iterator[System]:
    """Yield a sweep's existing reference stores and trials; a trial is named by its row."""
    recipe = read_recipe(path)
    for store in recipe.references:
        metrics = recipe.reference_path(store)
        if store.is_dir() or metrics.is_file():
            yield load_system(store if store.is_dir() else metrics)
    for trial in recipe.trials:
        run, metrics = recipe.runs / trial.name, recipe.result_path(trial.name)
        if is_run(run):
            yield replace(load_system(run), name=trial.row)
        elif metrics.is_file():
            yield load_system(metrics)


def load_system(path: Path) -> System:
    """Load a run, a cache or a metrics file. Raises as `load_systems`."""
    if path.suffix == ".json":
        result, content = load_metrics(path), json.loads(path.read_text(encoding="utf-8"))
        settings = {key.replace("-", "_"): value for key, value in content.get("settings", {}).items()}
        return System(
            path=path,
            name=result.name,
            role=result.role,
            result=result,
            evaluations=read_evaluations(path),
            settings=settings,
            compared={key: value for key, value in settings.items() if key not in NOT_COMPARED},
        )
    if not path.is_dir():
        raise WrongUse(f"there is no {path}; name run folders, caches, metrics files or sweep recipes")
    target = target_of(path)
    record = read_config(path) if target.run else {}
    metrics = recorded_path(path)
    return System(
        path=path,
        name=target.name,
        role=target.role,
        result=load_metrics(metrics) if metrics.is_file() else None,
        store=_open_if_exists(target.store),
        evaluations=read_evaluations(metrics),
        record=record,
        settings=run_settings(record) if record else {},
        compared=target.compared,
    )


def _open_if_exists(path: Path, store_id: str | None = None) -> Store | None:
    """Return the store at a path, or None if it does not exist or does not have the given id."""
    try:
        store = open_store(path, views=1)
    except StoreError:
        return None
    return store if store_id in (None, store.id) else None


def with_distinct_names(systems: Sequence[System]) -> list[System]:
    """Return the systems, and their results, with names that tell different ones apart; see `distinct_names`."""
    names = distinct_names([system.candidate for system in systems])
    return [
        replace(system, name=name, result=system.result and replace(system.result, name=name))
        for system, name in zip(systems, names, strict=True)
    ]
