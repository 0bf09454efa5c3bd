"""Specification of a backbone that can be sent to another process."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from pipeline.models.backbone import Backbone
from pipeline.models.layer_features import at_layer
from pipeline.models.student_file import load_run_student
from pipeline.teachers.registry import load_teacher


@dataclass(frozen=True, kw_only=True)
class BackboneSpec:
    """A teacher by name, or the student of a run folder; optionally one of its inner layers."""

    kind: Literal["teacher", "run"]
    name: str = ""
    weights: Path | None = None
    image_size: int | None = None
    run: Path | None = None
    layer: str | None = None

    def resolve(self) -> "BackboneSpec":
        """Return the spec with absolute paths, for processes with another working directory."""
        weights, run = self.weights and self.weights.resolve(), self.run and self.run.resolve()
        return replace(self, weights=weights, run=run)

    def origin(self) -> dict[str, str]:
        """Return the user's name for the backbone, recorded in stores beside the identity, which has only hashes."""
        if self.run is not None:
            return {"run": self.run.name}
        return {"name": self.name} | ({"file": self.weights.name} if self.weights else {})

    def load(self) -> Backbone:
        """Load the backbone on the CPU. Raises WrongUse or PipelineError."""
        if self.kind == "run":
            assert self.run is not None
            backbone = load_run_student(self.run, image_size=self.image_size)
        else:
            backbone = load_teacher(self.name, self.weights, image_size=self.image_size)
        return at_layer(backbone, self.layer) if self.layer else backbone
