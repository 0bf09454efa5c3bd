"""What is evaluated and reported: run folders and caches."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cache.reader import Store, open_store
from pipeline.errors import PipelineError
from pipeline.results.distinct_names import Candidate, Input
from pipeline.results.records import is_run, metrics_path
from pipeline.results.run_record import FREE_SETTINGS, modernized, read_config
from pipeline.settings.field import defaults
from pipeline.settings.training import CONFIGS

NOT_COMPARED = (*FREE_SETTINGS, "seed")  # settings that do not make a different system


@dataclass(frozen=True, kw_only=True)
class Target:
    """A run folder, or a cache if `run` is None.

    store: its embeddings. metrics: its metrics file. compared: what tells it from other targets of the same name.
    """

    name: str
    role: str
    store: Path
    metrics: Path
    seed: int | None = None
    run: Path | None = None
    compared: Mapping[str, Any] = field(default_factory=dict)

    @property
    def path(self) -> Path:
        """The run folder or the cache."""
        return self.run or self.store

    @property
    def candidate(self) -> Candidate:
        """The target as one that needs a name in a table."""
        return Candidate(
            name=self.name, role=self.role, path=self.path, seed=self.seed, settings=self.compared
        )


def target_of(path: Path) -> Target:
    """Identify the run or cache at a path. Raises PipelineError or StoreError if it is neither."""
    if is_run(path):
        return run_target(path)
    store = open_store(path)
    name, role = f"teacher {store.teacher['architecture']}", "teacher"
    if store.teacher["architecture"].startswith("pixels"):
        name, role = "raw pixels", "pixels"
    elif "run" in store.origin:
        name, role = str(store.origin["run"]), "student"
    return Target(
        name=name,
        role=role,
        store=path,
        metrics=metrics_path(path),
        compared=compared_fields(store),
    )


def run_target(run: Path) -> Target:
    """Identify a run: distilled, trained from scratch, or untrained if it has no epochs."""
    record = read_config(run)
    config = record["config"]
    if missing := [name for name in ("student", "epochs", "seed") if name not in config]:
        raise PipelineError(
            f"the settings of the run {run} lack {', '.join(missing)}: its config.json was edited, name another run"
        )
    if config["epochs"] == 0:
        role = kind = "untrained"
    elif record["command"] == "pretrain":
        role, kind = "scratch", "from scratch (SimCLR)"
    else:
        role, kind = "student", config["objective"]
    return Target(
        name=f"{config['student']} {kind}",
        role=role,
        store=run / "embeddings.zarr",
        metrics=metrics_path(run),
        seed=config["seed"],
        run=run,
        compared=compared_settings(record),
    )


def run_settings(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return a run's settings, with defaults for those that were added after it was created."""
    plain: dict[str, Any] = json.loads(json.dumps(defaults(CONFIGS[record["command"]])))
    return {**plain, **modernized(record["config"])}


def compared_settings(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return what makes a run another system: its settings without the seed, its cache and its images."""
    settings = run_settings(record)
    found = {key: value for key, value in settings.items() if key not in NOT_COMPARED}
    made_of = record["made_of"]
    ids = {"cache": made_of.get("cache"), "dataset": made_of.get("dataset", {}).get("images")}
    inputs = {key: Input(id, Path(str(settings.get(key))).name) for key, id in ids.items() if id}
    return {**found, **inputs}


def compared_fields(store: Store) -> dict[str, Any]:
    """Return what makes a cache another system: the fields of its teacher's identity that a reader understands."""
    fields = {key: value for key, value in store.teacher.items() if key not in ("format", "code")}
    view = fields.pop("preprocessing", {})
    if isinstance(view, Mapping):
        fields |= {key: value for key, value in view.items() if key != "code"}
    if "weights" in fields:
        name = store.origin.get("file") or store.origin.get("name") or fields["weights"]
        fields["weights"] = Input(fields["weights"], str(name))
    return fields
