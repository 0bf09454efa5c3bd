"""The record of a trial: the metrics of its run, and what the run was made of."""

import json
from pathlib import Path
from typing import Any

from cache.durable import write_file
from cache.metadata import read_store
from pipeline.errors import PipelineError
from pipeline.images.dataset import open_dataset
from pipeline.images.dataset_json import DESCRIPTION
from pipeline.results.records import ID_DIGITS, is_store, metrics_path
from pipeline.sweeps.recipe import SweepRecipe, Trial


def is_done(recipe: SweepRecipe, trial: Trial) -> bool:
    """Whether a trial's metrics are recorded, for all of the recipe's protocols.

    Raises PipelineError if they are of a run with another command or settings, or of another dataset or cache than
    those that are there now. Records of earlier versions name no protocols, command, dataset and cache.
    """
    record = recipe.result_path(trial.name)
    if not record.exists():
        return False
    try:
        found = json.loads(record.read_text(encoding="utf-8"))
        settings, made_of = found.get("settings"), dict(found.get("made_of", {}))
    except (ValueError, AttributeError, TypeError) as error:
        raise PipelineError(
            f"{record} is not a trial's record ({error}): delete it, or restore it"
        ) from error
    differing = [key for key, value in inputs(recipe, trial).items() if made_of.get(key, value) != value]
    if settings != json.loads(json.dumps(trial.recorded)):
        differing.insert(0, "settings")
    if differing:
        raise PipelineError(
            f"{record} is of a run with other {' and '.join(differing)} than the recipe's: name other runs and results "
            "in the recipe, or delete that file and its run"
        )
    return set(recipe.protocol) <= set(found.get("protocol", recipe.protocol))


def write_record(recipe: SweepRecipe, trial: Trial, run: Path, seconds: int) -> None:
    """Record the metrics of a trial's run. seconds: that it trained."""
    metrics = json.loads(metrics_path(run).read_text(encoding="utf-8"))
    of_trial = {"name": trial.row, "settings": trial.recorded, "seconds": seconds}
    made = {"protocol": list(recipe.protocol), "made_of": inputs(recipe, trial)}
    write_json(recipe.result_path(trial.name), metrics | of_trial | made)


def inputs(recipe: SweepRecipe, trial: Trial) -> dict[str, str]:
    """Return a trial's command and, as far as they are there, the ids of its training images and its cache."""
    found = {"command": trial.command}
    if (recipe.dataset / DESCRIPTION).exists():
        images = open_dataset(recipe.dataset).split("train").identity["images"]
        found["dataset"] = images[:ID_DIGITS]
    cache = trial.cache or recipe.cache
    if trial.command == "distill" and is_store(cache):
        found["cache"] = read_store(cache, archive=True)["id"][:ID_DIGITS]
    return found


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a JSON file, atomically."""
    write_file(path, (json.dumps(content, indent=1) + "\n").encode())
