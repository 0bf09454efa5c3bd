"""Runs, caches, metrics files and recipes become systems with distinct names."""

import json
from pathlib import Path

import pytest

from pipeline.errors import PipelineError, WrongUse
from pipeline.images.dataset import open_dataset
from pipeline.report.comparison import results
from pipeline.report.systems import load_systems, teacher_store
from pipeline.results.records import metrics_path
from pipeline.sweeps.recipe import read_recipe
from tests.support.report_targets import write_metrics, write_run, write_store


def test_runs_of_one_name_are_told_apart_by_what_differs_but_not_by_their_seeds(
    tmp_path: Path, packed: Path
) -> None:
    dataset = open_dataset(packed)
    cache = write_store(tmp_path / "cache.zarr", dataset)
    runs = [
        write_run(tmp_path / f"run{number}", dataset, cache, store=False, tau=tau, seed=seed)
        for number, (tau, seed) in enumerate([(0.04, 0), (0.04, 1), (0.1, 0)])
    ]
    systems = load_systems(runs)
    assert [system.name for system in systems] == ["resnet18 1q, tau 0.04"] * 2 + ["resnet18 1q, tau 0.1"]
    assert [system.seed for system in systems] == [0, 1, 0]
    assert all(system.result and system.result.name == system.name for system in systems)


def test_a_run_alone_keeps_its_name_and_may_lack_embeddings_and_metrics(tmp_path: Path, packed: Path) -> None:
    dataset = open_dataset(packed)
    cache = write_store(tmp_path / "cache.zarr", dataset)
    (system,) = load_systems([write_run(tmp_path / "run", dataset, cache, nn1=None, store=False)])
    assert (system.name, system.role, system.result, system.store) == ("resnet18 1q", "student", None, None)
    assert system.images == dataset.splits["train"].identity


def test_a_runs_teacher_is_the_cache_of_its_id(tmp_path: Path, packed: Path) -> None:
    dataset = open_dataset(packed)
    cache = write_store(tmp_path / "cache.zarr", dataset)
    other = write_store(tmp_path / "other.zarr", dataset, seed=5)
    run = write_run(tmp_path / "run", dataset, cache, store=False)
    systems = load_systems([other, cache, run])
    found = teacher_store(systems[2], systems)
    assert found is not None
    assert found.path == cache
    assert teacher_store(systems[2], systems[2:]) is not None, "the run knows where its cache was"
    cache.rename(tmp_path / "away.zarr")
    other.rename(cache)
    assert teacher_store(systems[2], load_systems([run])) is None, (
        "another store in its place is not its teacher"
    )


def test_a_metrics_file_brings_its_settings(tmp_path: Path) -> None:
    path = write_metrics(tmp_path / "a.json", "1q", {"nn1": 0.5}, seed=3)
    path.write_text(json.dumps({**json.loads(path.read_text()), "settings": {"tau": 0.1, "seed": 3}}))
    (system,) = load_systems([path])
    assert system.settings["tau"] == 0.1
    assert system.seed == 3
    assert [*system.evaluations[0].metrics] == ["nn1"]


def test_what_is_no_target_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WrongUse, match="there is no"):
        load_systems([tmp_path / "nothing"])
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(PipelineError, match="not JSON"):
        load_systems([tmp_path / "bad.json"])


def test_a_setting_that_is_younger_than_a_run_makes_no_other_system_of_it(
    tmp_path: Path, packed: Path
) -> None:
    dataset = open_dataset(packed)
    cache = write_store(tmp_path / "cache.zarr", dataset)
    old = write_run(tmp_path / "old", dataset, cache, store=False)
    new = write_run(
        tmp_path / "new", dataset, cache, store=False, seed=1, negatives=16_384, crop_scale=[0.08, 1.0]
    )
    assert [system.name for system in load_systems([old, new])] == ["resnet18 1q"] * 2


RECIPE = """
dataset = "{dataset}"
cache = "{cache}"
references = ["{cache}"]
runs = "{root}/runs"
results = "{root}/results"
protocol = ["nn"]
[grid]
seed = [0, 1, 2]
[[row]]
name = "ours"
objective = "1q"
"""


def test_a_recipe_stands_for_what_is_there_of_its_sweep(tmp_path: Path, packed: Path) -> None:
    dataset = open_dataset(packed)
    cache = write_store(tmp_path / "cache.zarr", dataset)
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(RECIPE.format(dataset=packed, cache=cache, root=tmp_path))
    first, second, _ = (trial.name for trial in read_recipe(recipe).trials)
    write_run(tmp_path / "runs" / first, dataset, cache, store=False)
    (tmp_path / "results").mkdir()
    write_metrics(tmp_path / "results" / f"{second}.json", "ours", {"nn1": 0.7}, seed=1)
    found = [(system.name, system.seed) for system in load_systems([recipe])]
    assert found == [("teacher planted", None), ("ours", 0), ("ours", 1)]


def test_a_run_of_a_sweep_that_is_named_on_its_own_too_counts_once(tmp_path: Path, packed: Path) -> None:
    dataset = open_dataset(packed)
    cache = write_store(tmp_path / "cache.zarr", dataset)
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(RECIPE.format(dataset=packed, cache=cache, root=tmp_path))
    run = write_run(tmp_path / "runs" / read_recipe(recipe).trials[0].name, dataset, cache, store=False)
    for targets in ([run, cache, recipe], [recipe, cache, run, tmp_path / "runs" / ".." / "cache.zarr"]):
        found = sorted((system.name, system.seed) for system in load_systems(targets) if system.seed != 1)
        assert found == [("ours", 0), ("teacher planted", None)]


def test_equal_runs_and_caches_are_told_apart_by_their_folders(tmp_path: Path, packed: Path) -> None:
    dataset = open_dataset(packed)
    caches = [write_store(tmp_path / name, dataset) for name in ("v.s", "v.b")]
    for cache in caches:
        write_metrics(metrics_path(cache), "teacher planted", {"nn1": 0.9}, seed=None, role="teacher")
    runs = [write_run(tmp_path / place / "run", dataset, caches[0], store=False) for place in "xy"]
    systems = load_systems([*caches, *runs])
    names = ["teacher planted (v.s)", "teacher planted (v.b)", "resnet18 1q (x/run)", "resnet18 1q (y/run)"]
    assert [system.name for system in systems] == names
    assert [name for name, _ in results(systems).table.rows] == names


def test_runs_from_two_caches_are_named_by_these_and_their_seeds_stay_together(
    tmp_path: Path, packed: Path
) -> None:
    dataset = open_dataset(packed)
    caches = [write_store(tmp_path / f"{name}.zarr", dataset, seed=seed) for seed, name in enumerate("xy")]
    runs = [
        write_run(tmp_path / f"{seed}{cache.stem}", dataset, cache, store=False, seed=seed)
        for cache in caches
        for seed in (0, 1)
    ]
    names = [f"resnet18 1q, cache {name}.zarr" for name in "xxyy"]
    assert [system.name for system in load_systems(runs)] == names
