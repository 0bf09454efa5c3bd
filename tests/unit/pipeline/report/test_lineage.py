import json
from pathlib import Path

from report_targets import write_run, write_store

from cache.reader import open_store
from pipeline.images.dataset import open_dataset
from pipeline.report.lineage import lineage
from pipeline.report.systems import load_systems
from pipeline.results.plain_text import plain


def test_every_id_from_the_dataset_to_the_metrics_is_told(tmp_path: Path, packed: Path) -> None:
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


def test_without_a_dataset_the_runs_tell_its_id(tmp_path: Path, packed: Path) -> None:
    dataset = open_dataset(packed)
    run = write_run(tmp_path / "run", dataset, write_store(tmp_path / "cache.zarr", dataset), store=False)
    told = lineage(load_systems([run]), None).dataset["images of the training split"]
    assert told == dataset.splits["train"].identity["images"][:16]


def test_a_record_of_an_older_run_is_told_as_far_as_it_goes(tmp_path: Path, packed: Path) -> None:
    dataset = open_dataset(packed)
    run = write_run(tmp_path / "run", dataset, write_store(tmp_path / "cache.zarr", dataset), nn1=None)
    record = json.loads((run / "config.json").read_text())
    del record["provenance"], record["made_of"]["teacher"], record["config"]["tau"]
    (run / "config.json").write_text(json.dumps(record))
    found = lineage(load_systems([run]), dataset)
    assert "tau" not in found.settings
    assert not any(key.startswith(("trained", "evaluated")) for key in found.systems[0][1])


def test_values_as_text() -> None:
    assert plain({"mean": [0.4980392156862745, 0.5], "crop": 96}) == "mean 0.498039 0.5, crop 96"
