"""What a run folder says of its run before anything is opened: its settings, and whether it is finished."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from cache.durable import remove_leftovers_within
from cache.errors import InUse, StoreError
from cache.lock import sole_writer
from pipeline.errors import PipelineError, WrongUse
from pipeline.images.dataset import DatasetSplit
from pipeline.images.dataset_json import DESCRIPTION
from pipeline.models.checkpoints import load_safetensors
from pipeline.models.student_file import STUDENT_FILE
from pipeline.objectives.registry import entry_of, resolved
from pipeline.results.records import is_run
from pipeline.results.run_record import read_config, record_differences
from pipeline.runtime.device import resolve_device
from pipeline.runtime.distributed import is_main_process
from pipeline.runtime.outputs import require_writable_folder
from pipeline.runtime.precision import usual_precision
from pipeline.settings.field import as_json, defaults
from pipeline.settings.training import DistillConfig, PretrainConfig

RESUME_FILE = "resume.pt"
TENSORBOARD = "tensorboard"
NOT_ASKED_OF_THE_FINISHED = (
    "chunks",
    "objective_revision",
    "live_crops",
    "neighbours",
)  # identities that matter only while a run goes on

Config = TypeVar("Config", DistillConfig, PretrainConfig)


def dataset_identity(split: DatasetSplit, runs: Sequence[Path]) -> dict[str, Any]:
    """Return a split's identity for runs that use no labels: the one that a run recorded before labels were mended.

    Raises PipelineError for a damaged record.
    """
    recorded = [read_config(run)["made_of"].get("dataset") for run in runs if is_run(run)]
    former = [identity for identity in recorded if identity in split.formerly]
    return former[0] if former else split.identity


def is_trained(run: Path) -> bool:
    """Return whether a folder holds anything that was trained: a checkpoint or a student."""
    return any((run / name).exists() for name in (RESUME_FILE, STUDENT_FILE))


def is_begun(run: Path) -> bool:
    """Return whether a folder holds a run of which something was trained, so that its record stays."""
    return is_run(run) and is_trained(run)


def lock_run(run: Path, held: ExitStack, *, finished: bool) -> None:
    """Lock a run's folder for this process until `held` ends. A finished run in a read-only folder needs no lock.

    Raises InUse if another process writes to the folder, and StoreError if it cannot be locked.
    """
    try:
        held.enter_context(sole_writer(run))
    except InUse:
        raise
    except StoreError:
        if not finished:
            raise
    else:
        remove_leftovers_within(run)


def steps_of_complete(run: Path) -> int | None:
    """Return the number of steps of a run whose folder holds the student of its last step, unless that is damaged."""
    try:
        _, metadata = load_safetensors(run / STUDENT_FILE)
    except PipelineError:
        return None
    is_last = "steps" in metadata and metadata.get("step") == metadata["steps"]
    return int(metadata["steps"]) if is_last else None


def resolved_for_run(config: DistillConfig) -> DistillConfig:
    """Return `resolved` settings. A run that an earlier version began with its own defaults keeps those.

    Raises WrongUse as `resolved`, PipelineError for a damaged record.
    """
    usual, former = resolved(config), entry_of(config).former
    left_out = [name for name in former if getattr(config, name) is None]
    if not left_out or not is_run(config.run):
        return usual
    found = read_config(config.run)["config"]
    known = all(found.get(name) in (former[name], getattr(usual, name)) for name in left_out)
    if found.get("objective") != config.objective or not known:
        return usual
    return replace(usual, **{name: found[name] for name in left_out})


def recorded_setting(configs: Sequence[DistillConfig | PretrainConfig], name: str) -> Any:
    """Return a setting as the first of these runs that has begun recorded it; None if none has, or not this one."""
    begun = next((each.run for each in configs if is_begun(each.run)), None)
    return read_config(begun)["config"].get(name) if begun else None


def with_precision(configs: Sequence[Config]) -> tuple[Config, ...]:
    """Return settings with a precision: where none is given, that of the first run begun, else the device's."""
    precision = configs[0].amp_dtype or recorded_setting(configs, "amp_dtype")
    precision = precision or usual_precision(resolve_device(configs[0].device))
    return tuple(replace(each, amp_dtype=precision) for each in configs)


def are_finished(
    command: str, configs: Sequence[DistillConfig | PretrainConfig], made_of: Mapping[str, Any]
) -> bool:
    """Return whether every run is finished, and print that it is.

    Nothing goes on in a finished run, so the number of ranks and cores, the device, the versions and the cache's chunks
    do not matter.
    """
    steps = [finished_steps(command, config, made_of) for config in configs]
    if None in steps:
        return False
    if is_main_process():
        for config, count in zip(configs, steps, strict=True):
            print(f"{config.run} is finished: {count} steps", flush=True)
    return True


def finished_steps(
    command: str, config: DistillConfig | PretrainConfig, made_of: Mapping[str, Any]
) -> int | None:
    """Return the number of steps of a finished run of these settings and inputs; None for any other run."""
    run = config.run
    steps = steps_of_complete(run) if is_run(run) else None
    if steps is None:
        return None
    recorded = read_config(run)["made_of"]
    kept = {name: recorded[name] for name in NOT_ASKED_OF_THE_FINISHED if name in recorded}
    same = not record_differences(run, command, as_json(config), {**made_of, **kept}, defaults(type(config)))
    return steps if same else None


def require_writable_runs(runs: Sequence[Path]) -> None:
    """Raise WrongUse if a new run folder cannot be written, or is a store, a dataset or a folder of other folders.

    Of one with a record, its settings are compared first.
    """
    for run in runs:
        if not is_run(run):
            require_writable_folder(run)
            if other := _foreign(run):
                raise WrongUse(f"{run} holds {other}, so it is not the folder of a run; choose another path")


def _foreign(run: Path) -> str:
    """Return the name of something in a folder that a run does not write, or ""."""
    entries = sorted(run.iterdir()) if run.is_dir() else []
    others = [
        entry.name
        for entry in entries
        if entry.name in ("zarr.json", DESCRIPTION) or (entry.is_dir() and entry.name != TENSORBOARD)
    ]
    return next((name for name in others if not name.startswith(".")), "")


def require_same_revision(run: Path, objective: str, revision: int) -> None:
    """Raise PipelineError if a run was begun by an earlier version whose objective of this name was another."""
    if not is_begun(run):
        return
    found = read_config(run)
    if (
        found["config"].get("objective") == objective
        and found["made_of"].get("objective_revision", 1) != revision
    ):
        raise PipelineError(
            f"{run} was begun by an earlier version, whose objective {objective} was another one; finish the run with "
            "that version, or name a new folder"
        )
