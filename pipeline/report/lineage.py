"""The lineage of every number on a page: dataset -> cache -> run -> store -> metrics, each with its id."""

from collections.abc import Sequence
from dataclasses import dataclass

from cache.reader import Store
from pipeline.images.dataset import Dataset
from pipeline.report.systems import System, teacher_store
from pipeline.results.plain_text import plain, plain_fields

Facts = dict[str, str]  # name -> value as text
SHORT = 16  # digits of an id that are shown


@dataclass(frozen=True, kw_only=True)
class Lineage:
    """Facts about the dataset, each cache (by id) and each system; the settings of all runs side by side."""

    dataset: Facts
    caches: dict[str, Facts]
    systems: list[tuple[str, Facts]]
    settings: dict[str, list[str]]
    runs: list[str]


def lineage(systems: Sequence[System], dataset: Dataset | None) -> Lineage:
    """Collect everything that is recorded about the systems' origin."""
    stores = [system.store for system in systems if system.role in ("teacher", "pixels")]
    stores += [teacher_store(system, systems) for system in systems if system.role == "student"]
    runs = [system for system in systems if system.record]
    keys = dict.fromkeys(key for run in runs for key in run.record["config"] if key != "run")
    return Lineage(
        dataset=dataset_facts(systems, dataset),
        caches=caches_of([store for store in stores if store]),
        systems=[(system.title, system_facts(system)) for system in systems],
        settings={key: [plain(run.record["config"].get(key, "-")) for run in runs] for key in keys},
        runs=[run.title for run in runs],
    )


def dataset_facts(systems: Sequence[System], dataset: Dataset | None) -> Facts:
    """Return the facts about the page's dataset; without one, the ids of the systems' training images."""
    if dataset is None:
        ids = dict.fromkeys(str(system.images["images"])[:SHORT] for system in systems if system.images)
        return {"training images": ", ".join(ids) or "not recorded"}
    facts = {"folder": str(dataset.path), "images": str(dataset.data)}
    for name, split in dataset.splits.items():
        classes = f", {len(split.classes):,} classes" if split.classes else ""
        facts[name] = f"{split.rows:,} images{classes}, id {split.identity['images'][:SHORT]}"
    return facts


def caches_of(stores: Sequence[Store]) -> dict[str, Facts]:
    """Return the facts about each cache by its id; caches of one teacher, which share it, also by their paths."""
    caches: dict[str, Facts] = {}
    for path, store in {store.path.resolve(): store for store in stores}.items():
        id = store.id[:SHORT]
        caches[f"{id}, {path.name}" if id in caches else id] = cache_facts(store)
    return caches


def cache_facts(store: Store) -> Facts:
    """Return the identity of a store."""
    return {"path": str(store.path), **plain_fields({**store.origin, **store.teacher})}


def system_facts(system: System) -> Facts:
    """Return a run's cache, training provenance and store, and every system's evaluations."""
    facts = {"path": str(system.path)}
    if system.record:
        made_of = system.record["made_of"]
        facts["cache"] = str(made_of.get("cache", "none"))[:SHORT]
        provenance = plain_fields(system.record.get("provenance", {}))
        facts |= {f"trained: {key}": value for key, value in provenance.items()}
    if system.store:
        facts["store"] = system.store.id[:SHORT]
    for evaluation in system.evaluations:
        provenance = plain_fields(evaluation.provenance)
        title = "evaluated: " + ", ".join(evaluation.metrics)
        facts[title] = "; ".join(f"{key} {value}" for key, value in provenance.items())
    return facts
