"""The lineage has every id from the dataset to the metrics."""

import json
from pathlib import Path

from cache.reader import open_store
from pipeline.images.dataset import open_dataset
from pipeline.report.lineage import lineage
from pipeline.report.systems import load_systems
from tests.support.report_targets import write_run, write_store


def test_the_lineage_has_every_id_from_the_dataset_to_the_metrics(tmp_path: Path, packed: Path) -> None:
    dataset = open_dataset(packed)
    cache = write_store(tmp_path / "cache.zarr", dataset, name="demo")
    runs = [write_run(tmp_path / f"{seed}", dataset, cache, seed=seed) for seed in (0, 1)]
    found = lineage(load_systems(runs), dataset)
    images = dataset.splits["train"].identity["images"][:16]
    assert found.dataset["train"] == f"160 images, 4 classes, id {images}"
    # The cache was not named: the runs know it.
    (id,) = found.caches
    assert open_store(cache).id.startswith(id)
    assert found.caches[id]["name"] == "demo"
    (name, facts), _ = found.systems
    assert (name, facts["cache"], facts["trained: commit"]) == ("resnet18 1q, seed 0", id, "c0ffee")
    assert open_store(runs[0] / "embeddings.zarr").id.startswith(facts["store"])
    assert "python cli.py eval <RUN>" in facts["evaluated: nn1, linear"]
    assert found.runs == ["resnet18 1q, seed 0", "resnet18 1q, seed 1"]
    assert found.settings["tau"] == ["0.04", "0.04"]
    assert found.settings["seed"] == ["0", "1"]


def test_caches_of_one_teacher_are_both_listed(tmp_path: Path, packed: Path) -> None:
    dataset = open_dataset(packed)
    caches = [write_store(tmp_path / name, dataset) for name in ("a.zarr", "b.zarr")]
    found = lineage(load_systems(caches), dataset).caches
    assert [facts["path"] for facts in found.values()] == [str(cache) for cache in caches]


def test_without_a_dataset_its_id_comes_from_the_runs(tmp_path: Path, packed: Path) -> None:
    dataset = open_dataset(packed)
    run = write_run(tmp_path / "run", dataset, write_store(tmp_path / "cache.zarr", dataset), store=False)
    recorded = lineage(load_systems([run]), None).dataset["training images"]
    assert recorded == dataset.splits["train"].identity["images"][:16]


def test_an_older_runs_record_is_shown_as_far_as_it_goes(tmp_path: Path, packed: Path) -> None:
    dataset = open_dataset(packed)
    run = write_run(tmp_path / "run", dataset, write_store(tmp_path / "cache.zarr", dataset), nn1=None)
    record = json.loads((run / "config.json").read_text())
    del record["provenance"], record["made_of"]["teacher"], record["config"]["tau"]
    (run / "config.json").write_text(json.dumps(record))
    found = lineage(load_systems([run]), dataset)
    assert "tau" not in found.settings
    assert not any(key.startswith(("trained", "evaluated")) for key in found.systems[0][1])
