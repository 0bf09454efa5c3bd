"""Evaluated systems: what a metrics.json holds, read and checked."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.errors import PipelineError, WrongUse, suggest

FORMAT = 1


ROLES = ("teacher", "student", "scratch", "untrained", "pixels")


@dataclass(frozen=True, kw_only=True)
class Result:
    """One evaluated system: accuracies as fractions, and where they come from."""

    name: str
    role: str = "student"
    metrics: Mapping[str, float]
    provenance: Mapping[str, Any] = field(default_factory=dict)


def load_metrics(path: Path) -> Result:
    """The result that a metrics.json holds.

    Raises:
        WrongUse: there is no such file.
        PipelineError: it is not a result of format 1.
    """
    if not path.is_file():
        raise WrongUse(f"there is no {path}; run `python cli.py eval` on that run or cache first")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise PipelineError(f"{path} is not JSON ({error}); evaluate again to write it anew") from None
    version = found.get("format") if isinstance(found, dict) else None
    if version != FORMAT:
        raise PipelineError(
            f"{path} has format {version!r}, expected {FORMAT}; evaluate again to write it anew"
        )
    name, metrics = found.get("name"), found.get("metrics")
    if not isinstance(name, str) or not isinstance(metrics, dict):
        raise PipelineError(f"{path} has no name or no metrics; evaluate again to write it anew")
    for metric, value in metrics.items():
        if type(value) not in (int, float) or not math.isfinite(value):
            raise PipelineError(
                f"{path} has {value!r} for {metric}, expected a finite number; evaluate again"
            )
    role = found.get("role", "student")
    if role not in ROLES:
        known = ", ".join(ROLES)
        raise PipelineError(f"{path} has role {role!r}, expected one of {known}{suggest(str(role), ROLES)}")
    provenance = found.get("provenance", {})
    if not isinstance(provenance, dict):
        raise PipelineError(
            f"{path} does not say where its numbers come from; evaluate again to write it anew"
        )
    return Result(name=name, role=role, metrics=metrics, provenance=provenance)


def metrics_of(target: Path) -> Path:
    """Where a run, a cache or a metrics file has its metrics."""
    if target.suffix == ".json":
        return target
    return target.with_suffix(".metrics.json") if target.suffix == ".zarr" else target / "metrics.json"
