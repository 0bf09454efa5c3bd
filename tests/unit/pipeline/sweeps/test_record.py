"""A trial's record: what it says, and when the trial counts as done."""

import json
from pathlib import Path

import pytest

from cache.reader import open_store
from pipeline.errors import PipelineError
from pipeline.images.dataset import open_dataset
from pipeline.sweeps.recipe import SweepRecipe, read_recipe
from pipeline.sweeps.record import is_done, write_record


@pytest.fixture
def path(packed: Path, cached: Path, tmp_path: Path) -> Path:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(
        f'dataset = "{packed}"\ncache = "{cached}"\nruns = "{tmp_path / "runs"}"\nprotocol = ["nn"]\n'
        "[[row]]\nname = 'x'\n"
    )
    return recipe


def recorded(path: Path) -> tuple[SweepRecipe, Path]:
    """Record the recipe's only trial as if its run had been evaluated; return the recipe and the record."""
    recipe = read_recipe(path)
    (trial,) = recipe.trials
    run = recipe.runs / trial.name
    run.mkdir(parents=True)
    (run / "metrics.json").write_text('{"format": 1, "name": "x", "metrics": {"nn1": 0.5}}')
    write_record(recipe, trial, run, 3)
    return recipe, recipe.result_path(trial.name)


def done(path: Path) -> bool:
    recipe = read_recipe(path)
    return is_done(recipe, recipe.trials[0])


def test_it_names_what_the_run_was_made_of(path: Path, packed: Path, cached: Path) -> None:
    assert not done(path)
    content = json.loads(recorded(path)[1].read_text())
    assert content["made_of"] == {
        "command": "distill",
        "dataset": open_dataset(packed).split("train").identity["images"][:16],
        "cache": open_store(cached).id[:16],
    }
    assert (content["protocol"], content["seconds"], content["metrics"]) == (["nn"], 3, {"nn1": 0.5})
    assert done(path)


@pytest.mark.parametrize(
    ("old", "new", "differing"),
    [
        ("name = 'x'", "name = 'x'\nepochs = 3", "other settings than"),
        ("name = 'x'", "name = 'x'\ncommand = 'pretrain'", "other command than"),
    ],
)
def test_a_record_of_other_inputs_is_refused(path: Path, old: str, new: str, differing: str) -> None:
    recorded(path)
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(PipelineError, match=differing):
        done(path)


@pytest.mark.parametrize("key", ["cache", "dataset"])
def test_a_record_of_another_cache_or_dataset_is_refused(path: Path, key: str) -> None:
    _, record = recorded(path)
    content = json.loads(record.read_text())
    content["made_of"][key] = "0" * 16
    record.write_text(json.dumps(content))
    with pytest.raises(PipelineError, match=f"is of a run with other {key} than the recipe's"):
        done(path)


def test_without_the_inputs_the_record_is_all_that_is_left(path: Path, packed: Path, cached: Path) -> None:
    recorded(path)
    path.write_text(path.read_text().replace(str(packed), "gone").replace(str(cached), "gone.zarr"))
    assert done(path)


def test_a_further_protocol_is_still_to_do(path: Path) -> None:
    recorded(path)
    path.write_text(path.read_text().replace('["nn"]', '["nn", "ca"]'))
    assert not done(path)


def test_records_of_earlier_versions_count(path: Path) -> None:
    _, record = recorded(path)
    content = json.loads(record.read_text())
    record.write_text(json.dumps({k: v for k, v in content.items() if k not in ("made_of", "protocol")}))
    assert done(path)


@pytest.mark.parametrize("text", ["<<<<<<< HEAD", "[]", '{"made_of": 3}'])
def test_what_is_not_a_record_is_named(path: Path, text: str) -> None:
    _, record = recorded(path)
    record.write_text(text)
    with pytest.raises(PipelineError, match="is not a trial's record"):
        done(path)
