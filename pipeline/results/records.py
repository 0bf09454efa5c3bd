"""The result of an evaluated system, read from its metrics.json and checked."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.errors import PipelineError, WrongUse, suggest

FORMAT = 1
ID_DIGITS = 16  # of the ids that are recorded and shown
ROLES = ("teacher", "student", "scratch", "untrained", "pixels")
METRICS = ".metrics.json"
AGAIN = "run `python cli.py eval` again to replace it"


@dataclass(frozen=True, kw_only=True)
class Result:
    """One evaluated system: its metrics, as fractions, and their provenance."""

    name: str
    role: str = "student"
    metrics: Mapping[str, float]
    provenance: Mapping[str, Any] = field(default_factory=dict)


def load_metrics(path: Path) -> Result:
    """Read a metrics.json.

    Raises:
        WrongUse: there is no such file.
        PipelineError: the file is not a result of format 1.
    """
    if not path.is_file():
        raise WrongUse(f"there is no {path}; run `python cli.py eval` on that run or cache first")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise PipelineError(f"{path} is not JSON ({error}); {AGAIN}") from None
    version = content.get("format") if isinstance(content, dict) else None
    if version != FORMAT:
        raise PipelineError(f"{path} has format {version!r}, expected {FORMAT}; {AGAIN}")
    name, metrics = content.get("name"), content.get("metrics")
    if not isinstance(name, str) or not isinstance(metrics, dict):
        raise PipelineError(f"{path} has no name or no metrics; {AGAIN}")
    for metric, value in metrics.items():
        if type(value) not in (int, float) or not math.isfinite(value):
            raise PipelineError(f"{path} has {value!r} for {metric}, expected a finite number; {AGAIN}")
    role = content.get("role", "student")
    if role not in ROLES:
        known = ", ".join(ROLES)
        raise PipelineError(f"{path} has role {role!r}, expected one of {known}{suggest(str(role), ROLES)}")
    provenance = content.get("provenance", {})
    if not isinstance(provenance, dict):
        raise PipelineError(f"the provenance in {path} is not an object; {AGAIN}")
    return Result(name=name, role=role, metrics=metrics, provenance=provenance)


def metrics_path(target: Path) -> Path:
    """Return the path of the metrics of a run, a cache or a metrics file; of a path where nothing is, by its suffix.

    A cache NAME.zarr has NAME.metrics.json beside it, one with any other name NAME.metrics.json with NAME in full.
    """
    if target.suffix == ".json":
        return target
    if is_run(target):
        return target / "metrics.json"
    if target.suffix == ".zarr":
        return target.with_suffix(METRICS)
    return target.with_name(target.name + METRICS) if is_store(target) else target / "metrics.json"


def is_run(path: Path) -> bool:
    """Whether there is a run folder at a path, of a run begun or finished."""
    return (path / "config.json").exists()


def is_store(path: Path) -> bool:
    """Whether there is a store at a path, sound or not."""
    return (path / "zarr.json").exists()
