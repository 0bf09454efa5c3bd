"""The teachers and students whose neighbours are shown side by side, each with a store of the images shown."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from cache.errors import StoreError
from cache.reader import Store, open_store
from cache.user_folder import as_typed
from pipeline.evaluate.embedded_runs import checked_store, embed_run
from pipeline.evaluate.run import load_targets
from pipeline.images.dataset import Dataset
from pipeline.results.distinct_names import distinct_names
from pipeline.results.run_record import read_config
from pipeline.results.targets import Target, target_of
from pipeline.settings.browse import BrowseConfig
from pipeline.settings.local_path import local_path


@dataclass(frozen=True, kw_only=True)
class Side:
    """One teacher or student. run: a student's folder. teacher: the place of a student's teacher among all sides."""

    name: str
    role: str
    store: Store
    run: Path | None = None
    teacher: int | None = None


def open_sides(config: BrowseConfig, dataset: Dataset) -> list[Side]:
    """Open the targets' stores, teachers before students, and embed what is missing of a run.

    A run's teacher is added if its cache is where the run found it. Raises as `eval`: WrongUse for a target that is
    neither a run nor a cache, StoreError for a store of other images.
    """
    targets, stores = load_targets(config.targets), {}
    targets += missing_teachers(targets, dataset, config.split)
    for target in targets:
        stores[target.path] = (
            embed_run(target.run, dataset, config, splits=(config.split,))
            if target.run
            else checked_store(open_store(target.store, views=1), dataset, (config.split,))
        )
    targets.sort(key=lambda target: target.run is not None)
    sides = [
        Side(name=name, role=target.role, store=stores[target.path], run=target.run)
        for name, target in zip(unique_names(targets), targets, strict=True)
    ]
    return [replace(side, teacher=teacher_of(side, sides)) for side in sides]


def missing_teachers(targets: Sequence[Target], dataset: Dataset, split: str) -> list[Target]:
    """Return the caches that the runs were distilled from, if they hold these images and are not targets already.

    Of a cache that a run recorded by its URL, only a local copy is looked at: nothing is downloaded.
    """
    found: dict[str, Target] = {}
    known = {open_store(target.store).id for target in targets if target.run is None}
    for run in [target.run for target in targets if target.run]:
        record = read_config(run)
        cache_id, recorded = record["made_of"].get("cache"), record["config"].get("cache")
        if not (cache_id and recorded) or cache_id in known:
            continue
        path = local_path(recorded, url=True)
        try:
            store = open_store(path, views=1)
            same = split in store.splits and not dataset.split(split).difference_from(
                store.split(split).dataset
            )
        except StoreError:  # it was moved or deleted, which is no error: the student can be shown alone
            continue
        if same and store.id == cache_id:
            found.setdefault(cache_id, target_of(path))
    return list(found.values())


def teacher_of(side: Side, sides: Sequence[Side]) -> int | None:
    """Return the place of the cache that a run was distilled from, or None."""
    cache_id = read_config(side.run)["made_of"].get("cache") if side.run else None
    ids = [other.store.id if other.run is None else None for other in sides]
    return ids.index(cache_id) if cache_id and cache_id in ids else None


def unique_names(targets: Sequence[Target]) -> list[str]:
    """Return a name for each target: as in a table, with the seed or else the path where that is not enough."""
    names = distinct_names([target.candidate for target in targets])
    seeded = [
        f"{name}, seed {target.seed}" if names.count(name) > 1 else name
        for name, target in zip(names, targets, strict=True)
    ]
    return [
        f"{name} ({as_typed(target.path)})" if seeded.count(name) > 1 else name
        for name, target in zip(seeded, targets, strict=True)
    ]
