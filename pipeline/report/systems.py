"""What a report is about: runs, caches and metrics files, each with its settings, its numbers and its store."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from cache.errors import StoreError
from cache.reader import Store, open_store
from pipeline.errors import WrongUse
from pipeline.report.markdown import record_of
from pipeline.results.metrics_file import Evaluation, read
from pipeline.results.records import Result, load_metrics, metrics_of
from pipeline.results.run_record import FREE_SETTINGS, read_config
from pipeline.results.targets import target_of
from pipeline.settings.commands import DistillConfig, PretrainConfig
from pipeline.settings.field import defaults
from pipeline.sweeps.recipe import read_recipe

CONFIGS = {"distill": DistillConfig, "pretrain": PretrainConfig}
UNTOLD = (*FREE_SETTINGS, "seed")  # settings that do not make another system


@dataclass(frozen=True, kw_only=True)
class System:
    """One target of a report. result is None before it was evaluated, store before it was embedded."""

    path: Path
    name: str
    role: str
    result: Result | None = None
    store: Store | None = None
    evaluations: Sequence[Evaluation] = ()  # what the result is put together of
    record: Mapping[str, Any] = field(default_factory=dict)  # a run's config.json
    settings: Mapping[str, Any] = field(default_factory=dict)  # a run's, or a sweep's for a metrics file

    @property
    def seed(self) -> int | None:
        """The seed of its training, None for what was not trained here."""
        seed: int | None = self.settings.get("seed")
        return seed if seed is not None or self.result is None else self.result.provenance.get("seed")

    @property
    def title(self) -> str:
        """Its name, and its seed where it was trained."""
        return self.name if self.seed is None else f"{self.name}, seed {self.seed}"

    @property
    def images(self) -> Mapping[str, Any]:
        """The identity of the training images, empty where it is not known."""
        if "made_of" in self.record:
            found: Mapping[str, Any] = self.record["made_of"]["dataset"]
            return found
        return self.store.split("train").dataset if self.store and "train" in self.store.splits else {}


def load_systems(targets: Sequence[Path]) -> list[System]:
    """Each target with what is there of it, of a sweep's recipe every trial.

    Runs of one name that differ in a setting are told apart by it.
    Raises WrongUse for a target that is nothing of the kind, PipelineError for a record that cannot be read.
    """
    return _told_apart(
        [
            system
            for target in targets
            for system in (_of_sweep(target) if target.suffix == ".toml" else [_load(target)])
        ]
    )


def teacher_store(run: System, systems: Sequence[System]) -> Store | None:
    """The cache that a run learnt from: among the systems, or where the run found it; None if it is there no more."""
    wanted = run.record.get("made_of", {}).get("cache")
    for other in systems:
        if wanted and other.store and other.store.id == wanted:
            return other.store
    return _opened(Path(run.settings["cache"]), wanted) if wanted and "cache" in run.settings else None


def _of_sweep(path: Path) -> Iterator[System]:
    """The stores that a recipe refers to and its trials, as far as they are there; a trial has its row's name."""
    recipe = read_recipe(path)
    for store in recipe.references:
        if store.is_dir():
            yield _load(store)
    for trial in recipe.trials:
        run, kept = recipe.runs / trial.name, record_of(recipe, trial.name)
        if (run / "config.json").is_file():
            yield replace(_load(run), name=trial.row)
        elif kept.is_file():
            yield _load(kept)


def _load(path: Path) -> System:
    if path.suffix == ".json":
        result, found = load_metrics(path), json.loads(path.read_text(encoding="utf-8"))
        return System(
            path=path,
            name=result.name,
            role=result.role,
            result=result,
            evaluations=read(path),
            settings=found.get("settings", {}),
        )
    if not path.is_dir():
        raise WrongUse(f"there is no {path}; name run folders, caches, metrics files or recipes of sweeps")
    target = target_of(path)
    record = read_config(path) if target.run else {}
    metrics = metrics_of(path)
    return System(
        path=path,
        name=target.name,
        role=target.role,
        result=load_metrics(metrics) if metrics.is_file() else None,
        store=_opened(target.store),
        evaluations=read(metrics),
        record=record,
        settings=_settings(record) if record else {},
    )


def _settings(record: Mapping[str, Any]) -> dict[str, Any]:
    """A run's settings; what is younger than the run counts as its default."""
    plain: dict[str, Any] = json.loads(json.dumps(defaults(CONFIGS[record["command"]])))
    return {**plain, **record["config"]}


def _opened(path: Path, wanted: str | None = None) -> Store | None:
    """The store at `path` if there is one, of the id `wanted` if one is."""
    try:
        store = open_store(path)
    except StoreError:
        return None
    return store if wanted in (None, store.id) else None


def _told_apart(systems: list[System]) -> list[System]:
    named = []
    for system in systems:
        alike = [other for other in systems if (other.name, other.role) == (system.name, system.role)]
        more = _differing([other.settings for other in alike], system.settings)
        name = ", ".join([system.name, *more])
        result = system.result and replace(system.result, name=name)
        named.append(replace(system, name=name, result=result))
    return named


def _differing(alike: Sequence[Mapping[str, Any]], own: Mapping[str, Any]) -> list[str]:
    """ "tau 0.02" and the like: the settings in which some of these are known to differ, as one of them has them."""
    found = []
    for key in own:
        values = {repr(settings[key]) for settings in alike if key in settings}
        if key not in UNTOLD and len(values) > 1:
            found.append(f"{key} {own[key]}")
    return found
