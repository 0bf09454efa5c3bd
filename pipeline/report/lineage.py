"""Where every number of a page comes from: dataset -> cache -> run -> store -> metrics, each by its id."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cache.reader import Store
from pipeline.images.dataset import Dataset
from pipeline.report.systems import System, teacher_store
from pipeline.results.plain_text import plain

Facts = dict[str, str]  # what is told of a thing -> as text
SHORT = 16  # digits of an id that tell it from all others


@dataclass(frozen=True, kw_only=True)
class Lineage:
    """Facts of the dataset, of each cache by its id and of each system; settings of the runs side by side."""

    dataset: Facts
    caches: dict[str, Facts]
    systems: list[tuple[str, Facts]]
    settings: dict[str, list[str]]
    runs: list[str]


def lineage(systems: Sequence[System], dataset: Dataset | None) -> Lineage:
    """All that was recorded of what the systems were made of."""
    stores = [system.store for system in systems if system.role in ("teacher", "pixels")]
    stores += [teacher_store(system, systems) for system in systems if system.role == "student"]
    runs = [system for system in systems if system.record]
    keys = dict.fromkeys(key for run in runs for key in run.record["config"] if key != "run")
    return Lineage(
        dataset=dataset_facts(systems, dataset),
        caches={store.id[:SHORT]: cache_facts(store) for store in stores if store},
        systems=[(system.title, system_facts(system)) for system in systems],
        settings={key: [plain(run.record["config"].get(key, "-")) for run in runs] for key in keys},
        runs=[run.title for run in runs],
    )


def dataset_facts(systems: Sequence[System], dataset: Dataset | None) -> Facts:
    """The images of the page's dataset, else the ids of the images that the systems say they are of."""
    if dataset is None:
        ids = dict.fromkeys(str(system.images["images"])[:SHORT] for system in systems if system.images)
        return {"images of the training split": ", ".join(ids) or "not recorded"}
    facts = {"folder": str(dataset.path), "images": str(dataset.data)}
    for name, split in dataset.splits.items():
        classes = f", {len(split.classes):,} classes" if split.classes else ""
        facts[name] = f"{split.rows:,} images{classes}, id {split.identity['images'][:SHORT]}"
    return facts


def cache_facts(store: Store) -> Facts:
    """What made a store, as its identity tells it."""
    identity = {key: plain(value) for key, value in {**store.origin, **store.teacher}.items()}
    return {"path": str(store.path), **identity}


def system_facts(system: System) -> Facts:
    """Of a run: its cache, training and store; of every system: its evaluation."""
    facts = {"path": str(system.path)}
    if system.record:
        made_of = system.record["made_of"]
        facts["cache"] = str(made_of.get("cache", "none"))[:SHORT]
        facts |= {
            f"trained: {key}": told for key, told in origin(system.record.get("provenance", {})).items()
        }
    if system.store:
        facts["store"] = system.store.id[:SHORT]
    for evaluation in system.evaluations:
        of = "evaluated: " + ", ".join(evaluation.metrics)
        facts[of] = "; ".join(f"{key} {told}" for key, told in origin(evaluation.provenance).items())
    return facts


def origin(provenance: Mapping[str, Any]) -> Facts:
    """Command, commit, date, machine, versions and what else stands in a record's provenance."""
    return {key: plain(value) for key, value in provenance.items() if value is not None}
